r"""Modes of a kernel: those learned by self-supervised learning, and those of kernel PCA."""

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Real, UInt32

from sslstep import _check, _terminal
from sslstep._linalg import computed_in
from sslstep.kernel_pca import _dense, _krylov, _products

#: A kernel over 2n samples: an array, on the host, on one device, or sharded by rows; or a function
#: from a block v of shape (2n, b) to K̃ v.
Kernel = Real[Any, "N N"] | Callable[[Array], Array]


SOLVERS = ("auto", "krylov", "dense")

#: Number of samples up to which the dense solver takes a fraction of a second.
SMALL = 500

#: Number of samples up to which the dense solver takes some minutes and 5 GB.
LARGEST_DENSE = 8192


class KernelModes(NamedTuple):
    r"""Leading modes of a kernel over N samples, in descending order.

    The function of mode j is :math:`\psi_j(x) = c_j^\top k(x)`, where k(x) is the kernel between x
    and the samples. Its squared RKHS norm is :math:`c_j^\top \tilde K c_j = 1`.

    Attributes:
        eigenvalues: γ, or the rates ρ of :func:`growth_modes`, shape ``(k,)``.
        coefficients: c as **columns**, shape ``(N, k)``. A mode beyond the kernel's rank has γ = 0
            and a column of zeros.
        residuals: :math:`\|P \tilde K c_j - s \gamma_j c_j\| / (s \|c_j\|)`, shape ``(k,)``, in the
            units of γ. For :func:`contrastive_modes` s is N and P the exchange of views, for
            :func:`principal_modes` s is N and P the identity, for :func:`growth_modes` s is 1 and
            P is -H.
        iterations: number of products of a block with the kernel. For ``dense`` it is 0, or 1 if a
            function was converted to an array.
        images: :math:`\tilde K c_j`, the modes' functions on the samples, as columns, shape
            ``(N, k)``.
    """

    eigenvalues: Float[Array, " k"]
    coefficients: Float[Array, "N k"]
    residuals: Float[Array, " k"]
    iterations: Int[Array, ""]
    images: Float[Array, "N k"]


