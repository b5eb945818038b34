"""Metrics of the literature against NumPy in float64, written from the publications' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.neighbors import KNeighborsClassifier

from sslstep.measure import quality, similarity, spectrum

# n and d of each input, and how it degenerates.
SHAPES = {
    "random": (60, 7),
    "small": (60, 7),  # of 1e-9: squares of squares underflow in float32
    "rank one": (60, 7),
    "constant": (60, 7),
    "fewer samples than dimensions": (9, 14),
    "duplicates": (60, 7),
}
KINDS = [*SHAPES]


def made(kind, seed=0):
    """Two views of it, rounded to float32 so that every dtype sees the same numbers."""
    rng = np.random.default_rng(seed)
    n, d = SHAPES[kind]
    z, z_prime = rng.normal(size=(2, n, d)) * np.arange(1, d + 1) ** -0.7
    z_prime = z + 0.3 * z_prime
    if kind == "small":
        z, z_prime = 1e-9 * z, 1e-9 * z_prime
    elif kind == "rank one":
        z, z_prime = (np.outer(v[:, 0], np.exp2(np.arange(d) % 3)) for v in (z, z_prime))
    elif kind == "constant":
        z, z_prime = (np.full((n, d), 0.3) for _ in range(2))
    elif kind == "duplicates":
        z, z_prime = (np.concatenate([v[: n // 2], v[: n // 2]]) for v in (z, z_prime))
    return [v.astype(np.float32).astype(float) for v in (z, z_prime)]


def centred(z):
    rest = z - z.mean(0)
    return rest if np.ptp(z, axis=0).any() else np.zeros_like(z)


def variances(z):
    found = np.linalg.eigvalsh(np.cov(centred(z).T, bias=True))[::-1]
    return np.where(found > 1e-12 * found[0], found, 0) if found[0] > 0 else 0 * found


def unit(z):
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def participation_ratio(z):
    v = variances(z)
    return v.sum() ** 2 / (v**2).sum() if v.any() else 0.0


def nesum(z):
    v = variances(z)
    return (v / v[0]).sum() if v.any() else 0.0


def alpha_req(z, first, last):
    """As the publication's code: weighted least squares by the normal equations."""
    v = variances(z)
    ranks = np.arange(1, len(v) + 1)
    kept = (v > 0) & (ranks >= first) & (ranks <= last)
    if kept.sum() < 2:
        return np.nan
    x = np.stack([-np.log(ranks[kept]), np.ones(kept.sum())], axis=1)
    w = 1 / ranks[kept][:, None]
    return np.linalg.solve(x.T @ (x * w), (w * x).T @ np.log(v[kept]))[0]


def lidar(*views, delta=1e-4, eps=1e-7):
    z = np.stack(views, axis=1)
    n, q, d = z.shape
    mean = z.mean(1)
    sigma_w = sum(np.outer(r, r) for r in (z - mean[:, None]).reshape(-1, d)) / (n * q)
    between = centred(mean)
    sigma_b = between.T @ between / n
    values, vectors = np.linalg.eigh(sigma_w + delta * np.eye(d))
    root = vectors / np.sqrt(values) @ vectors.T
    eigenvalues = np.maximum(np.linalg.eigvalsh(root @ sigma_b @ root), 0)
    p = eigenvalues / (eigenvalues.sum() or 1) + eps
    return np.exp(-np.sum(p * np.log(p)))


def uniformity(z, t=2.0):
    u = unit(z)
    i, j = np.triu_indices(len(u), 1)
    return np.log(np.mean(np.exp(-t * np.sum((u[i] - u[j]) ** 2, axis=1))))


def pair_alignment(z, z_prime, power=2.0):
    return np.mean(np.linalg.norm(unit(z) - unit(z_prime), axis=1) ** power)


def linear_cka(a, b):
    """By Gram matrices and the centring matrix, as the publication defines HSIC."""
    n = len(a)
    h = np.eye(n) - 1 / n
    k, m = (h @ v @ v.T @ h if np.ptp(v, axis=0).any() else 0 * h for v in (a, b))
    with np.errstate(invalid="ignore"):
        return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def procrustes_distance(a, b):
    """The squared distance at the best rotation, which the singular vectors give."""
    a, b = centred(a), centred(b)
    with np.errstate(invalid="ignore"):
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    if np.isnan(a).any() or np.isnan(b).any():
        return np.nan
    u, _, v = np.linalg.svd(b.T @ a)
    return np.linalg.norm(a - b @ u @ v) ** 2


