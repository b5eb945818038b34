r"""What is measured of embeddings beside their steps, with labels or without.

Each function takes embeddings as they are, a row for each sample, and returns a number. Ranks and
slopes of one spectrum are in :mod:`sslstep.measure.spectrum`; how alike two embeddings are, in
:mod:`sslstep.measure.similarity`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Real

from sslstep import _check
from sslstep._linalg import centred, matmul, singular_values
from sslstep.losses._batch import unit
from sslstep.measure.probe._probe import require_labels

__all__ = [
    "CLID",
    "clid",
    "cluster_learnability",
    "intrinsic_dimension",
    "knn_accuracy",
    "lidar",
    "pair_alignment",
    "uniformity",
]

# Rows of a matrix of distances or cosines that are in memory at once.
_ROWS = 256


def lidar(
    *views: Float[ArrayLike, "n d"],
    delta: Real[ArrayLike, ""] = 1e-4,
    eps: Real[ArrayLike, ""] = 1e-7,
) -> Float[Array, ""]:
    r"""LiDAR: how many dimensions tell samples apart despite augmentation (Thilak et al. 2023).

    The effective rank of linear discriminant analysis, of which each sample is a class and its q
    views are the members:

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\lambda_k}{\sum_l \lambda_l} +
        \epsilon, \qquad \lambda = \mathrm{eig}\, \Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2},

    .. math:: \Sigma_b = \frac1n \sum_i (\mu_i - \mu)(\mu_i - \mu)^\top, \qquad \Sigma_w =
        \frac{1}{n q} \sum_{iv} (z_{iv} - \mu_i)(z_{iv} - \mu_i)^\top + \delta I .

    It costs q n d² and d³. The publication has n = 1000 and q = 50; two views give a noisy
    :math:`\Sigma_w`. It is at most min(n - 1, d), and n should be above d. Of views that have
    nothing to do with their sample :math:`\Sigma_b` is :math:`\Sigma_w / q`, and LiDAR is near d:
    it has no floor that tells that nothing was learned. It knows the embeddings' scale by δ alone:
    of embeddings far below :math:`\sqrt\delta` it is the entropy of :math:`\Sigma_b`'s eigenvalues.

    Args:
        *views: embeddings of q views of the same samples in the same order, at least two.
        delta: δ > 0; traced.
        eps: ε ≥ 0; traced.

    Returns:
        A scalar: 1, but for ε, if all samples have one mean, as in a collapse.

    Raises:
        ValueError: if there are fewer than two views, their shapes differ or are empty, values are
            not finite, or δ or ε is out of range.

    Example:
        >>> import jax
        >>> from sslstep.measure import quality
        >>> z = jax.random.normal(jax.random.key(0), (500, 4))
        >>> noise = 0.1 * jax.random.normal(jax.random.key(1), (2, 500, 4))
        >>> round(float(quality.lidar(z + noise[0], z + noise[1])), 1)
        4.0
    """
    if len(views) < 2:
        raise ValueError(f"views must be at least two, got {len(views)}.")
    n, dim = _check.require_matrix("views[0]", views[0], "(n, d)")
    for i, view in enumerate(views):
        if _check.shape_of(view) != (n, dim):
            raise ValueError(
                f"views must have one shape, got {(n, dim)} and {_check.shape_of(view)}."
            )
        _check.require_finite(f"views[{i}]", view)
    _check.require_scalar("delta", delta, above=0.0)
    _check.require_scalar("eps", eps, at_least=0.0)
    z = jnp.stack([_check.as_precise("views", view) for view in views])
    delta, eps = (jnp.asarray(value, z.dtype) for value in (delta, eps))
    means = z.mean(axis=0)
    within = (z - means[None]).reshape(-1, dim)
    sigma_w = matmul(within.T, within) / within.shape[0] + delta * jnp.eye(dim, dtype=z.dtype)
    # Not formed: the eigenvalues are squared singular values of the whitened means.
    factor = jnp.linalg.cholesky(sigma_w)
    whitened = jax.scipy.linalg.solve_triangular(factor, centred(means).T, lower=True)
    singular = singular_values(whitened)
    shares = (singular / jnp.where(singular[0] > 0, singular[0], 1)) ** 2
    shares = jnp.pad(shares, (0, dim - shares.shape[0])) / jnp.maximum(shares.sum(), 1)
    p = shares + eps
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def uniformity(z: Float[ArrayLike, "n d"], t: Real[ArrayLike, ""] = 2.0) -> Float[Array, ""]:
    r"""How evenly embeddings lie on the unit sphere (Wang and Isola 2020); the lower, the more.

    .. math:: \log \frac{2}{n (n - 1)} \sum_{i < j} e^{-t \|u_i - u_j\|^2}, \qquad
        u_i = \frac{z_i}{\|z_i\|}

    It costs n² d, and memory for 256 n numbers. It is unbiased up to the logarithm: at any n points
    drawn evenly on the sphere have :math:`\log {}_0F_1(d / 2, t^2) - 2 t`, which for large d is
    :math:`-2 t`.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n of at least 2. A row of zeros stays one, as
            PyTorch's ``normalize`` has it.
        t: traced.

    Returns:
        A scalar: 0, the largest, if all rows have one direction, as in a collapse.

    Raises:
        ValueError: if z is not a matrix of two or more rows, values are not finite, or t is not
            positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import quality
        >>> poles = jnp.array([[1.0, 0.0], [-3.0, 0.0]])
        >>> float(quality.uniformity(poles))
        -8.0
    """
    n = _require_samples("z", z, 2)
    _check.require_scalar("t", t, above=0.0)
    z = _check.as_precise("z", z)
    t = jnp.asarray(t, z.dtype)
    u = unit(z)

    @jax.checkpoint
    def from_one(row):
        place, point = row
        cosines = jnp.minimum(matmul(u, point), 1)
        exponents = jnp.where(jnp.arange(n) == place, -jnp.inf, -2 * t * (1 - cosines))
        return jax.scipy.special.logsumexp(exponents)

    sums = jax.lax.map(from_one, (jnp.arange(n), u), batch_size=_ROWS)
    return jax.scipy.special.logsumexp(sums) - jnp.log(jnp.asarray(n * (n - 1.0), z.dtype))


def pair_alignment(
    z: Float[ArrayLike, "n d"], z_prime: Float[ArrayLike, "n d"], power: Real[ArrayLike, ""] = 2.0
) -> Float[Array, ""]:
    r"""How far apart two views of a sample lie on the unit sphere (Wang and Isola 2020).

    .. math:: \frac1n \sum_i \|u_i - u'_i\|^\alpha, \qquad u = \frac{z}{\|z\|}

    It costs n d, and is unbiased at any n. Of views that have nothing to do with each other it is
    2 at α = 2. It is 0 in a collapse too: read it beside :func:`uniformity`.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view of the same samples.
        power: α > 0; traced. Below 2 the gradient is not finite where two views coincide.

    Returns:
        A scalar, from 0 to :math:`2^\alpha`.

    Raises:
        ValueError: if the shapes differ or are empty, values are not finite, or α is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import quality
        >>> z = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> float(quality.pair_alignment(z, -z)), float(quality.pair_alignment(z, 3 * z))
        (4.0, 0.0)
    """
    n = _require_samples("z", z, 1)
    if _check.shape_of(z) != _check.shape_of(z_prime):
        raise ValueError(
            f"z and z_prime must have one shape, got {_check.shape_of(z)} and "
            f"{_check.shape_of(z_prime)}."
        )
    _check.require_finite("z_prime", z_prime)
    _check.require_scalar("power", power, above=0.0)
    z, z_prime = _check.as_floats(_check.as_precise("z", z), _check.as_precise("z_prime", z_prime))
    difference = unit(z) - unit(z_prime)
    squares = jnp.sum(difference**2, axis=1)
    return jnp.sum(squares ** (jnp.asarray(power, z.dtype) / 2)) / n


def knn_accuracy(
    features: Float[ArrayLike, "n p"],
    labels: Integer[ArrayLike, " n"],
    features_test: Float[ArrayLike, "m p"],
    labels_test: Integer[ArrayLike, " m"],
    *,
    num_classes: int,
    num_neighbours: int = 20,
    temperature: Real[ArrayLike, ""] = 0.07,
) -> Float[Array, ""]:
    r"""Accuracy of the weighted k-nearest-neighbour classifier (Wu et al. 2018; DINO).

    Of the k training samples of largest cosine s with a test sample each votes for its class with
    the weight :math:`e^{s / \tau}`; the class of the largest sum is predicted, of several the
    first. It costs n m p, and memory for 256 n numbers. Chance is the share of the commonest class;
    the standard error is :func:`sslstep.measure.probe.standard_error`'s.

    Args:
        features: of the training samples, shape ``(n, p)``. A row of zeros has the cosine 0 with
            all.
        labels: their classes 0...c-1, shape ``(n,)``.
        features_test: of the test samples, shape ``(m, p)``.
        labels_test: their classes, shape ``(m,)``.
        num_classes: c, at least 2.
        num_neighbours: k ≤ n; of several at one cosine the first count. DINO reports 10 and 20,
            Wu et al. 200.
        temperature: τ > 0; traced.

    Returns:
        A scalar in [0, 1]. Of features that are constant it is the share of the class of which
        there are most among the first k.

    Raises:
        ValueError: if shapes do not fit, values are not finite, labels are not in 0...c-1, or a
            number is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.measure import quality
        >>> labels = jnp.arange(60) % 3
        >>> noise = jax.random.normal(jax.random.key(0), (60, 3))
        >>> h = jax.nn.one_hot(labels, 3) + 0.1 * noise
        >>> train, test = (h[:30], labels[:30]), (h[30:], labels[30:])
        >>> float(quality.knn_accuracy(*train, *test, num_classes=3, num_neighbours=5))
        1.0
    """
    n = _require_samples("features", features, 1)
    m = _require_samples("features_test", features_test, 1)
    if _check.shape_of(features)[1] != _check.shape_of(features_test)[1]:
        raise ValueError(
            f"features and features_test must have one number of columns, got shapes "
            f"{_check.shape_of(features)} and {_check.shape_of(features_test)}."
        )
    _check.require_at_least("num_classes", num_classes, 2)
    labels = require_labels("labels", labels, n, num_classes)
    labels_test = require_labels("labels_test", labels_test, m, num_classes)
    _check.require_at_least("num_neighbours", num_neighbours, 1, at_most=n)
    _check.require_scalar("temperature", temperature, above=0.0)
    known, asked = _check.as_floats(
        _check.as_precise("features", features), _check.as_precise("features_test", features_test)
    )
    known, temperature = unit(known), jnp.asarray(temperature, known.dtype)

    def predicted(point):
        cosines, places = jax.lax.top_k(matmul(known, point), num_neighbours)
        votes = jnp.exp((cosines - cosines[0]) / temperature)
        return jnp.argmax(jnp.zeros(num_classes, votes.dtype).at[labels[places]].add(votes))

    found = jax.lax.map(predicted, unit(asked), batch_size=_ROWS)
    return jnp.mean(found == labels_test, dtype=known.dtype)


def intrinsic_dimension(
    z: Float[ArrayLike, "n d"], *, discard: Real[ArrayLike, ""] = 0.1
) -> Float[Array, ""]:
    r"""TwoNN: the dimension of the set that embeddings lie on (Facco et al. 2017).

    Where the density hardly changes between a sample's first and second neighbour, the ratio of
    their distances has the distribution :math:`F(\mu) = 1 - \mu^{-D}`. The estimate is the slope,
    through the origin, of the empirical :math:`-\ln(1 - F)` against :math:`\ln \mu`, without the
    largest ratios:

    .. math:: D = \frac{\sum_i x_i y_i}{\sum_i x_i^2}, \qquad x_i = \ln \mu_{(i)}, \quad
        y_i = -\ln\Big(1 - \frac in\Big), \qquad \mu = \frac{r_2}{r_1}

    It costs n² d, and memory for n d numbers; distances are of differences, without cancellation.
    Its relative standard error is about :math:`1 / \sqrt n`; beyond ten dimensions or so it is too
    low at any feasible n (16 for a Gaussian of 20 dimensions at n = 1000).

    Args:
        z: embeddings, shape ``(n, d)``, n of at least 3. Samples that coincide with another tell
            nothing, and are left out.
        discard: share of the largest ratios that are left out, in [0, 1); traced.

    Returns:
        A scalar: 0 if fewer than two samples are left, or no two of all differ, as in a collapse;
        ``inf`` if every ratio is 1.

    Raises:
        ValueError: if z is not a matrix of three or more rows, values are not finite, or
            ``discard`` is out of range.

    Example:
        >>> import jax
        >>> from sslstep.measure import quality
        >>> plane = jax.random.normal(jax.random.key(0), (1000, 2))
        >>> z = plane @ jax.random.normal(jax.random.key(1), (2, 8))
        >>> bool(abs(quality.intrinsic_dimension(z) - 2) < 0.2)
        True
    """
    n = _require_samples("z", z, 3)
    _check.require_scalar("discard", discard, at_least=0.0, below=1.0)
    z = _check.as_precise("z", z)
    discard = jnp.asarray(discard, z.dtype)

    def nearest_two(row):
        place, point = row
        squares = jnp.sum((z - point[None]) ** 2, axis=1)
        squares = jnp.where(jnp.arange(n) == place, jnp.inf, squares)
        return -jax.lax.top_k(-squares, 2)[0]

    first, second = jax.lax.map(nearest_two, (jnp.arange(n), z)).T
    known = first > 0
    ratios = jnp.where(known, second, 1) / jnp.where(known, first, 1)
    x = jnp.sort(jnp.where(known, jnp.log(ratios) / 2, jnp.inf))
    num = known.sum().astype(z.dtype)
    rank = jnp.arange(1, n + 1, dtype=z.dtype)
    kept = rank <= jnp.floor((1 - discard) * num)
    kept &= rank < num  # at the last the distribution function is 1
    x = jnp.where(kept, x, 0)
    y = -jnp.log1p(-jnp.where(kept, rank / jnp.maximum(num, 1), 0))
    return jnp.where(kept.any(), jnp.sum(x * y) / jnp.sum(x * x), 0)


def cluster_learnability(
    key: Key[Array, ""],
    z: Float[ArrayLike, "n d"],
    *,
    num_clusters: int,
    num_neighbours: int = 1,
    max_iterations: int = 100,
) -> Float[Array, ""]:
    r"""How fast a classifier learns the embeddings' own clusters (Lu et al. 2023).

    K-means gives each sample a label. Then the samples come one after the other, in their order,
    and each label is predicted from the k nearest of those that came before (of fewer at first):

    .. math:: \frac{1}{n - 1} \sum_{i = 2}^n
        \big[ y_i = \mathrm{kNN}(z_i; \{(z_j, y_j)\}_{j < i}) \big]

    It costs n² d, and n K d an iteration of K-means. Clusters are found by Lloyd's iteration from K
    samples at random, and depend on them: average over keys. Chance is :math:`\sum_c p_c^2` of the
    clusters' shares.

    Args:
        key: of the samples that K-means starts from.
        z: embeddings, shape ``(n, d)``, in random order.
        num_clusters: K, at least 2 and at most n.
        num_neighbours: k. Of classes with equal votes the first is predicted.
        max_iterations: of K-means, which stops where no label changes.

    Returns:
        A scalar in [0, 1]: 1 in a collapse, where all samples are one cluster.

    Raises:
        ValueError: if z is not a matrix of two or more rows, values are not finite, or a number is
            out of range.
        TypeError: if ``key`` is no key.

    Example:
        >>> import jax
        >>> from sslstep.measure import quality
        >>> z = jax.random.normal(jax.random.key(0), (300, 2))
        >>> learnt = quality.cluster_learnability(jax.random.key(1), z, num_clusters=4)
        >>> bool(learnt > 0.9)
        True
    """
    _check.require_key("key", key)
    n = _require_samples("z", z, 2)
    _check.require_at_least("num_clusters", num_clusters, 2, at_most=n)
    _check.require_at_least("num_neighbours", num_neighbours, 1)
    _check.require_at_least("max_iterations", max_iterations, 1)
    z = _check.as_precise("z", z)
    labels = _clusters(key, z, num_clusters, max_iterations)
    num = min(num_neighbours, n - 1)

    def predicted(row):
        place, point = row
        squares = jnp.sum((z - point[None]) ** 2, axis=1)
        squares = jnp.where(jnp.arange(n) < place, squares, jnp.inf)
        negative, places = jax.lax.top_k(-squares, num)
        votes = jnp.isfinite(negative).astype(z.dtype)
        return jnp.argmax(jnp.zeros(num_clusters, z.dtype).at[labels[places]].add(votes))

    found = jax.lax.map(predicted, (jnp.arange(1, n), z[1:]))
    return jnp.mean(found == labels[1:], dtype=z.dtype)


class CLID(NamedTuple):
    """Cluster learnability and intrinsic dimension.

    Attributes:
        learnability: from :func:`cluster_learnability`.
        dimension: from :func:`intrinsic_dimension`.
    """

    learnability: Float[Array, ""]
    dimension: Float[Array, ""]


def clid(
    key: Key[Array, ""], z: Float[ArrayLike, "n d"], *, num_clusters: int, num_neighbours: int = 1
) -> CLID:
    """Both parts of CLID: how learnable embeddings are, and how expressive (Lu et al. 2023).

    Good embeddings have both. A collapse has the first alone, 1 and 0; noise the second. The
    publication adds the two up, each brought to one scale *over the models that are compared*, so
    of one model there is no sum.

    Args:
        key: as :func:`cluster_learnability` takes it.
        z: embeddings, shape ``(n, d)``, n of at least 3, in random order.
        num_clusters: as :func:`cluster_learnability` takes it.
        num_neighbours: as :func:`cluster_learnability` takes it.

    Returns:
        :class:`CLID`.

    Raises:
        ValueError: as :func:`cluster_learnability` and :func:`intrinsic_dimension`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep.measure import quality
        >>> collapsed = quality.clid(jax.random.key(0), jnp.ones((50, 3)), num_clusters=4)
        >>> float(collapsed.learnability), float(collapsed.dimension)
        (1.0, 0.0)
    """
    learnt = cluster_learnability(key, z, num_clusters=num_clusters, num_neighbours=num_neighbours)
    return CLID(learnt, intrinsic_dimension(z))


def _clusters(key: Array, z: Array, num: int, max_iterations: int) -> Array:
    """Labels of K-means, by Lloyd's iteration from samples at random; empty clusters stay."""
    centres = z[jax.random.permutation(key, z.shape[0])[:num]]

    def nearest(centres):
        def of_one(point):
            return jnp.argmin(jnp.sum((centres - point[None]) ** 2, axis=1))

        return jax.lax.map(of_one, z, batch_size=_ROWS)

    def moved(carry):
        centres, labels, _, count = carry
        member = jax.nn.one_hot(labels, num, dtype=z.dtype)
        sizes = member.sum(axis=0)
        means = matmul(member.T, z) / jnp.maximum(sizes, 1)[:, None]
        centres = jnp.where((sizes > 0)[:, None], means, centres)
        new = nearest(centres)
        return centres, new, (new != labels).any(), count + 1

    def going(carry):
        return carry[2] & (carry[3] < max_iterations)

    start = (centres, nearest(centres), jnp.array(True), jnp.array(0))
    return jax.lax.while_loop(going, moved, start)[1]


def _require_samples(name: str, value: ArrayLike, least: int) -> int:
    n, _ = _check.require_matrix(name, value, "(n, d)")
    if n < least:
        raise ValueError(f"{name} must have at least {least} rows, got {n}.")
    _check.require_finite(name, value)
    return n
