r"""Quality measures of embeddings, without labels or with them.

Each function takes embeddings with one row for each sample and returns a scalar. Measures of the
spectrum are in :mod:`sslstep.measure.spectrum`, and similarity of two embeddings is in
:mod:`sslstep.measure.similarity`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Real

from sslstep import _check
from sslstep._linalg import centred, directions, matmul, of_order_one, singular_values
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

# Number of rows of a distance or cosine matrix that are in memory at a time.
_ROWS = 256


def lidar(
    *views: Float[ArrayLike, "n d"],
    delta: Real[ArrayLike, ""] = 1e-4,
    eps: Real[ArrayLike, ""] = 1e-7,
) -> Float[Array, ""]:
    r"""Return LiDAR: the number of dimensions that separate samples despite augmentation.

    LiDAR (Thilak et al. 2023) is the effective rank of linear discriminant analysis. Each of n
    samples is a class, and the embeddings :math:`z_{iv}` of its q views are the members:

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\lambda_k}{\sum_l \lambda_l} +
        \epsilon, \qquad \lambda = \mathrm{eig}\, \Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2},

    .. math:: \Sigma_b = \frac1n \sum_i (\mu_i - \mu)(\mu_i - \mu)^\top, \qquad \Sigma_w =
        \frac{1}{n q} \sum_{iv} (z_{iv} - \mu_i)(z_{iv} - \mu_i)^\top + \delta I .

    :math:`\mu_i` is the mean over the views of sample i and :math:`\mu` the mean over all samples.
    The cost is O(q n d² + d³). The publication uses n = 1000 and q = 50; two views give a noisy
    :math:`\Sigma_w`. For small ε the value is at most min(n - 1, d), so n should exceed d. A large
    value does not prove learning: views independent of their sample have :math:`\Sigma_b \approx
    \Sigma_w / q` and a LiDAR near d. The scale of the embeddings enters through δ only. For
    embeddings far below :math:`\sqrt\delta`, LiDAR is the exponential of the entropy of the
    normalised eigenvalues of :math:`\Sigma_b`.

    Args:
        *views: q ≥ 2 matrices of shape ``(n, d)``: embeddings of one view each, with the samples in
            one order.
        delta: δ > 0; traced.
        eps: ε ≥ 0; traced.

    Returns:
        A scalar. With ε = 0 it is 1 if all samples have one mean, as in a collapse.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

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
    z = jnp.stack(_check.views_of_one_shape(views))
    _check.require_scalar("delta", delta, above=0.0)
    _check.require_scalar("eps", eps, at_least=0.0)
    dim = z.shape[2]
    delta, eps = (jnp.asarray(value, z.dtype) for value in (delta, eps))
    means = z.mean(axis=0)
    within = (z - means[None]).reshape(-1, dim)
    # The eigenvalues are squared singular values of the whitened means. Neither Sigma_b nor Sigma_w
    # is formed: where views agree in some direction, rounding of Sigma_w may exceed delta.
    stacked = jnp.concatenate(
        [within / within.shape[0] ** 0.5, jnp.sqrt(delta) * jnp.eye(dim, dtype=z.dtype)]
    )
    factor = jnp.linalg.qr(stacked, mode="r")
    whitened = jax.scipy.linalg.solve_triangular(factor, centred(means).T, trans=1)
    singular = singular_values(whitened)
    shares = (singular / jnp.where(singular[0] > 0, singular[0], 1)) ** 2
    shares = jnp.pad(shares, (0, dim - shares.shape[0])) / jnp.maximum(shares.sum(), 1)
    p = shares + eps
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def uniformity(z: Float[ArrayLike, "n d"], t: Real[ArrayLike, ""] = 2.0) -> Float[Array, ""]:
    r"""Return the uniformity of embeddings on the unit sphere (Wang and Isola 2020).

    .. math:: \log \frac{2}{n (n - 1)} \sum_{i < j} e^{-t \|u_i - u_j\|^2}, \qquad
        u_i = \frac{z_i}{\|z_i\|}

    Lower values mean more evenly spread embeddings. The cost is O(n² d), with memory for 256 n
    numbers. The mean inside the logarithm is unbiased: for n points uniform on the sphere its
    logarithm is :math:`\log {}_0F_1(d / 2, t^2) - 2 t`, which tends to :math:`-2 t` for large d.

    Args:
        z: embeddings of one view, shape ``(n, d)``, n of at least 2. A row of zeros stays zero when
            normalised, as with PyTorch's ``normalize``.
        t: sharpness t > 0 of the Gaussian kernel; traced.

    Returns:
        A scalar. Its maximum, 0, is reached if all rows have one direction, as in a collapse.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import quality
        >>> poles = jnp.array([[1.0, 0.0], [-3.0, 0.0]])
        >>> float(quality.uniformity(poles))
        -8.0
    """
    z = _check.precise_matrix("z", z, "(n, d)", least=2)
    _check.require_scalar("t", t, above=0.0)
    n, t, u = len(z), jnp.asarray(t, z.dtype), directions(z)
    squares = jnp.any(u != 0, axis=1).astype(z.dtype)  # of lengths

    @jax.checkpoint
    def from_one(row):
        place, point = row
        cosines = jnp.minimum(matmul(u, point), 1)
        apart = squares + squares[place] - 2 * cosines
        exponents = jnp.where(jnp.arange(n) == place, -jnp.inf, -t * apart)
        return jax.scipy.special.logsumexp(exponents)

    sums = jax.lax.map(from_one, (jnp.arange(n), u), batch_size=_ROWS)
    return jax.scipy.special.logsumexp(sums) - jnp.log(jnp.asarray(n * (n - 1.0), z.dtype))