def contrastive_modes(
    kernel: Kernel,
    dim: int,
    *,
    num_views: int = 2,
    centre: bool = False,
    solver: Literal["auto", "krylov", "dense"] = "auto",
    num_pairs: int | None = None,
    dtype: Any = None,
    tol: float | None = None,
    max_iterations: int = 100,
    block_size: int | None = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> KernelModes:
    r"""The modes that self-supervised learning with a kernel learns (Proposition 5.1).

    With P the exchange of the two views, :math:`K_\Gamma = \tilde K^{1/2} P \tilde K^{1/2} / 2n`
    (Eq. 23). In terms of :math:`c = \tilde K^{-1/2} b`, with b an eigenvector of :math:`K_\Gamma`,
    the eigenproblem is

    .. math:: P \tilde K c_j = 2 n \gamma_j c_j, \qquad c_j^\top \tilde K c_j = 1 .

    It is exact for singular kernels and accurate in float32, unlike the printed form. The γ are the
    nonzero eigenvalues of Γ in the kernel's feature space, and :func:`embed` turns the modes into
    embeddings.

    With V views of n samples, N = V n, each view forms a pair with every other view of its sample.
    On the V views of a sample P is the matrix :math:`(J - I) / (V - 1)`, where J is all ones, and
    2n becomes N. With ``centre`` the mean of each view's embeddings is subtracted: P is multiplied
    by this projection, and Γ is the cross-covariance.

    The solvers:

    - ``"krylov"`` multiplies blocks of vectors by the kernel until the residuals meet ``tol``. If
      rounding is amplified in the modes, one or a few more products give them in a basis that does
      not amplify it. It needs neither the kernel as an array nor a copy of it.
    - ``"dense"`` decomposes the whole kernel, in float64 unless the kernel is traced. It alone can
      be differentiated or used within `jit`.
    - ``"auto"`` is ``dense`` for up to N = 500 samples (a function is converted to an array first),
      for traced arrays, and for arrays in 16 bits with N ≤ 8192. Otherwise it is ``krylov``,
      followed by ``dense`` if an array with N ≤ 8192 does not converge. A function with more than
      500 samples that does not converge is an error.

    Values are zero if they are below a threshold relative to the largest eigenvalue of K̃ or the
    largest \|γ\|. For ``krylov`` it is 10 eps. For ``dense`` it is the larger of 2n eps of the
    dtype in which it computes, and the largest shift by rounding of the entries, half an eps of the
    kernel's dtype times its Frobenius norm. For either solver, the error of :math:`\gamma_j` from
    rounding is of order :math:`\epsilon \|\tilde K\| \, \gamma_j \|c_j\|^2`.

    Args:
        kernel: K̃ over the samples ``[X, X']`` in this order (Eq. 22), symmetric and positive
            semidefinite, shape ``(2n, 2n)``; with V views, one after the other, ``(N, N)``. It is a
            JAX array, which may be sharded by rows; a NumPy array, which may be memory-mapped, and
            is read in blocks of rows; or a function from a block v, ``(2n, b)``, to K̃ v, which
            needs ``num_pairs``.
        dim: number of modes d ≤ n; :math:`K_\Gamma` has at most n positive eigenvalues.
        num_views: V ≥ 2.
        centre: whether Γ is the cross-covariance.
        solver: ``"auto"``, ``"krylov"`` or ``"dense"``.
        num_pairs: the number of samples n, for a kernel given as a function, with any V.
        dtype: dtype of the blocks, for a kernel given as a function; None: the default float.
        tol: largest residual of a mode in ``krylov``, relative to its γ. Errors of γ are of the
            order of its square; those of the subspace too, divided by the square of its relative
            gap. Default: 1e-3 in float32, 1e-6 in float64. The allowance for rounding is added: 4
            eps (in float64 100 eps) times the largest eigenvalue of K̃ over 2n.
        max_iterations: largest number of products of a block with the kernel.
        block_size: number of columns of a block, more than ``dim``. Default: d + max(8, d / 4). A
            larger block takes fewer products with more work each.
        key: random key of the first block; a fixed key by default, so that results are
            reproducible.
        folder: folder that keeps each product of a block with the kernel in a file, created if it
            does not exist. The same call continues an interrupted solve, and returns bit for bit
            the modes of an uninterrupted one. Calls with another ``dim``, ``tol`` or
            ``max_iterations`` share the products, of 2n ``block_size`` numbers each. ``dense`` does
            not use it.
        progress: whether to show a progress bar with the number of products and the largest
            residual over its limit; None: on a terminal, if a solve takes more than 10 s.

    Returns:
        :class:`KernelModes` with d modes. Modes are defined up to sign, and modes with equal γ up
        to rotation. If fewer than d eigenvalues are positive, the others are zero or negative,
        their modes are never learned, and a warning is issued.

    Raises:
        ValueError: if the kernel is not symmetric, positive semidefinite and finite over V n
            samples, an argument is out of range, ``krylov`` is used within `jit`, or ``folder``
            holds products with another kernel. Rounding admits negative eigenvalues up to 20 eps of
            float32 times the Frobenius norm of K̃. ``krylov`` sees only the eigenvalues of the
            space spanned by its blocks, and can miss a negative eigenvalue far smaller than the
            leading eigenvalues.
        TypeError: if d is not an integer.
        sslstep.kernel_pca.ConvergenceError: if ``krylov`` does not meet ``tol`` within
            ``max_iterations``, or if the kernel's dtype does not resolve d modes.
        sslstep.train.InUseError: if another process works in ``folder``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import kernel_pca, linear
        >>> features = jax.random.normal(jax.random.key(0), (40, 6))
        >>> modes = kernel_pca.contrastive_modes(features @ features.T, dim=2)
        >>> gamma = linear.cross_correlation(features[:20], features[20:])
        >>> bool(jnp.allclose(modes.eigenvalues, linear.modes(gamma, 2).eigenvalues, rtol=1e-5))
        True
    """
    _check.require_within("num_views", num_views, at_least=2)
    size = require_kernel(kernel, num_views, num_pairs)
    require_dim(dim, size // num_views)
    options = Options(solver, dtype, tol, max_iterations, block_size, key, folder, progress)
    modes = leading_modes(kernel, size, dim, options, Exchange(num_views, centre), size)
    warn_if_few(modes.eigenvalues, "are never learned, and the loss is at least {}")
    return modes


def principal_modes(
    kernel: Kernel,
    dim: int,
    *,
    solver: Literal["auto", "krylov", "dense"] = "auto",
    num_samples: int | None = None,
    dtype: Any = None,
    tol: float | None = None,
    max_iterations: int = 100,
    block_size: int | None = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> KernelModes:
    r"""The kernel's own leading modes: kernel PCA without centring.

    .. math:: K c_j = N \gamma_j c_j, \qquad c_j^\top K c_j = 1

    :func:`contrastive_modes` returns these modes for two identical views of N samples
    (Section 5.2). For different views they are the baseline of comparisons.

    Args:
        kernel: K over N samples, symmetric and positive semidefinite: an array ``(N, N)``, or a
            function from a block ``(N, b)`` to its product with K. See :func:`contrastive_modes`.
        dim: number of modes d ≤ N.
        solver: ``"auto"``, ``"krylov"`` or ``"dense"``: see :func:`contrastive_modes`.
        num_samples: N, for a kernel given as a function.
        dtype: dtype of the blocks, for a kernel given as a function; None: the default float.
        tol: largest residual of a mode, relative to its γ, in the Krylov solver.
        max_iterations: largest number of products of a block with the kernel.
        block_size: number of columns of a block, more than ``dim``.
        key: random key of the first block; a fixed key by default.
        folder: folder that keeps the products, to continue an interrupted solve.
        progress: whether to show a progress bar; None: on a terminal, after 10 s.

    Returns:
        :class:`KernelModes` with d modes.

    Raises:
        ValueError: if the kernel is not square, not symmetric, not positive semidefinite, or not
            finite; or if another argument is out of range.
        sslstep.kernel_pca.ConvergenceError: if the Krylov solver does not meet ``tol``.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import kernel_pca
        >>> kernel_pca.principal_modes(jnp.diag(jnp.array([1.0, 8.0, 4.0, 0.0])), 2).eigenvalues
        Array([2., 1.], dtype=float32)
    """
    size = _require_square(kernel, num_samples, "num_samples")
    if not 1 <= dim <= size:
        raise ValueError(f"dim must be between 1 and N = {size}, got {dim}.")
    options = Options(solver, dtype, tol, max_iterations, block_size, key, folder, progress)
    return leading_modes(kernel, size, dim, options, Exchange(num_views=1), size)


def require_dim(dim: int, num: int) -> None:
    """Raise TypeError unless `dim` is an integer, and ValueError unless 1 <= dim <= `num`.

    `num` is n, the number of positive pairs, or of samples that have more than two views.
    """
    if not hasattr(dim, "__index__"):
        raise TypeError(f"dim must be an integer, got {dim!r}.")
    if not 1 <= dim <= num:
        raise ValueError(
            f"dim must be between 1 and n = {num}, got {dim}: over n pairs K_Γ has at most n "
            f"positive eigenvalues."
        )


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["num_views", "centre"])
@dataclass(frozen=True)
class Exchange:
    """The function v → P v: each view becomes the mean of the other views of its sample.

    A single view is returned unchanged. With `centre`, the mean of each view is subtracted first.
    """

    num_views: int
    centre: bool = False

    @jax.jit
    def __call__(self, v: Array) -> Array:
        views = v.reshape(self.num_views, -1, v.shape[1])
        if self.centre:
            views = views - views.mean(axis=1, keepdims=True)
        if self.num_views == 2:
            views = views[::-1]
        elif self.num_views > 2:
            views = (views.sum(axis=0, keepdims=True) - views) / (self.num_views - 1)
        return views.reshape(v.shape)


class Options(NamedTuple):
    """Options of the solvers, as in :func:`contrastive_modes`."""

    solver: str
    dtype: Any
    tol: float | None
    max_iterations: int
    block_size: int | None
    key: Any
    folder: str | os.PathLike[str] | None
    progress: bool | None


def require_kernel(kernel: Kernel, num_views: int, num_pairs: int | None) -> int:
    """Check the kernel's shape and return the number N = V n of its rows."""
    size = None if num_pairs is None else num_views * num_pairs
    size = _require_square(kernel, size, "num_pairs")
    if size % num_views:
        wanted = "n pairs, of shape (2n, 2n)"
        if num_views != 2:
            wanted = f"n samples in num_views = {num_views} views, of shape (N, N) with N = V n"
        raise ValueError(f"kernel must be over {wanted}, got {(size, size)}.")
    return size


def _require_square(kernel: Kernel, size: int | None, size_name: str) -> int:
    """Return the kernel's number of rows: from an array's shape, or `size` for a function."""
    if callable(kernel):
        if size is None:
            raise ValueError(f"a kernel given as a function needs {size_name}.")
        return size
    rows, columns = _check.require_matrix("kernel", kernel, "(2n, 2n)")
    if rows != columns or (size is not None and size != rows):
        wanted = "square" if size is None else f"of shape {(size, size)}, as {size_name} says"
        raise ValueError(f"kernel must be {wanted}, got shape {(rows, columns)}.")
    return rows


def leading_modes(
    kernel: Kernel,
    size: int,
    dim: int,
    options: Options,
    operator: Callable[[Array], Array],
    scale: float,
) -> KernelModes:
    """Return the leading `dim` modes of P K̃ c = s γ c, by the solver that `options` select.

    `kernel` is K̃ and `size` its number N of rows. `operator` is P, a symmetric operator and a
    pytree, and `scale` is s.
    """
    if getattr(kernel, "shared", False):
        return _led(kernel, size, dim, options, operator, scale)
    _check.require_one_of("solver", options.solver, SOLVERS)
    if options.solver == "dense" and callable(kernel):
        raise ValueError("solver='dense' needs the kernel as an array, got a function.")
    width = dim + max(8, dim // 4) if options.block_size is None else options.block_size
    _check.require_within("block_size", width, at_least=dim + 1)
    _check.require_within("max_iterations", options.max_iterations, at_least=3)
    if options.tol is not None:
        _check.require_within("tol", options.tol, above=0.0)
    dense = partial(_by_eigh, dim=dim, operator=operator, scale=scale)
    small = options.solver == "auto" and size <= SMALL
    if not callable(kernel):
        if options.dtype is not None:
            raise ValueError("dtype is for a kernel given as a function; an array has its own.")
        traced = not _check.is_concrete(kernel)
        if traced and options.solver == "krylov":
            raise ValueError(
                "solver='krylov' runs until it has converged and cannot be traced by jit, vmap "
                "or grad: use solver='dense' there."
            )
        if traced or small or options.solver == "dense":
            return dense(kernel)
    multiply, dtype = _as_function(kernel, options.dtype)
    can_be_dense = options.solver == "auto" and not callable(kernel) and size <= LARGEST_DENSE
    if jnp.finfo(dtype).bits < 32:
        if can_be_dense:
            return dense(kernel)
        raise ValueError(
            f"solver='krylov' does not converge in {dtype}: give the kernel in float32 or float64, "
            f"or use solver='dense'."
        )
    problem = _krylov.Problem(multiply, operator, float(scale), dtype)
    with contextlib.ExitStack() as stack:
        if options.folder is not None:
            vector = jnp.asarray(np.random.default_rng(0).standard_normal((size, 1)), dtype)
            probe = getattr(kernel, "probe", partial(_krylov.multiply, problem))(vector)
            multiply = stack.enter_context(_products.kept(options.folder, multiply, probe))
            problem = problem._replace(matmul=multiply)
        if small:
            modes = dense(_krylov.multiply(problem, jnp.eye(size, dtype=dtype)))
            return modes._replace(iterations=jnp.ones((), jnp.int32))
        try:
            return _by_krylov(problem, size, dim, min(width, size), options)
        except _krylov.ConvergenceError:
            if not can_be_dense:
                raise
    return dense(kernel)


def _led(
    kernel: Any,
    size: int,
    dim: int,
    options: Options,
    operator: Callable[[Array], Array],
    scale: float,
) -> KernelModes:
    """Return the modes of a kernel of several processes: the first runs the solver."""
    dtype = block_dtype(kernel, options.dtype)
    rows, values = jnp.zeros((size, dim), dtype), jnp.zeros(dim, dtype)
    like = KernelModes(values, rows, values, jnp.zeros((), jnp.int32), rows)

    def solve(multiply: Callable[[Array], Array]) -> KernelModes:
        return leading_modes(multiply, size, dim, options, operator, scale)

    return _products.led(kernel, solve, like, dtype)


def _by_krylov(
    problem: _krylov.Problem, size: int, dim: int, width: int, options: Options
) -> KernelModes:
    dtype, multiply = problem.dtype, problem.matmul
    single = jnp.finfo(dtype).bits < 64
    tol = (1e-3 if single else 1e-6) if options.tol is None else options.tol
    key = jax.random.key(0) if options.key is None else options.key
    start = jax.random.normal(key, (size, width), dtype)
    limits = _krylov.Limits(dim, tol, options.max_iterations, max_blocks=24)
    settings: Any = {"desc": "modes", "unit": " products", "delay": 0 if options.progress else 10}
    with _terminal.progress_bar(options.progress, **settings) as bar:

        def counted(v: Array) -> Array:
            product = multiply(v)
            bar.update()
            return product

        def report(excess: float) -> None:
            bar.set_postfix_str(f"largest residual {excess:.1e} times its limit")

        problem = problem._replace(matmul=counted)
        image = _krylov.multiply(problem, start)
        # A power of 4: division by it or by its root is exact.
        largest = float(jnp.abs(image).max())
        unit = 4.0 ** int(np.clip(round(np.log2(largest) / 2), -60, 60)) if largest > 0 else 1.0
        image = image * jnp.asarray(1 / unit, dtype)
        problem = problem._replace(unit=unit)
        ritz, iterations = _krylov.solve(problem, start, image, limits, report)
    return KernelModes(
        jnp.asarray(ritz.eigenvalues[:dim] * unit, dtype),
        ritz.vectors[:, :dim] * jnp.asarray(unit**-0.5, dtype),
        jnp.asarray(ritz.residuals[:dim] * unit, dtype),
        jnp.asarray(iterations, jnp.int32),
        ritz.images[:, :dim] * jnp.asarray(unit**0.5, dtype),
    )


def _as_function(kernel: Kernel, dtype: Any) -> tuple[Callable[[Array], Array], np.dtype]:
    """Return the function v → K̃ v, and the dtype of its blocks."""
    dtype = block_dtype(kernel, dtype)
    _check.require_available(dtype)
    if callable(kernel):
        return kernel, dtype
    if isinstance(kernel, np.ndarray):
        return partial(_multiply_rows, kernel), dtype
    return partial(_krylov.times, _check.as_float("kernel", kernel)), dtype


def block_dtype(kernel: Kernel, dtype: Any) -> np.dtype:
    """Return an array's floating dtype; for a function `dtype`, or the default float if None."""
    if callable(kernel):
        return jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
    corner = kernel[:1, :1] if isinstance(kernel, np.ndarray) else kernel  # it may be a file
    return _check.as_float("kernel", corner).dtype


def _multiply_rows(kernel: np.ndarray, v: Array) -> Array:
    """Return kernel @ v for an array on the host or in a file, some rows at a time."""
    num = max(1, int(2.0**28 / (kernel.shape[1] * kernel.itemsize)))
    parts = (jnp.asarray(kernel[i : i + num], v.dtype) for i in range(0, len(kernel), num))
    return jnp.concatenate([_krylov.times(part, v) for part in parts])


def _by_eigh(
    kernel: Any, dim: int, operator: Callable[[Array], Array], scale: float
) -> KernelModes:
    """Return the leading modes by the dense solver, in float64 unless the kernel is traced."""
    _check.require_symmetric("kernel", kernel)
    dtype = _check.as_float("kernel", kernel).dtype
    result = computed_in(dtype)

    def of(*found: Array) -> KernelModes:
        gammas, c, residuals, images = (a[..., :dim].astype(result) for a in found)
        return KernelModes(gammas, c, residuals, jnp.zeros((), jnp.int32), images)

    if not _check.is_concrete(kernel):
        return of(*_dense.solve(jnp.asarray(kernel, result), operator, scale, dtype)[:-1])
    # Without x64 a float64 NumPy kernel gives float32 results, but its entries are not rounded.
    given = getattr(kernel, "dtype", dtype)
    given = given if jnp.issubdtype(given, jnp.floating) else dtype
    with jax.enable_x64(True):
        *parts, spectrum = _dense.solve(jnp.asarray(kernel, jnp.float64), operator, scale, given)
        allowed = _krylov.entries_rounding(given, float(jnp.linalg.norm(spectrum)))
        _krylov.require_positive(float(spectrum[-1]), float(spectrum[0]), allowed)
        return of(*parts)


def warn_if_few(eigenvalues: Array, fate: str) -> None:
    """Warn if some are not positive; `fate` says what that means, with {} for their number."""
    if not _check.is_concrete(eigenvalues):
        return
    dim, missing = len(eigenvalues), int((np.asarray(eigenvalues) <= 0).sum())
    if missing:
        warnings.warn(
            f"only {dim - missing} of the top {dim} eigenvalues are positive beyond rounding: "
            f"{missing} dimension(s) of the embedding {fate.format(missing)}.",
            stacklevel=3,
        )
