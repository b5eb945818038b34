r"""Approximate modes with bounds, for samples whose whole kernel does not fit into memory.

**The factor.** Randomly pivoted Cholesky factorisation (Chen, Epperly, Tropp and Webber 2023; in
blocks with rejection, Epperly, Tropp and Webber 2024) evaluates the kernel's diagonal and k of its
columns. It gives :math:`F \in R^{N \times k}` with a positive semidefinite remainder
:math:`E = \tilde K - F F^\top`. The rows of F are features of the samples. The modes of their
cross-correlation are the approximate modes.

**The remainder.** Let P be the exchange of the views with s = N, or any symmetric operator with its
scale s. With :math:`A = [F, E^{1/2}]` the kernel is :math:`\tilde K = A A^\top`, and the γ are the
eigenvalues of

.. math:: \frac{1}{s} A^\top P A = \begin{pmatrix} \Lambda & H^\top \\ H & D \end{pmatrix},

in the basis of the approximate modes. Λ holds their eigenvalues, and H has their residuals
:math:`h_l = E^{1/2} P F y_l / s` as columns. All that is known of D is that its eigenvalues lie
between -δ and δ, with :math:`\delta = \|P\| \, \|E\| / s`. Λ is a principal block, so by Cauchy's
interlacing theorem its j-th eigenvalue is at most :math:`\gamma_j`. With :math:`G = H^\top H` the
bounds on γ are sharper than the distance :math:`\|h\|`:

**Lower bounds.** If :math:`\Lambda + G / (\mu + \delta) \ge \mu` on the span of the first j modes,
then :math:`\gamma_j \ge \mu`: on the vectors :math:`(y, H y / (\mu + \delta))` the whole matrix is
at least μ.

**Upper bounds.** If :math:`\Lambda + G / (\mu - \delta) \le \mu` on the span of all modes but the
first j - 1, then :math:`\gamma_j \le \mu`, by the Courant-Fischer theorem and a Schur complement. G
is estimated for the first q modes only. For the modes beyond q it is at most
:math:`\|P\|^2 \|E\| F^\top F / s^2`. For any ε > 0, G is at most the sum of :math:`1 + \epsilon`
times the block of the first q modes and :math:`1 + 1 / \epsilon` times the block of the others.

**Estimates.** :math:`G_{lm} = (P F y_l)^\top E \, (P F y_m) / s^2` is estimated without bias from
sampled rows and columns of E. A jackknife over groups of samples gives the standard error of each
bound. The largest eigenvalue of an estimate is too large on average, and the smallest eigenvalue
too small, so the bounds err on the safe side. A bound on :math:`\|E\| / N` follows by Chernoff's
inequality from the largest eigenvalue of a sampled block of E.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import scipy.stats
from jaxtyping import Array, Bool, Float, Int, Key, Real

from sslstep import _atomic, _check, _terminal, gram
from sslstep._linalg import matmul
from sslstep._second_variation import negative_hessian
from sslstep.kernel_pca._krylov import inner
from sslstep.kernel_pca._modes import KernelModes, require_dim

_ROWS = 8192  # rows of the factor that are processed at a time
_COLUMNS = 128  # largest number of pivots of a block; twice as many candidates are drawn
_COMPARED = 8  # samples whose columns tell whether a folder is of the same kernel
_SAMPLED = 65_536  # largest number of sampled rows and columns of E
_BLOCK = 16_384  # samples in the block whose largest eigenvalue is computed: 1 GB in float32
_GROUPS = 64  # groups of samples for the jackknife
_TOGETHER = 8, 512  # groups, and their samples, whose entries are computed at a time
_EIGEN_TOL = 1e-2  # relative tolerance of the largest eigenvalue of a block of E
_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)  # values of ε that are tried


class ApproximateModes(NamedTuple):
    r"""Approximate leading modes of a kernel over N samples, with bounds.

    Attributes:
        modes: modes of the factor F, as :class:`KernelModes` over the k pivots:
            :math:`\psi_j(x) = c_j^\top k(x)`, with k(x) the kernel between x and the pivots. Those
            beyond the kernel's rank have γ = 0 and columns of zeros. Their eigenvalues are at most
            the exact eigenvalues, up to rounding. Their residuals are upper bounds of
            :math:`\|h_j\|`; an exact eigenvalue lies within :math:`\|h_j\|` of each of them.
            ``iterations`` is the number of factors that were tried.
        pivots: indices of the pivots among the samples, one view after the other, shape ``(k,)``.
        lower: lower bounds of the exact eigenvalues, shape ``(d,)``.
        upper: upper bounds of them, shape ``(d,)``; ``inf`` where no bound was found. Both bounds
            are of the kernel as it is computed, up to rounding: in float32 some 1e-7 of the largest
            eigenvalue.
        certified: mask of the eigenvalues whose lower bound is positive and whose upper bound
            exceeds it by a fraction of at most ``tol``, shape ``(d,)``.
        trace_left: trace of :math:`\tilde K - F F^\top`, divided by the trace of :math:`\tilde K`.
    """

    modes: KernelModes
    pivots: Int[np.ndarray, " k"]
    lower: Float[Array, " d"]
    upper: Float[Array, " d"]
    certified: Bool[np.ndarray, " d"]
    trace_left: float

    @property
    def eigenvalues(self) -> Float[Array, " d"]:
        """The middle between the bounds; the lower bound where the upper bound is infinite."""
        return jnp.where(jnp.isfinite(self.upper), (self.lower + self.upper) / 2, self.lower)

    @property
    def coefficients(self) -> Float[Array, "k d"]:
        """Coefficients c of the modes over the pivots, as columns, shape ``(k, d)``."""
        return self.modes.coefficients


class _Operator(NamedTuple):
    """The function from a block v (N, b) to P v, the norm of P, and the scale s.

    None in place of the function stands for the exchange of two views.
    """

    apply: Callable[[Array], Array] | None
    norm: float
    scale: float


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
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> ApproximateModes:
    r"""Contrastive modes of many samples from few columns of their kernel, with bounds of γ.

    The modes are :func:`contrastive_modes` of a randomly pivoted Cholesky factor of the kernel. The
    number k of its columns is multiplied by 2 or 4 until the bounds of every γ agree to ``tol``, or
    until k is ``rank``. A factor with k columns needs 2n (k + 1) entries of the kernel, O(n k²)
    operations, and memory for 2n × ``rank`` numbers. Its bounds need about k n further entries.
    The docstring of ``sslstep/kernel_pca/_approximate.py`` derives the bounds.

    Args:
        kernel_fn: a positive semidefinite kernel function, ``(x1, x2) -> (n1, n2)``, compiled like
            that of :func:`sslstep.gram.matrix`.
        x: the first view of the samples, shape ``(n, ...)``; may be memory-mapped.
        x_prime: the second view, in the order of x.
        dim: number d of modes, at most n.
        rank: largest number of columns of the factor, from d to 2n.
        tol: wanted difference of upper and lower bound of γ, relative to the lower bound.
        confidence: probability, at least, that all bounds hold.
        key: random key of the pivots and of the samples for the bounds; None: a fixed key.
        folder: folder that stores the columns as they are computed, created if it does not exist.
            The same call on the same folder continues an interrupted run, and returns bit for bit
            the result of an uninterrupted run. The diagonal and eight columns of the kernel tell
            whether the folder is of the same samples and kernel.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        :class:`ApproximateModes`; its ``certified`` tells which modes reached ``tol``.

    Raises:
        ValueError: if views have different shapes, an argument is out of range, the kernel is not
            finite or not positive, or ``folder`` holds columns of other data or settings.

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
    views = _as_views((x, x_prime), "x and x_prime")

    def exchange() -> _Operator:
        return _Operator(None, 1.0, 2 * len(views[0]))

    return _solve(kernel_fn, views, exchange, dim, rank, tol, confidence, key, folder, progress)


