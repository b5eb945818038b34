r"""Contrastive modes of more samples than their kernel has room for, with bounds.

**The factor.** Randomly pivoted Cholesky (Chen, Epperly, Tropp and Webber 2023; in blocks, with
rejection, Epperly, Tropp and Webber 2024) evaluates the kernel's diagonal and k of its columns and
gives :math:`F \in R^{N \times k}` with :math:`E = \tilde K - F F^\top` positive semidefinite. The
rows of F are features: the modes of their cross-correlation are the approximate modes.

**Lower bounds.** With :math:`A = [F, E^{1/2}]`, :math:`\tilde K = A A^\top`, and the γ are the
eigenvalues of

.. math:: \frac{1}{N} A^\top P A = \begin{pmatrix} \Lambda & H^\top \\ H & D \end{pmatrix},

in the basis of the approximate modes: Λ holds their eigenvalues, and the columns of H,
:math:`h_l = E^{1/2} P F y_l / N`, their residuals. Λ is a principal block, so by Cauchy's
interlacing its j-th eigenvalue is at most :math:`\gamma_j`.

**Upper bounds.** Leave the first j - 1 modes out, keep q - j + 1 of the others as a block, and let
:math:`\mu_0` bound the rest, which is D and the modes beyond q. Then for :math:`\mu > \mu_0`

.. math:: \sum_{l = j}^{q} \frac{\|h_l\|^2}{\mu - \Lambda_l} \le \mu - \mu_0
    \quad\Longrightarrow\quad \gamma_j \le \mu

by Courant and Fischer's theorem and a Schur complement. The sum is a number, and
:math:`\|h_l\|^2 = (P F y_l)^\top E \, (P F y_l) / N^2` is estimated without bias from sampled rows
and columns of E. :math:`\mu_0` follows from a bound on :math:`\|E\| / N`, which Chernoff's
inequality gives from the largest eigenvalue of a sampled block of E.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import scipy.stats
from jaxtyping import Array, Bool, Float, Int, Key, Real

from sslstep import _check, gram
from sslstep._linalg import matmul
from sslstep.kernel_pca._modes import KernelModes, require_dim

__all__ = ["ApproximateModes", "approximate_modes"]

_ROWS = 4096  # of the factor at a time
_COLUMNS = 128  # pivots at a time, of twice as many that are drawn
_SAMPLED = 16_384  # rows and columns of E, at most: a block of 1 GB in float32
_GROUPS = 8  # into which they fall, for a standard error


class ApproximateModes(NamedTuple):
    r"""Approximate leading modes of a kernel over 2n samples, with bounds.

    Attributes:
        modes: those of the factor, as :class:`KernelModes` over the k pivots:
            :math:`\psi_j(x) = c_j^\top k(x)`, with k(x) the kernel between x and the pivots. Their
            eigenvalues are lower bounds of γ, but for rounding. Their residuals are upper bounds of
            :math:`\|h_j\|`: in the kernel's feature space there is an eigenvalue within
            :math:`\|h_j\|` of each. ``iterations`` is the number of factors tried.
        pivots: which of the samples ``[x, x_prime]`` the pivots are, shape ``(k,)``.
        upper: upper bounds of γ, shape ``(d,)``; infinite where there is none.
        certified: whether the upper bound is within ``tol`` of the lower one, shape ``(d,)``.
        trace_left: the trace of :math:`\tilde K - F F^\top` over that of :math:`\tilde K`.
    """

    modes: KernelModes
    pivots: Int[np.ndarray, " k"]
    upper: Float[Array, " d"]
    certified: Bool[np.ndarray, " d"]
    trace_left: float

    @property
    def eigenvalues(self) -> Float[Array, " d"]:
        """Approximate γ, descending."""
        return self.modes.eigenvalues

    @property
    def lower(self) -> Float[Array, " d"]:
        """Lower bounds of γ: the approximate ones."""
        return self.modes.eigenvalues

    @property
    def coefficients(self) -> Float[Array, "k d"]:
        """c as columns."""
        return self.modes.coefficients


def approximate_modes(
    kernel_fn: Callable[..., Any],
    x: Real[Any, "n ..."],
    x_prime: Real[Any, "n_prime ..."],
    dim: int,
    *,
    rank: int,
    tol: float = 1e-2,
    confidence: float = 0.99,
    key: Key[Array, ""] | None = None,
    progress: bool | None = None,
) -> ApproximateModes:
    r"""Contrastive modes of many samples from few columns of their kernel, with bounds of γ.

    :func:`contrastive_modes` of a randomly pivoted Cholesky factor of the kernel. The factor grows,
    doubling, until every γ is known to ``tol``, or it has ``rank`` columns. A factor of k columns
    takes (k + 1) 2n entries of the kernel, O(n k²) operations and room for n k numbers; its bounds
    take k 2n entries more, at most. The head of the module says how the bounds arise.

    Args:
        kernel_fn: the kernel function, ``(x1, x2) -> (n1, n2)``, positive semidefinite; compiled,
            as for :func:`sslstep.gram.matrix`.
        x: one view, shape ``(n, ...)``; may be memory-mapped.
        x_prime: the other, in the same order.
        dim: how many modes, d ≤ n.
        rank: the most columns that the factor may have, d to 2n.
        tol: how far upper and lower bound of γ may be apart, relative to the lower one.
        confidence: that all bounds hold, together.
        key: of the pivots and of the samples that the bounds are estimated from; a fixed one by
            default.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        :class:`ApproximateModes`; those that are not certified say so.

    Raises:
        ValueError: if the views do not fit together, an argument is out of range, or the kernel is
            not finite or has a negative diagonal.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> def kernel_fn(x1, x2=None):
        ...     x2 = x1 if x2 is None else x2
        ...     return jnp.exp(-0.1 * jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1))
        >>> x = jax.random.normal(jax.random.key(0), (500, 2))
        >>> x_prime = x + 0.1 * jax.random.normal(jax.random.key(1), (500, 2))
        >>> found = kernel_pca.approximate_modes(kernel_fn, x, x_prime, 4, rank=64)
        >>> bool(found.certified.all())
        True
        >>> pivots = jnp.concatenate([x, x_prime])[found.pivots]
        >>> kernel_pca.embed(found.modes, kernel_fn(x[:3], pivots)).shape
        (3, 4)
    """
    views = tuple(
        v if isinstance(v, jax.Array | np.ndarray) else np.asarray(v) for v in (x, x_prime)
    )
    if views[0].shape != views[1].shape or not len(views[0]):
        raise ValueError(
            f"x and x_prime must be views of the same samples, got shapes {views[0].shape} and "
            f"{views[1].shape}."
        )
    size = 2 * len(views[0])
    require_dim(dim, size // 2)
    if not dim <= rank <= size:
        raise ValueError(f"rank must be between dim = {dim} and 2n = {size}, got {rank}.")
    _check.require_at_least("tol", tol, 0.0, strict=True)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    rng = np.random.default_rng(
        np.asarray(jax.random.key_data(jax.random.key(0) if key is None else key))
    )
    factor = _Factor(gram.as_kernel_fn(kernel_fn), views, rank, rng, progress)
    num, tried = min(rank, max(2 * dim, 64)), 1
    # Each factor's bounds may fail: together they do not with the confidence asked for.
    while True:
        exhausted = not factor.extend(num)
        found = _certified(factor, dim, tol, (1 - confidence) / 2**tried, rng)
        if found.certified.all() or exhausted or num >= rank:
            iterations = jnp.asarray(tried, jnp.int32)
            return found._replace(modes=found.modes._replace(iterations=iterations))
        num, tried = min(rank, 2 * num), tried + 1


class _Factor:
    """F with K̃ ≈ F Fᵀ, its pivots, and the diagonal of what is left."""

    def __init__(self, kernel_fn: Any, views: Any, rank: int, rng: Any, progress: Any) -> None:
        self.kernel_fn, self.views, self.rng, self.progress = kernel_fn, views, rng, progress
        self.size, self.num = 2 * len(views[0]), 0
        self.pivots = np.zeros(rank, np.int64)
        first = self.kernel(np.arange(1), np.arange(1))
        self.dtype = first.dtype
        self.rows = np.zeros((self.size, rank), self.dtype)
        self.left = self._diagonal()
        if not (np.isfinite(self.left).all() and (self.left >= 0).all()):
            raise ValueError("kernel_fn must be finite and >= 0 between a sample and itself.")
        self.trace = float(self.left.sum())

    def kernel(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Between samples, by their indices."""
        return np.asarray(self.kernel_fn(self._take_samples(first), self._take_samples(second)))

    def _take_samples(self, at: np.ndarray) -> Any:
        order = np.argsort(at, kind="stable")  # files are read in one direction
        first, second = np.split(at[order], [np.searchsorted(at[order], self.size // 2)])
        join = jnp.concatenate if isinstance(self.views[0], jax.Array) else np.concatenate
        both = join([self.views[0][first], self.views[1][second - self.size // 2]])
        return both[np.argsort(order, kind="stable")]

    def _slices(self, rows: int) -> Iterator[np.ndarray]:
        """Of all samples, all equally long: the last one is filled up by its last sample."""
        rows = -(-self.size // -(-self.size // rows))
        for start in range(0, self.size, rows):
            yield np.minimum(np.arange(start, start + rows), self.size - 1)

    def _diagonal(self) -> np.ndarray:
        alone = jax.jit(jax.vmap(lambda one: self.kernel_fn(one[None], one[None])[0, 0]))
        parts = (alone(self._take_samples(at))[: self.size - at[0]] for at in self._slices(_ROWS))
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    def extend(self, num: int) -> bool:
        """Until there are so many columns; False if the kernel has no more."""
        from tqdm import tqdm  # here, so that importing costs no more than JAX

        hidden = None if self.progress is None else not self.progress
        eps = float(jnp.finfo(self.dtype).eps)
        with tqdm(total=num - self.num, desc="columns", disable=hidden) as bar:
            while self.num < num:
                total = float(self.left.sum())
                if total <= 10 * eps * self.trace:
                    return False
                drawn = self.rng.choice(self.size, 2 * _COLUMNS, p=self.left / total)
                taken = self._take(drawn, min(_COLUMNS, num - self.num))
                if not taken:  # all that is left is rounding
                    return False
                bar.update(taken)
        return True

    def _take(self, drawn: np.ndarray, most: int) -> int:
        """Columns of those that rejection sampling keeps: as if drawn one after the other."""
        known = self.rows[drawn, : self.num].astype(np.float64)
        block = self.kernel(drawn, drawn).astype(np.float64) - known @ known.T
        kept: list[int] = []
        lower = np.zeros((len(drawn), len(drawn)))
        now = block.diagonal().copy()
        for i in range(len(drawn)):
            if len(kept) == most:
                break
            if self.rng.random() * self.left[drawn[i]] < now[i]:
                k = len(kept)
                lower[:, k] = (block[:, i] - lower[:, :k] @ lower[i, :k]) / now[i] ** 0.5
                now -= lower[:, k] ** 2
                now[i] = 0.0
                kept.append(i)
        if not kept:
            return 0
        kept = kept[: 2 ** (len(kept).bit_length() - 1)]  # few shapes to compile for
        pivots, root = drawn[kept], lower[kept, : len(kept)]
        columns = slice(self.num, self.num + len(kept))
        width = min(-(-max(self.num, 1) // 256) * 256, self.rows.shape[1])
        solver = scipy.linalg.solve_triangular(root, np.eye(len(kept)), lower=True).T
        solver = solver.astype(self.dtype)
        for at in self._slices(_ROWS):
            values = self.kernel(at, pivots)
            rows_known = self.rows[at, :width]
            new = np.asarray(_columns(values, rows_known, self.rows[pivots, :width], solver))
            new = new[: self.size - at[0]]
            if not np.isfinite(new).all():
                raise ValueError("kernel_fn must be finite.")
            rows = slice(at[0], at[0] + len(new))
            self.rows[rows, columns] = new
            self.left[rows] -= (new.astype(np.float64) ** 2).sum(axis=1)
        np.maximum(self.left, 0, out=self.left)
        self.left[pivots] = 0.0
        self.pivots[columns] = pivots
        self.num += len(kept)
        return len(kept)

    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """FᵀPF / N and FᵀF / N, in float64."""
        half, num = self.size // 2, self.num
        crossed, squared = np.zeros((num, num)), np.zeros((num, num))
        for start in range(0, half, _ROWS):
            rows = slice(start, min(start + _ROWS, half))
            first, second = self.rows[rows, :num], self.rows[half:][rows, :num]
            crossed += np.asarray(_transposed_product(first, second), np.float64)
            squared += np.asarray(_transposed_product(first, first), np.float64)
            squared += np.asarray(_transposed_product(second, second), np.float64)
        return (crossed + crossed.T) / self.size, squared / self.size

    def left_between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Entries of E."""
        known = self.rows[first, : self.num], self.rows[second, : self.num]
        return np.asarray(_left(self.kernel(first, second), *known))


@jax.jit
def _columns(values, rows, pivots, solver):
    left = values.astype(rows.dtype) - matmul(rows, pivots.T)
    return matmul(left, solver)


@jax.jit
def _left(values, first, second):
    return values.astype(first.dtype) - matmul(first, second.T)


@jax.jit
def _transposed_product(first, second):
    return matmul(first.T, second)


def _certified(
    factor: _Factor, dim: int, tol: float, risk: float, rng: np.random.Generator
) -> ApproximateModes:
    crossed, squared = factor.products()
    eigenvalues, vectors = (part[..., ::-1] for part in np.linalg.eigh(crossed))
    num = min(2 * dim + 16, factor.num)
    lower = eigenvalues[:dim]
    upper, residuals = lower.copy(), np.zeros(dim)
    if factor.left.sum() > 0:
        sampled = _sample(factor, vectors[:, :num], rng)
        upper, residuals = _bounds(sampled, eigenvalues, vectors, squared, num, dim, risk)
        upper = np.maximum(upper, lower)
    root = factor.rows[factor.pivots[: factor.num], : factor.num].astype(np.float64)
    coefficients = scipy.linalg.solve_triangular(
        root, vectors[:, :dim], lower=True, trans="T", check_finite=False
    )
    gammas, c, bounds, images = (
        jnp.asarray(each, factor.dtype)
        for each in (lower, coefficients, residuals, root @ vectors[:, :dim])
    )
    return ApproximateModes(
        KernelModes(gammas, c, bounds, jnp.zeros((), jnp.int32), images),
        factor.pivots[: factor.num].copy(),
        jnp.asarray(upper, factor.dtype),
        upper - lower <= tol * lower,
        float(factor.left.sum()) / factor.trace,
    )


class _Sample(NamedTuple):
    """What was seen of E: its largest eigenvalue over N, in the sample, and ‖h_l‖² by groups."""

    num: int
    mean: float  # tr E / N
    largest: float
    squares: np.ndarray  # (groups, groups, q): of groups g and h, without bias off the diagonal


def _sample(factor: _Factor, vectors: np.ndarray, rng: np.random.Generator) -> _Sample:
    """Rows i of E, drawn with the probabilities p_i = E_ii / tr E, and weighted by 1 / (N p_i)."""
    size, total = factor.size, float(factor.left.sum())
    num = int(min(_SAMPLED, (factor.num * size / 2) ** 0.5)) // _GROUPS * _GROUPS
    drawn = rng.choice(size, max(num, _GROUPS), p=factor.left / total)
    partner = (drawn + size // 2) % size  # P
    weights = total / (size * factor.left[drawn])
    values = factor.rows[partner, : factor.num].astype(np.float64) @ vectors * weights[:, None]
    starts, step = range(0, len(drawn), 1024), 1024
    left = np.block(
        [
            [factor.left_between(drawn[i : i + step], drawn[j : j + step]) for j in starts]
            for i in starts
        ]
    )
    scaled = left * (weights**0.5).astype(left.dtype) * (weights**0.5).astype(left.dtype)[:, None]
    largest = scipy.sparse.linalg.eigsh(
        scaled.astype(np.float64) if len(drawn) < 2048 else scaled,
        1, return_eigenvectors=False, tol=1e-3, v0=np.ones(len(drawn), left.dtype),
    )[0] / len(drawn)  # fmt: skip
    members = len(drawn) // _GROUPS
    parts = values.reshape(_GROUPS, members, -1)
    blocks = left.reshape(_GROUPS, members, _GROUPS, members)
    squares = np.array(
        [
            [
                np.einsum("aq,aq->q", parts[g], blocks[g, :, h] @ parts[h]) / members**2
                for h in range(_GROUPS)
            ]
            for g in range(_GROUPS)
        ]
    )
    # The iteration stops at a relative error of 1e-3, from below.
    return _Sample(len(drawn), total / size, 1.002 * float(largest), squares)


def _bounds(
    sample: _Sample,
    eigenvalues: np.ndarray,
    vectors: np.ndarray,
    squared: np.ndarray,
    num: int,
    dim: int,
    risk: float,
) -> tuple[np.ndarray, np.ndarray]:
    # Chernoff's: the mean of numbers in [0, L] of mean λ is below λ - t with probability at most
    # exp(-m t² / 2Lλ). The numbers are (uᵀφ_i)², with u the largest eigenvector of E.
    slack = sample.mean * np.log(2 / risk) / (2 * sample.num)
    error = (slack**0.5 + (slack + sample.largest) ** 0.5) ** 2
    rest = _largest_of_rest(eigenvalues[num:], vectors[:, num:], squared, error)
    quantile = scipy.stats.t.ppf(1 - risk / (4 * dim), _GROUPS - 1)
    leading = eigenvalues[:num]
    upper = [
        _upper(j, leading, rest, lambda weights: _estimate(sample.squares, weights, quantile))
        for j in range(dim)
    ]
    units = np.eye(num)[:dim]
    residuals = [max(_estimate(sample.squares, unit, quantile), 0.0) ** 0.5 for unit in units]
    return np.array(upper), np.array(residuals)


def _estimate(squares: np.ndarray, weights: np.ndarray, quantile: float) -> float:
    """An upper confidence bound of Σ_l weights_l ‖h_l‖²: a jackknife over groups."""
    pairs = squares @ weights
    np.fill_diagonal(pairs, 0.0)
    total, groups = pairs.sum(), len(pairs)
    mean = total / (groups * (groups - 1))
    without = (total - pairs.sum(0) - pairs.sum(1)) / ((groups - 1) * (groups - 2))
    deviation = ((groups - 1) / groups * ((without - without.mean()) ** 2).sum()) ** 0.5
    return float(mean + quantile * deviation)


def _largest_of_rest(
    eigenvalues: np.ndarray, vectors: np.ndarray, squared: np.ndarray, error: float
) -> float:
    """μ_0: an upper bound of the largest eigenvalue of D and the modes beyond q.

    By the same Schur complement, with HᵀH at most `error` times FᵀF / N.
    """
    if not len(eigenvalues):
        return error
    bound = error * (vectors.T @ squared @ vectors)

    def holds(value: float) -> bool:
        matrix = np.diag(value - eigenvalues) - bound / (value - error)
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return False
        return True

    low = max(float(eigenvalues[0]), error)
    return _least(holds, low, float(eigenvalues[0]) + 2 * error + np.trace(bound) ** 0.5)


def _upper(
    j: int, eigenvalues: np.ndarray, rest: float, estimate: Callable[[np.ndarray], float]
) -> float:
    """The least μ at which the condition at the head of the module holds."""

    def holds(value: float) -> bool:
        weights = np.zeros(len(eigenvalues))
        weights[j:] = 1 / (value - eigenvalues[j:])
        return bool(estimate(weights) <= value - rest)

    low = max(float(eigenvalues[j]), rest)
    return _least(holds, low, 2 * low + rest)


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number above `low` for which something holds, and for all above it."""
    for _ in range(60):
        if holds(high):
            break
        high = low + 4 * (high - low)
    else:
        return np.inf
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