def intrinsic_dimension(z, discard=0.1):
    distances = np.linalg.norm(z[:, None] - z[None], axis=2)
    near = np.sort(distances + np.diag(np.full(len(z), np.inf)), axis=1)[:, :2]
    near = near[near[:, 0] > 0]
    n = len(near)
    if n < 2:
        return 0.0
    x = np.log(np.sort(near[:, 1] / near[:, 0]))[: int((1 - discard) * n)]
    y = -np.log(1 - np.arange(1, len(x) + 1) / n)
    return np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]


def cluster_learnability(key, z, num_clusters, num_neighbours):
    centres = z[np.asarray(jax.random.permutation(key, len(z)))[:num_clusters]]

    def nearest(centres):
        return np.argmin(np.sum((z[:, None] - centres[None]) ** 2, axis=2), axis=1)

    labels, before = nearest(centres), None
    while before is None or (labels != before).any():
        for c in range(num_clusters):
            if (labels == c).any():
                centres[c] = z[labels == c].mean(0)
        labels, before = nearest(centres), labels
    right = []
    for i in range(1, len(z)):
        order = np.argsort(np.sum((z[:i] - z[i]) ** 2, axis=1), kind="stable")[:num_neighbours]
        right.append(np.bincount(labels[order]).argmax() == labels[i])
    return np.mean(right)


PAIRS = {
    "participation_ratio": (spectrum.participation_ratio, participation_ratio, {}),
    "nesum": (spectrum.nesum, nesum, {}),
    "alpha_req": (spectrum.alpha_req, alpha_req, {"first": 1, "last": 5}),
    "uniformity": (quality.uniformity, uniformity, {}),
    "intrinsic_dimension": (quality.intrinsic_dimension, intrinsic_dimension, {}),
    "lidar": (quality.lidar, lidar, {}),
    "pair_alignment": (quality.pair_alignment, pair_alignment, {}),
    "linear_cka": (similarity.linear_cka, linear_cka, {}),
    "procrustes_distance": (similarity.procrustes_distance, procrustes_distance, {}),
}
OF_TWO_VIEWS = ("lidar", "pair_alignment", "linear_cka", "procrustes_distance")


@pytest.mark.parametrize("name", PAIRS)
def test_equals_its_definition(dtype, name):
    """To 1e-5; several inputs of one shape as one compiled program."""
    ours, theirs, settings = PAIRS[name]
    num = 2 if name in OF_TWO_VIEWS else 1
    for shape in dict.fromkeys(SHAPES.values()):
        kinds = [kind for kind in KINDS if SHAPES[kind] == shape]
        views = [made(kind)[:num] for kind in kinds]
        arrays = [jnp.asarray(view, dtype) for view in np.swapaxes(np.array(views), 0, 1)]
        if len(kinds) == 1:
            found = [ours(*(array[0] for array in arrays), **settings)]
        else:
            found = jax.jit(jax.vmap(lambda *each: ours(*each, **settings)))(*arrays)
        for kind, value, pair in zip(kinds, found, views, strict=True):
            assert value.dtype == dtype
            expected = theirs(*pair, **settings)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=kind)