def approximate_growth_modes(
    kernel_fn: Callable[..., Any],
    views: Sequence[Real[Any, "n ..."]],
    loss_fn: Callable[..., Any],
    dim: int,
    *,
    embeddings: Float[Any, "N k"] | None = None,
    rank: int,
    tol: float = 1e-2,
    confidence: float = 0.99,
    key: Key[Array, ""] | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> ApproximateModes:
    r"""Growth modes of many samples from few columns of their kernel, with bounds of the rates.

    The modes are :func:`growth_modes` of a randomly pivoted Cholesky factor of the kernel. The
    method is that of :func:`approximate_modes`, with -H, the negative second derivative of the
    loss, in place of P / 2n. -H multiplies the factor's columns in blocks of ``dim``.

    Args:
        kernel_fn: a positive semidefinite kernel function, ``(x1, x2) -> (n1, n2)``, compiled like
            that of :func:`sslstep.gram.matrix`.
        views: one array ``(n, ...)`` for each view; may be memory-mapped.
        loss_fn: a JAX function from one array ``(n, d)`` for each view to a scalar.
        dim: the embedding dimension d, which is also the number of modes.
        embeddings: learned embeddings of all views, one view after the other, shape ``(N, k)``;
            None before the first step.
        rank: largest number of columns of the factor, from d to N.
        tol: wanted difference of upper and lower bound of a rate, relative to the lower bound.
        confidence: probability, at least, that all bounds hold.
        key: random key of the pivots and of the samples for the bounds; None: a fixed key.
        folder: folder that stores the columns, to continue an interrupted run.
        progress: whether to show a progress bar; None: on a terminal.

    Returns:
        :class:`ApproximateModes`, whose eigenvalues are the rates ρ. A rate of zero or less is not
        certified.

    Raises:
        ValueError: in the cases in which :func:`approximate_modes` raises it, or if
            :func:`growth_modes` rejects ``loss_fn`` or ``embeddings``.

    Example:
        >>> import jax
        >>> from sslstep import kernel_pca, losses
        >>> x = jax.random.normal(jax.random.key(0), (300, 6))
        >>> def kernel_fn(x1, x2=None):
        ...     return x1 @ (x1 if x2 is None else x2).T
        >>> loss_fn = losses.simplified_barlow_twins
        >>> views = (x, x + 0.1)
        >>> found = kernel_pca.approximate_growth_modes(kernel_fn, views, loss_fn, 2, rank=6)
        >>> bool(found.certified.all())
        True
    """
    views = _as_views(tuple(views), "views")

    def hessian() -> _Operator:
        size, dtype = len(views) * len(views[0]), jnp.result_type(float)
        found = negative_hessian(loss_fn, embeddings, size, dim, num_views=len(views), dtype=dtype)
        return _Operator(found, _norm(found, size, dtype), 1.0)

    return _solve(kernel_fn, views, hessian, dim, rank, tol, confidence, key, folder, progress)


def _as_views(given: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    views = tuple(map(gram.as_samples, given))
    shapes = [view.shape for view in views]
    if not shapes or len(set(shapes)) > 1 or not shapes[0] or not shapes[0][0]:
        got = " and ".join(map(str, shapes))
        raise ValueError(f"{name} must be views of the same samples, got shapes {got}.")
    return views


def _norm(operator: Callable[[Array], Array], size: int, dtype: Any) -> float:
    """Return an upper bound on the largest |eigenvalue| of P, about 2% above it."""

    def product(v: np.ndarray) -> np.ndarray:
        return np.asarray(operator(jnp.asarray(v.reshape(-1, 1), dtype)))[:, 0]

    linear = scipy.sparse.linalg.LinearOperator((size, size), product, dtype=dtype)
    start = np.random.default_rng(0).standard_normal(size).astype(dtype)
    if not product(start).any():
        return 0.0
    found = scipy.sparse.linalg.eigsh(
        linear, 1, which="LM", return_eigenvectors=False, tol=_EIGEN_TOL, v0=start
    )
    return (1 + 2 * _EIGEN_TOL) * float(np.abs(found[0]))


def _solve(
    kernel_fn: Callable[..., Any],
    views: tuple[Any, ...],
    operator_of: Callable[[], _Operator],
    dim: int,
    rank: int,
    tol: float,
    confidence: float,
    key: Key[Array, ""] | None,
    folder: str | os.PathLike[str] | None,
    progress: bool | None,
) -> ApproximateModes:
    size = len(views) * len(views[0])
    require_dim(dim, len(views[0]))
    if not dim <= rank <= size:
        called = "2n" if len(views) == 2 else "N"
        raise ValueError(f"rank must be between dim = {dim} and {called} = {size}, got {rank}.")
    _check.require_within("tol", tol, above=0.0)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    operator = operator_of()
    seed = np.asarray(jax.random.key_data(jax.random.key(0) if key is None else key))
    rng = np.random.default_rng(seed)
    factor = _Factor(gram.as_kernel_fn(kernel_fn), views, rank, rng, progress)
    num, tried = min(rank, max(2 * dim, 64)), 1
    kept = None
    if folder is not None:
        problem = (dim, rank, tol, confidence, seed.tolist(), operator.norm, operator.scale)
        kept = _Folder(folder, problem, factor)
        num, tried = kept.restore(factor, num, tried)
    # The bounds of each factor fail with a probability that halves from factor to factor, so the
    # probability that any fails is at most 1 - confidence.
    while True:
        exhausted = not factor.extend(num, partial(kept.save, tried=tried) if kept else None)
        risk = (1 - confidence) / 2**tried
        found = _certified(factor, operator, dim, tol, risk, exhausted=exhausted)
        if found.certified.all() or exhausted or num >= rank:
            iterations = jnp.asarray(tried, jnp.int32)
            return found._replace(modes=found.modes._replace(iterations=iterations))
        gap = float(jnp.max(found.upper / found.lower)) - 1
        num, tried = min(rank, num * (4 if not gap < 16 * tol else 2)), tried + 1
        if kept:
            kept.save(factor, factor.num, num, tried)


class _Folder:
    """A folder with the columns of a factor, and the state from which its computation continues."""

    def __init__(self, folder: Any, problem: tuple[Any, ...], factor: "_Factor") -> None:
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr((problem, str(factor.dtype))).encode())
        digest.update(factor.left.tobytes())
        # Many kernels have the same diagonal for any samples.
        compared = np.linspace(0, factor.size - 1, _COMPARED, dtype=np.int64)
        for at in factor.slices(_ROWS):
            digest.update(factor.kernel(at, compared).tobytes())
        self.problem = digest.hexdigest()

    def save(self, factor: "_Factor", start: int, num: int, tried: int) -> None:
        """Write the columns from `start` on, then the state, whose file is renamed atomically.

        `num` is the number of columns to compute, and `tried` the number of factors tried so far.
        """
        if start < factor.num:
            np.save(self.folder / f"columns-{start}.npy", factor.rows[:, start : factor.num])
        state: dict[str, Any] = {
            "problem": self.problem,
            "rng": json.dumps(factor.rng.bit_generator.state),
            "left": factor.left,
            "pivots": factor.pivots[: factor.num],
            "at": [num, tried],
        }
        _atomic.write(self.folder / "state.npz", lambda file: np.savez(file, **state))

    def restore(self, factor: "_Factor", num: int, tried: int) -> tuple[int, int]:
        """Read the state and the columns of an interrupted run into `factor`.

        Return the number of columns to compute and the number of factors tried; the given numbers
        if the folder has no state. Raise ValueError if it holds another problem.
        """
        path = self.folder / "state.npz"
        if not path.exists():
            return num, tried
        with np.load(path) as state:
            if str(state["problem"]) != self.problem:
                raise ValueError(
                    f"folder = {self.folder} holds the columns of a call with other data or "
                    f"settings: name another folder."
                )
            pivots = state["pivots"]
            factor.left, factor.num = state["left"], len(pivots)
            factor.pivots[: len(pivots)] = pivots
            factor.rng.bit_generator.state = json.loads(str(state["rng"]))
            num, tried = (int(value) for value in state["at"])
        start = 0
        while start < factor.num:
            columns = np.load(self.folder / f"columns-{start}.npy", mmap_mode="r")
            factor.rows[:, start : start + columns.shape[1]] = columns
            start += columns.shape[1]
        return num, tried


class _Factor:
    """A growing factor F with K̃ ≈ F Fᵀ, its pivots, and the diagonal of E = K̃ - F Fᵀ.

    All are in units of `unit`, a power of 4 near the mean of K̃'s diagonal, so that squares of
    entries stay in the range of the dtype, and division by the unit or by its root is exact.
    """

    def __init__(self, kernel_fn: Any, views: Any, rank: int, rng: Any, progress: Any) -> None:
        self.kernel_fn, self.samples = kernel_fn, gram.Views(views)
        self.rng, self.progress = rng, progress
        self.size, self.num = self.samples.shape[0], 0
        self.pivots = np.zeros(rank, np.int64)
        self.unit = 1.0
        first = self.kernel(np.arange(1), np.arange(1))
        self.dtype = first.dtype
        self.rows = np.zeros((self.size, rank), self.dtype)
        self.left = self._diagonal()
        if not (np.isfinite(self.left).all() and (self.left >= 0).all()):
            raise ValueError("kernel_fn must be finite and >= 0 between a sample and itself.")
        mean = float(self.left.mean())
        if mean > 0:
            self.unit = 4.0 ** int(np.clip(round(np.log2(mean) / 2), -60, 60))
        self.left /= self.unit
        self.trace = float(self.left.sum())

    def kernel(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the kernel between samples over `unit`, in the dtype of the factor.

        Samples are given by their indices, one view after the other.
        """
        values = np.asarray(self.kernel_fn(self.samples[first], self.samples[second]))
        # Without x64 JAX would compute in float32 what NumPy has in float64.
        dtype = jax.dtypes.canonicalize_dtype(values.dtype)
        return (values / self.unit).astype(dtype, copy=False)

    def slices(self, rows: int) -> Iterator[np.ndarray]:
        """Yield slices of all samples' indices, of equal length.

        The last slice is padded with the last sample.
        """
        rows = -(-self.size // -(-self.size // rows))
        for start in range(0, self.size, rows):
            yield np.minimum(np.arange(start, start + rows), self.size - 1)

    def _diagonal(self) -> np.ndarray:
        alone = jax.jit(jax.vmap(lambda one: self.kernel_fn(one[None], one[None])[0, 0]))
        parts = (alone(self.samples[at])[: self.size - at[0]] for at in self.slices(_ROWS))
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    def extend(self, num: int, save: Callable[..., None] | None) -> bool:
        """Add columns until there are `num`; return False if the kernel's rank is smaller."""
        eps = float(jnp.finfo(self.dtype).eps)
        with _terminal.progress_bar(self.progress, total=num - self.num, desc="columns") as bar:
            while self.num < num:
                total = float(self.left.sum())
                if total <= 10 * eps * self.trace:
                    return False
                drawn = self.rng.choice(self.size, 2 * _COLUMNS, p=self.left / total)
                taken = self._take(drawn, min(_COLUMNS, num - self.num))
                if not taken:  # the remainder is rounding
                    return False
                bar.update(taken)
                if save is not None:
                    save(self, self.num - taken, num)
        return True

    def _take(self, drawn: np.ndarray, most: int) -> int:
        """Add the columns of accepted pivots, at most `most`; return their number.

        `drawn` are candidates. Rejection sampling accepts pivots with the distribution of pivots
        drawn one after the other.
        """
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
        kept = kept[: 2 ** (len(kept).bit_length() - 1)]  # powers of two: few shapes to compile
        pivots, root = drawn[kept], lower[kept, : len(kept)]
        columns = slice(self.num, self.num + len(kept))
        width = min(-(-max(self.num, 1) // 256) * 256, self.rows.shape[1])
        solver = scipy.linalg.solve_triangular(root, np.eye(len(kept)), lower=True).T
        solver = solver.astype(self.dtype)
        for at in self.slices(_ROWS):
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

    def products(self, operator: _Operator) -> tuple[np.ndarray, np.ndarray]:
        """Return FᵀPF / s and FᵀF / N, in float64."""
        crossed = np.zeros((self.num, self.num))
        if operator.apply is None:
            # Sum and difference of both views need two symmetric products instead of three.
            half, difference = self.size // 2, np.zeros_like(crossed)
            first, second = self.rows[:half, : self.num], self.rows[half:, : self.num]
            for start in range(0, half, _ROWS):
                rows = slice(start, start + _ROWS)
                for total, part in (
                    (crossed, first[rows] + second[rows]),
                    (difference, first[rows] - second[rows]),
                ):
                    total += part.T @ part  # BLAS computes half of a symmetric product
            both = (crossed - difference) / 2, (crossed + difference) / 2
            return both[0] / operator.scale, both[1] / self.size
        squared = self._transposed(self.rows[:, : self.num]) / self.size
        for start in range(0, self.num, _COLUMNS):
            columns = slice(start, min(start + _COLUMNS, self.num))
            image = np.asarray(operator.apply(jnp.asarray(self.rows[:, columns])))
            crossed[:, columns] = self._transposed(image)
        return (crossed + crossed.T) / (2 * operator.scale), squared

    def _transposed(self, block: np.ndarray) -> np.ndarray:
        """Return FᵀB for a block B (N, b), in float64."""
        total = np.zeros((self.num, block.shape[1]))
        for start in range(0, self.size, _ROWS):
            rows = slice(start, start + _ROWS)
            part = inner(self.rows[rows, : self.num], block[rows])
            total += np.asarray(part, np.float64)
        return total

    def images(self, operator: _Operator, vectors: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the rows `at` of P F y, for vectors y as columns."""
        if operator.apply is None:
            partner = (at + self.size // 2) % self.size
            return self.rows[partner, : self.num] @ vectors.astype(self.dtype)
        functions = self.rows[:, : self.num] @ vectors.astype(self.dtype)
        return np.asarray(operator.apply(jnp.asarray(functions)))[at]

    def left_between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the entries of E = K̃ - F Fᵀ between samples, given by their indices."""
        known = self.rows[first, : self.num], self.rows[second, : self.num]
        return np.asarray(_left(self.kernel(first, second), *known))


@jax.jit
def _columns(values, rows, pivots, solver):
    return matmul(_left(values, rows, pivots), solver)


@jax.jit
def _left(values, first, second):
    return values.astype(first.dtype) - matmul(first, second.T)


def _certified(
    factor: _Factor, operator: _Operator, dim: int, tol: float, risk: float, *, exhausted: bool
) -> ApproximateModes:
    crossed, squared = factor.products(operator)
    eigenvalues, vectors = (part[..., ::-1] for part in np.linalg.eigh(crossed))
    # Modes beyond the kernel's rank have γ = 0, and come before those with negative γ.
    missing = min(dim, factor.size - factor.num) if exhausted else 0
    if missing:
        eigenvalues = np.append(eigenvalues, np.zeros(missing))
        order = np.argsort(-eigenvalues, kind="stable")
        eigenvalues = eigenvalues[order]
        vectors = np.pad(vectors, [(0, 0), (0, missing)])[:, order]
    num = min(4 * dim + 16, len(eigenvalues))
    ritz = eigenvalues[:dim]
    lower, upper, residuals = ritz.copy(), ritz.copy(), np.zeros(dim)
    if factor.left.sum() > 0:
        sample = _sample(factor, operator, vectors[:, :num])
        lower, upper, residuals = _bounds(
            sample, operator, factor.size, eigenvalues, vectors, squared, dim, risk
        )
    root = factor.rows[factor.pivots[: factor.num], : factor.num].astype(np.float64)
    coefficients = scipy.linalg.solve_triangular(
        root, vectors[:, :dim], lower=True, trans="T", check_finite=False
    )
    unit, images = factor.unit, root @ vectors[:, :dim]
    gammas, beside, low, high = (
        jnp.asarray(each * unit, factor.dtype) for each in (ritz, residuals, lower, upper)
    )
    c, images = (
        jnp.asarray(each, factor.dtype) for each in (coefficients * unit**-0.5, images * unit**0.5)
    )
    return ApproximateModes(
        KernelModes(gammas, c, beside, jnp.zeros((), jnp.int32), images),
        factor.pivots[: factor.num].copy(),
        low,
        high,
        (lower > 0) & (upper - lower <= tol * lower),
        float(factor.left.sum()) / factor.trace if factor.trace else 0.0,
    )


class _Sample(NamedTuple):
    """Estimates from sampled rows and columns of E."""

    num: int  # number of rows of the sampled block
    mean: float  # tr E / N
    largest: float  # estimate of ‖E‖ / N: largest eigenvalue of the block over its number of rows
    coupling: np.ndarray  # estimate of G, (q, q)
    without: np.ndarray  # estimates of G that leave out one group each, (groups, q, q)


def _sample(factor: _Factor, operator: _Operator, vectors: np.ndarray) -> _Sample:
    """Estimate ‖E‖ and G from sampled entries of E.

    Row i is drawn with the probability p_i = E_ii / tr E, and has the weight 1 / (N p_i).
    """
    size, total = factor.size, float(factor.left.sum())
    members = max(int(min(_SAMPLED, (factor.num * size) ** 0.5)) // _GROUPS, 1)
    drawn = factor.rng.choice(size, _GROUPS * members, p=factor.left / total)
    weights = total / (size * factor.left[drawn])
    values = factor.images(operator, vectors, drawn) * (size / operator.scale * weights[:, None])
    values = values.astype(factor.dtype)
    blocked = max(min(_BLOCK // members, _GROUPS), 1) * members
    block = np.zeros((blocked, blocked), factor.dtype)
    shares = np.zeros((_GROUPS, vectors.shape[1], vectors.shape[1]))  # of G, by group
    # Small groups are taken 2, 4 or 8 at a time.
    most, samples = _TOGETHER
    together = min(most, 2 ** (max(samples // members, 1).bit_length() - 1))
    own = np.kron(np.eye(together), np.ones((members, members))).astype(bool)
    for g in range(0, _GROUPS, together):
        for h in range(g, _GROUPS, together):
            first, second = (slice(i * members, (i + together) * members) for i in (g, h))
            left = factor.left_between(drawn[first], drawn[second])
            if second.stop <= blocked:
                scale = (weights[first, None] * weights[None, second]) ** 0.5
                block[first, second] = left * scale
                block[second, first] = block[first, second].T
            if g == h:
                left = np.where(own, 0, left)  # G is estimated from pairs of different groups
            shares[g : g + together] += _by_group(left, values[first], values[second], together)
            if h > g:
                shares[h : h + together] += _by_group(
                    left.T, values[second], values[first], together
                )
    shares += shares.swapaxes(1, 2)
    largest = 0.0
    if block.any():  # ARPACK rejects zeros
        start = np.ones(len(block), block.dtype)
        found = scipy.sparse.linalg.eigsh(
            block, 1, return_eigenvectors=False, tol=_EIGEN_TOL, v0=start
        )
        largest = float(found[0]) / len(block)
    # Each pair of groups counts in the shares of both groups.
    whole, pairs = shares.sum(axis=0) / 2, _GROUPS * (_GROUPS - 1) * members**2
    without = (whole - shares) / (pairs * (_GROUPS - 2) / _GROUPS)
    # The eigensolver approaches the largest eigenvalue from below.
    largest = (1 + 2 * _EIGEN_TOL) * max(largest, 0.0)
    return _Sample(len(block), total / size, largest, whole / pairs, without)


@partial(jax.jit, static_argnums=3)
def _by_group(left, first, second, groups):
    """Return Vᵀ E W for the rows V of each group of the first values, and all second values W."""
    first, image = (jnp.stack(jnp.split(a, groups)) for a in (first, matmul(left, second)))
    return matmul(first.swapaxes(1, 2), image)


def _bounds(
    sample: _Sample,
    operator: _Operator,
    size: int,
    eigenvalues: np.ndarray,
    vectors: np.ndarray,
    squared: np.ndarray,
    dim: int,
    risk: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the first `dim` eigenvalues, and upper bounds of ‖h‖.

    `risk` is the probability with which a bound may fail.
    """
    num = len(sample.coupling)  # q
    # Chernoff's inequality: the mean of m numbers in [0, L] with expectation λ is below λ - t with
    # probability at most exp(-m t² / 2Lλ). The numbers are (uᵀφ_i)², with u the leading eigenvector
    # of E.
    slack = sample.mean * np.log(2 / risk) / (2 * sample.num)
    error = (slack**0.5 + (slack + sample.largest) ** 0.5) ** 2
    ratio = operator.norm * size / operator.scale
    delta = error * ratio
    quantile = scipy.stats.t.ppf(1 - risk / (6 * dim), _GROUPS - 1)

    def slip(y: np.ndarray, at: slice) -> float:
        """Return the half width of the confidence interval of the estimate of yᵀGy."""
        seen = np.einsum("i,gij,j->g", y, sample.without[:, at, at], y)
        spread = ((seen - seen.mean()) ** 2).sum()
        return float(quantile * ((_GROUPS - 1) / _GROUPS * spread) ** 0.5)

    leading, tail = np.diag(eigenvalues[:num]), eigenvalues[num:]
    shares = {0.0: -np.inf}
    if len(tail):
        bound = error * ratio**2 * (vectors[:, num:].T @ squared @ vectors[:, num:])
        shares = {
            share: _largest_of_rest(tail, (1 + 1 / share) * bound, delta) for share in _SHARES
        }
    lower, upper, residuals = eigenvalues[:dim].copy(), np.full(dim, np.inf), np.zeros(dim)
    for j in range(dim):
        others = slice(j, num)
        for share, rest in shares.items():
            matrix = (1 + share) * sample.coupling[others, others]
            value, y = _upper_root(leading[others, others], matrix, delta)
            value += (1 + share) * slip(y, others) / (value - delta)
            upper[j] = min(upper[j], max(value, rest, lower[j]))
            if value >= rest:
                break  # a larger ε would only increase the bound
        first = slice(0, j + 1)
        value, y = _lower_root(leading[first, first], sample.coupling[first, first], delta)
        lower[j] = max(lower[j], value - slip(y, first) / max(value + delta, delta))
        squared_norm = sample.coupling[j, j] + slip(np.ones(1), slice(j, j + 1))
        residuals[j] = max(squared_norm, 0.0) ** 0.5
    # γ descends with j, and so must its bounds.
    upper, lower = np.minimum.accumulate(upper), np.maximum.accumulate(lower[::-1])[::-1]
    return lower, np.maximum(upper, lower), residuals


def _upper_root(matrix: np.ndarray, coupling: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
    """Return the largest μ that is an eigenvalue of Λ + G / (μ - δ), and its eigenvector.

    With G = L Lᵀ it is the largest eigenvalue of [[Λ, L], [Lᵀ, δ]], by the Schur complement.
    """
    num = len(matrix)
    values, vectors = _bordered(matrix, coupling, delta, 2 * num - 1)
    if values[0] > 1.01 * delta:
        return float(values[0]), _unit(vectors[:num, 0])
    # Near δ an error of G has an unbounded effect. A larger μ is a safe upper bound.
    largest = [num - 1] * 2
    vectors = scipy.linalg.eigh(matrix + 100 * coupling / delta, subset_by_index=largest)[1]
    return 1.01 * delta, vectors[:, 0]


def _lower_root(matrix: np.ndarray, coupling: np.ndarray, delta: float) -> tuple[float, np.ndarray]:
    """Return the smallest μ > -δ that is an eigenvalue of Λ + G / (μ + δ), and its eigenvector.

    If Λ has n rows, the n smallest eigenvalues of [[Λ, L], [Lᵀ, -δ]] are at most -δ, and the next
    one is μ.
    """
    num = len(matrix)
    values, vectors = _bordered(matrix, coupling, -delta, num)
    return float(values[0]), _unit(vectors[:num, 0])


def _bordered(
    matrix: np.ndarray, coupling: np.ndarray, corner: float, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenpair of [[Λ, L], [Lᵀ, corner]] at `index` in ascending order, L Lᵀ = G."""
    squares, axes = scipy.linalg.eigh(coupling)
    factor = axes * np.sqrt(np.maximum(squares, 0))  # negative eigenvalues are rounding
    bordered = np.block([[matrix, factor], [factor.T, corner * np.eye(len(matrix))]])
    return scipy.linalg.eigh(bordered, subset_by_index=[index, index])


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return the vector scaled to length 1; the first unit vector if it is zero."""
    length = np.linalg.norm(vector)
    return vector / length if length else np.eye(len(vector))[0]


def _largest_of_rest(eigenvalues: np.ndarray, bound: np.ndarray, delta: float) -> float:
    """Return the smallest μ with Λ + G / (μ - δ) ≤ μ on the modes beyond q, by bisection.

    `eigenvalues` are those of Λ, and `bound` is an upper bound of G.
    """

    def holds(value: float) -> bool:
        matrix = np.diag(value - eigenvalues) - bound / (value - delta)
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return False
        return True

    low = max(float(eigenvalues[0]), delta)
    high = low + 2 * delta + np.trace(bound) ** 0.5
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