def pair_alignment(
    z: Float[ArrayLike, "n d"], z_prime: Float[ArrayLike, "n d"], power: Real[ArrayLike, ""] = 2.0
) -> Float[Array, ""]:
    r"""Return the mean distance of a sample's two views on the unit sphere (Wang and Isola 2020).

    .. math:: \frac1n \sum_i \|u_i - u'_i\|^\alpha, \qquad u = \frac{z}{\|z\|}

    The cost is O(n d), and the mean is unbiased at any n. Independent views, uniform on the sphere,
    have the value 2 at α = 2. A collapse has the value 0: read the result beside
    :func:`uniformity`.

    Args:
        z: embeddings of one view, shape ``(n, d)``.
        z_prime: embeddings of the other view, with the samples in the order of ``z``, shape
            ``(n, d)``.
        power: α > 0; traced. For α < 2 the gradient is not finite where two views coincide.

    Returns:
        A scalar, from 0 to :math:`2^\alpha`.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep.measure import quality
        >>> z = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> float(quality.pair_alignment(z, -z)), float(quality.pair_alignment(z, 3 * z))
        (4.0, 0.0)
    """
    first = _check.precise_matrix("z", z, "(n, d)")
    _check.require_one_shape("z and z_prime", z, z_prime)
    _check.require_scalar("power", power, above=0.0)
    second = _check.precise_matrix("z_prime", z_prime, "(n, d)")
    z, z_prime = _check.as_floats(first, second)
    difference = directions(z) - directions(z_prime)
    squares = jnp.sum(difference**2, axis=1)
    return jnp.sum(squares ** (jnp.asarray(power, z.dtype) / 2)) / len(z)


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
    r"""Return the test accuracy of the weighted k-nearest-neighbour classifier (Wu et al. 2018).

    The k training samples with the largest cosines s to a test sample vote for their class with the
    weight :math:`e^{s / \tau}`. The class with the largest sum is predicted; the first class wins a
    tie. The cost is O(n m p), with memory for 256 n numbers. The chance level is the fraction of
    the commonest class; :func:`sslstep.measure.probe.standard_error` gives the standard error.

    Args:
        features: features of the n training samples, shape ``(n, p)``. A row of zeros has cosine 0
            with every sample.
        labels: classes 0...c-1 of the training samples, shape ``(n,)``.
        features_test: features of the m test samples, shape ``(m, p)``.
        labels_test: classes 0...c-1 of the test samples, shape ``(m,)``.
        num_classes: c, the number of classes, at least 2.
        num_neighbours: k ≤ n; training samples of equal cosine count in their order. DINO reports
            k = 10 and 20, Wu et al. k = 200.
        temperature: τ > 0; traced.

    Returns:
        A scalar in [0, 1]. For constant features every test sample gets the commonest class among
        the first k training samples.

    Raises:
        ValueError: if shapes do not fit, or values, labels or numbers are out of range.

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
    known = _check.precise_matrix("features", features, "(n, p)")
    asked = _check.precise_matrix("features_test", features_test, "(m, p)")
    n, m = len(known), len(asked)
    if known.shape[1] != asked.shape[1]:
        raise ValueError(
            f"features and features_test must have one number of columns, got shapes {known.shape} "
            f"and {asked.shape}."
        )
    _check.require_within("num_classes", num_classes, at_least=2)
    labels = require_labels("labels", labels, n, num_classes)
    labels_test = require_labels("labels_test", labels_test, m, num_classes)
    _check.require_within("num_neighbours", num_neighbours, at_least=1, at_most=n)
    _check.require_scalar("temperature", temperature, above=0.0)
    known, asked = _check.as_floats(known, asked)
    known, temperature = directions(known), jnp.asarray(temperature, known.dtype)

    def predicted(point):
        cosines, places = jax.lax.top_k(matmul(known, point), num_neighbours)
        votes = jnp.exp((cosines - cosines[0]) / temperature)
        return jnp.argmax(jnp.zeros(num_classes, votes.dtype).at[labels[places]].add(votes))

    found = jax.lax.map(predicted, directions(asked), batch_size=_ROWS)
    return jnp.mean(found == labels_test, dtype=known.dtype)


def intrinsic_dimension(
    z: Float[ArrayLike, "n d"], *, discard: Real[ArrayLike, ""] = 0.1
) -> Float[Array, ""]:
    r"""Return TwoNN: the dimension D of the manifold that embeddings lie on (Facco et al. 2017).

    Let :math:`\mu = r_2 / r_1` be the ratio of a sample's distances to its second and first
    neighbour. If the density is constant up to the second neighbour, the ratio has the distribution
    function :math:`F(\mu) = 1 - \mu^{-D}`. The estimate is the slope, through the origin, of the
    empirical :math:`-\ln(1 - F)` against :math:`\ln \mu`, without the largest ratios:

    .. math:: D = \frac{\sum_i x_i y_i}{\sum_i x_i^2}, \qquad x_i = \ln \mu_{(i)}, \quad
        y_i = -\ln\Big(1 - \frac in\Big), \qquad \mu = \frac{r_2}{r_1}

    :math:`\mu_{(i)}` is the i-th smallest of n ratios. The cost is O(n² d), with memory for n d
    numbers; distances are computed from differences, without cancellation. The relative standard
    error is about :math:`1 / \sqrt n`. Above about ten dimensions the estimate is too low at any
    feasible n (16 for a Gaussian of 20 dimensions at n = 1000).

    Args:
        z: embeddings, shape ``(n, d)``, n of at least 3. Samples that coincide with another sample
            are left out.
        discard: fraction of the ratios, the largest, that is left out, in [0, 1); traced.

    Returns:
        A scalar: 0 if no ratio remains, as in a collapse; ``inf`` if every remaining ratio is 1.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Example:
        >>> import jax
        >>> from sslstep.measure import quality
        >>> plane = jax.random.normal(jax.random.key(0), (1000, 2))
        >>> z = plane @ jax.random.normal(jax.random.key(1), (2, 8))
        >>> bool(abs(quality.intrinsic_dimension(z) - 2) < 0.2)
        True
    """
    z = _check.precise_matrix("z", z, "(n, d)", least=3)
    _check.require_scalar("discard", discard, at_least=0.0, below=1.0)
    n, discard, z = len(z), jnp.asarray(discard, z.dtype), of_order_one(z)

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
    kept &= rank < num  # at the largest ratio F = 1
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
    r"""Return how well a classifier predicts the embeddings' own clusters online (Lu et al. 2023).

    K-means assigns each sample i a cluster label :math:`y_i`. The label of each sample is then
    predicted by its k nearest neighbours among the preceding samples (all of them, if fewer than k
    precede). The result is the accuracy:

    .. math:: \frac{1}{n - 1} \sum_{i = 2}^n
        \big[ y_i = \mathrm{kNN}(z_i; \{(z_j, y_j)\}_{j < i}) \big]

    The cost is O(n² d), plus O(n K d) for each iteration of K-means. Lloyd's iteration starts from
    K random samples, and the clusters depend on them: average over keys. The chance level is
    :math:`\sum_c p_c^2` with the fraction :math:`p_c` of samples in cluster c.

    Args:
        key: random key of the samples that K-means starts from.
        z: embeddings, shape ``(n, d)``, in random order, n of at least 2.
        num_clusters: K, the number of clusters, at least 2 and at most n.
        num_neighbours: k, the number of neighbours; the first cluster wins a tie of votes.
        max_iterations: largest number of K-means iterations; K-means stops once no label changes.

    Returns:
        A scalar in [0, 1]. A collapse puts all samples into one cluster and has the value 1.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.
        TypeError: if ``key`` is not a random key.

    Example:
        >>> import jax
        >>> from sslstep.measure import quality
        >>> z = jax.random.normal(jax.random.key(0), (300, 2))
        >>> learnt = quality.cluster_learnability(jax.random.key(1), z, num_clusters=4)
        >>> bool(learnt > 0.9)
        True
    """
    _check.require_key("key", key)
    z = of_order_one(_check.precise_matrix("z", z, "(n, d)", least=2))
    n = len(z)
    _check.require_within("num_clusters", num_clusters, at_least=2, at_most=n)
    _check.require_within("num_neighbours", num_neighbours, at_least=1)
    _check.require_within("max_iterations", max_iterations, at_least=1)
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
        learnability: the result of :func:`cluster_learnability`, in [0, 1].
        dimension: the result of :func:`intrinsic_dimension`.
    """

    learnability: Float[Array, ""]
    dimension: Float[Array, ""]


def clid(
    key: Key[Array, ""], z: Float[ArrayLike, "n d"], *, num_clusters: int, num_neighbours: int = 1
) -> CLID:
    """Return both parts of CLID: cluster learnability and intrinsic dimension (Lu et al. 2023).

    :func:`cluster_learnability` is the accuracy with which a sample's neighbours predict its
    K-means cluster. :func:`intrinsic_dimension` is the TwoNN estimate of the dimension of the
    manifold of embeddings. Good embeddings have both parts large. A collapse has learnability 1 and
    dimension 0; noise has low learnability and a large dimension. The publication adds the two
    parts after rescaling each over all compared models, which a single model does not allow.

    Args:
        key: random key of the samples that K-means starts from.
        z: embeddings, shape ``(n, d)``, n of at least 3. The samples must be in random order,
            because each is predicted from the preceding ones.
        num_clusters: number of K-means clusters, at least 2 and at most n.
        num_neighbours: number of neighbours that predict a cluster label.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.
        TypeError: if ``key`` is not a random key.

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
    """Return K-means labels (n,) by Lloyd's iteration; an empty cluster keeps its centre."""
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