def test_equals_its_definition_on_pairs_of_other_widths():
    """Two representations may differ in width; n less than one, above the other."""
    rng = np.random.default_rng(1)
    for n in (12, 40):
        a, b = (rng.normal(size=(n, d)).astype(np.float32).astype(float) for d in (5, 15))
        arrays = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
        np.testing.assert_allclose(similarity.linear_cka(*arrays), linear_cka(a, b), rtol=1e-5)
        wide = np.pad(a, ((0, 0), (0, 10)))
        expected = procrustes_distance(wide, b)
        np.testing.assert_allclose(similarity.procrustes_distance(*arrays), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "num_neighbours"), [("random", 1), *((kind, 4) for kind in KINDS)]
)
def test_cluster_learnability_equals_its_definition(x64, kind, num_neighbours):
    z, key = made(kind)[0], jax.random.key(3)
    settings = {"num_clusters": 4, "num_neighbours": num_neighbours}
    found = quality.clid(key, jnp.asarray(z), **settings)
    assert float(found.learnability) == pytest.approx(cluster_learnability(key, z, **settings))
    assert float(found.dimension) == pytest.approx(intrinsic_dimension(z), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_knn_accuracy_equals_scikit_learn(x64, kind):
    """Its weights are a function of distances: 1 - cos. Of duplicates both take the first k."""
    rng = np.random.default_rng(2)
    z, test = made(kind)
    n = len(z)
    labels, labels_test = rng.choice(3, n, p=[0.5, 0.3, 0.2]), rng.integers(0, 3, n)
    if kind == "duplicates":  # a tie at the k-th place is any peer's choice
        labels[n // 2 :] = labels[: n // 2]
    for k, temperature in ((6, 0.07), (n, 0.5)):
        if kind in ("constant", "rank one") and k != n:
            continue  # nearly all are at one distance
        peer = KNeighborsClassifier(
            k,
            weights=lambda far, t=temperature: np.exp(-far / t),
            metric="cosine",
            algorithm="brute",
        )
        expected = np.mean(peer.fit(z, labels).predict(test) == labels_test)
        arguments = [jnp.asarray(a) for a in (z, labels, test, labels_test)]
        settings = {"num_classes": 3, "num_neighbours": k, "temperature": temperature}
        assert float(quality.knn_accuracy(*arguments, **settings)) == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [-100, -60, 100])
def test_the_scale_of_embeddings_does_not_matter(exponent):
    """Squares of float32 underflow below 2^-63, and overflow above 2^64."""
    z, z_prime = made("random")
    a, b = (jnp.asarray(v * 2.0**exponent, jnp.float32) for v in (z, z_prime))
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(quality.uniformity(a), uniformity(z), **close)
    np.testing.assert_allclose(quality.pair_alignment(a, b), pair_alignment(z, z_prime), **close)
    key = jax.random.key(3)
    found = quality.clid(key, a, num_clusters=4)
    np.testing.assert_allclose(found.dimension, intrinsic_dimension(z), **close)
    np.testing.assert_allclose(found.learnability, cluster_learnability(key, z, 4, 1), **close)
    labels, labels_test = np.random.default_rng(2).integers(0, 3, (2, len(z)))
    cosines = unit(z_prime) @ unit(z).T
    near = np.argsort(-cosines, axis=1)[:, :5]
    weights = np.exp(np.take_along_axis(cosines, near, axis=1) / 0.07)
    votes = np.sum(np.eye(3)[labels[near]] * weights[:, :, None], axis=1)
    expected = np.mean(votes.argmax(axis=1) == labels_test)
    settings = {"num_classes": 3, "num_neighbours": 5}
    np.testing.assert_allclose(
        quality.knn_accuracy(a, labels, b, labels_test, **settings), expected, **close
    )


def test_rows_of_zeros():
    """Embeddings of dead networks coincide, as with PyTorch's normalize."""
    assert float(quality.uniformity(jnp.zeros((5, 3)))) == pytest.approx(0, abs=1e-6)
    z = made("random")[0]
    z[::3] = 0
    found = quality.uniformity(jnp.asarray(z, jnp.float32))
    assert float(found) == pytest.approx(uniformity(z), rel=1e-5)


def test_lidar_of_a_dimensional_collapse():
    """Views that differ along 4 of 40 directions; rounding of Sigma_w exceeds delta."""
    rng = np.random.default_rng(7)
    x, noise = rng.normal(size=(100, 4)), 0.3 * rng.normal(size=(2, 100, 4))
    views = ((x + noise) @ (100 * rng.normal(size=(4, 40)))).astype(np.float32)
    found = quality.lidar(*views)
    assert float(found) == pytest.approx(lidar(*views.astype(float)), rel=1e-4)


def test_floors_are_those_of_the_docstrings(x64):
    """Of noise: the mean of several draws, within four standard errors and 2%."""
    n, d, k = 400, 8, 12
    draws = jnp.asarray(np.random.default_rng(4).normal(size=(30, 2, n, k)))

    def mean(function, expected, rel):
        values = np.asarray(jax.jit(jax.vmap(function))(draws[:, 0, :, :d], draws[:, 1]))
        error = 4 * values.std() / len(values) ** 0.5
        assert abs(values.mean() - expected) < error + rel * abs(expected), function

    mean(lambda a, _: spectrum.participation_ratio(a), n * d / (n + d), 0.02)
    mean(similarity.linear_cka, (d * k / ((n + d) * (n + k))) ** 0.5, 0.02)
    mean(lambda a, b: quality.pair_alignment(a, b[:, :d]), 2.0, 0.0)
    on_the_sphere = np.log(scipy.special.hyp0f1(d / 2, 4.0)) - 4.0
    mean(lambda a, _: quality.uniformity(a), on_the_sphere, 0.002)
    # The asymptotic ones: n and d are finite.
    mean(lambda a, _: spectrum.nesum(a), d / (1 + (d / n) ** 0.5) ** 2, 0.1)
    mean(lambda a, b: similarity.procrustes_distance(a, b[:, :d]), 2 - 1.7 * (d / n) ** 0.5, 0.02)
    mean(lambda a, b: quality.lidar(a, b[:, :d]), d, 0.05)


@pytest.mark.parametrize("name", ["uniformity", "pair_alignment", "lidar", "nesum", "linear_cka"])
def test_gradients(x64, name):
    """Against central differences of the reference, along one direction."""
    ours, theirs, settings = PAIRS[name]
    z, z_prime = made("random")
    rest = (z_prime,) if name in OF_TWO_VIEWS else ()
    direction = np.random.default_rng(5).normal(size=z.shape)
    gradient = jax.jit(jax.grad(lambda z: ours(z, *map(jnp.asarray, rest), **settings)))
    found = np.sum(np.asarray(gradient(jnp.asarray(z))) * direction)
    h = 1e-5
    expected = (theirs(z + h * direction, *rest) - theirs(z - h * direction, *rest)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["uniformity", "participation_ratio", "lidar"])
def test_gradients_of_a_collapse_are_finite(name):
    z = jnp.ones((6, 3))
    rest = (z,) if name in OF_TWO_VIEWS else ()
    gradient = jax.jit(jax.grad(lambda z: PAIRS[name][0](z, *rest)))(z)
    assert bool(jnp.isfinite(gradient).all())


def test_sweeps_compile_nothing(count_compilations):
    z, z_prime = (jnp.asarray(v, jnp.float32) for v in made("random"))
    labels = jnp.arange(len(z)) % 3
    values = [jnp.float32(v) for v in (0.1, 0.2, 0.5)]
    for function in (
        lambda t: quality.uniformity(z, t),
        lambda power: quality.pair_alignment(z, z_prime, power),
        lambda delta: quality.lidar(z, z_prime, delta=delta),
        lambda eps: quality.lidar(z, z_prime, eps=eps),
        lambda discard: quality.intrinsic_dimension(z, discard=discard),
        lambda tau: quality.knn_accuracy(
            z, labels, z_prime, labels, num_classes=3, temperature=tau
        ),
    ):
        compiled = jax.jit(function)
        assert count_compilations(compiled, values) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: quality.lidar(z), "views must be at least two"),
        (lambda z: quality.lidar(z, z[:3]), "views must have one shape"),
        (lambda z: quality.lidar(z, z, delta=0.0), "delta must be > 0"),
        (lambda z: quality.uniformity(z[:1]), "z must have at least 2 rows, got 1"),
        (lambda z: quality.uniformity(z, -1.0), "t must be > 0"),
        (lambda z: quality.pair_alignment(z, z[:2]), "one shape"),
        (lambda z: quality.intrinsic_dimension(z, discard=1.0), "discard must be < 1"),
        (lambda z: quality.clid(jax.random.key(0), z, num_clusters=9), "num_clusters must be <= 6"),
        (lambda z: spectrum.alpha_req(z, first=3, last=3), "last must be > 3"),
        (lambda z: spectrum.nesum(z.at[0, 0].set(jnp.nan)), "z of shape .* NaN"),
        (lambda z: similarity.linear_cka(z, z[:2]), "got 6 and 2 rows"),
        (
            lambda z: quality.knn_accuracy(
                z, jnp.arange(6) % 2, z, jnp.arange(6), num_classes=2, num_neighbours=2
            ),
            "labels_test must be classes 0...1",
        ),
        (
            lambda z: quality.knn_accuracy(
                z, jnp.arange(6) % 2, z, jnp.arange(6) % 2, num_classes=2, num_neighbours=7
            ),
            "num_neighbours must be <= 6, got 7",
        ),
    ],
)
def test_rejects(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(jax.random.normal(jax.random.key(0), (6, 3)))
