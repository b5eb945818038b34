r"""A block Krylov iteration for the leading modes of P K̃, in the inner product of K̃.

The problem is :math:`P \tilde K c = s \gamma c`. In the inner product
:math:`\langle u, v \rangle = u^\top \tilde K v` the operator :math:`T = P \tilde K / s` is
self-adjoint for any symmetric P, and only products with P are needed. Let V be a basis that is
orthonormal in this inner product, and :math:`W = \tilde K V`. The projection of T is
:math:`H = W^\top P W / s`, and its eigenpairs (γ, y) give the Ritz pairs :math:`(\gamma, V y)`.
Each iteration multiplies one block by K̃ and adds it to the basis. The next block holds the
residuals of the leading Ritz pairs.

Columns of V with a short K̃-norm before normalisation become long, and amplify rounding: errors of
W of size :math:`\epsilon \|\tilde K\|` are multiplied by their lengths. The error of :math:`\tilde
K c` is :math:`\epsilon \|\tilde K\|` times :math:`(\sum_i y_i^2 \|v_i\|^2)^{1/2}`, and that of a
single product :math:`\epsilon \|\tilde K\| \|c\|`. If the ratio is more than a small factor, the
modes are computed again in a basis Z that is orthonormal in the ordinary inner product, with one
more product. Z spans the images :math:`\tilde K c` and their products with P, which are multiples
of the c. Each mode therefore lies in Z, although Z need not be invariant under P. With
:math:`Z^\top \tilde K Z = B B^\top` and :math:`P_Z = Z^\top P Z`, the problem is that of the dense
solver, :math:`B^\top P_Z B y = s \gamma y, \; c = Z P_Z B y / s \gamma`, in a few dimensions. If
residuals remain, they and their products with P extend Z. They can fall to :math:`\epsilon \|P\|
\|\tilde K\| / s`, the rounding of one product.

The first block is :math:`P \tilde K` times a random block. All blocks then lie in the range of
:math:`P \tilde K`, as c does, and K̃ may be singular.

Blocks are on the device in the kernel's dtype. The projected problems, a few hundred wide, are
solved on the host in float64, by SciPy. NumPy's own BLAS would be a second pool of threads, which
compete with SciPy's and XLA's: on a busy machine an eigendecomposition of 62 rows by NumPy took
200 ms, by SciPy 0.3 ms.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep._linalg import matmul

#: Largest factor by which rounding in returned modes may exceed the rounding of one product.
AMPLIFICATION = 4.0


class ConvergenceError(RuntimeError):
    """The Krylov iteration did not meet its tolerance; the message states the residual reached."""


class Problem(NamedTuple):
    """The eigenproblem P K̃ c = s γ c with cᵀ K̃ c = 1.

    Attributes:
        matmul: the function from a block v, shape (N, b), to K̃ v.
        operator: the function from a block v to P v, for a symmetric P.
        scale: s.
        dtype: dtype of the blocks. It must hold squares of products with K̃ / unit.
        unit: the number by which K̃ is divided.
    """

    matmul: Callable[[Array], Array]
    operator: Callable[[Array], Array]
    scale: float
    dtype: np.dtype
    unit: float = 1.0


class Ritz(NamedTuple):
    """Approximate modes.

    Attributes:
        eigenvalues: γ, descending, shape (b,); on the host, in float64.
        vectors: c as columns, shape (N, b); columns beyond the rank of K̃ are zeros.
        images: K̃ c, shape (N, b).
        rounding: the length at which K̃ c is rounded, (Σ y² ‖v‖²)^½, shape (b,); on the host.
        lengths: ‖c‖, shape (b,); on the host.
        residuals: ‖P K̃ c − s γ c‖ / (s ‖c‖), shape (b,); on the host.
        rest: P K̃ c − s γ c, shape (N, b).
    """

    eigenvalues: np.ndarray
    vectors: Array
    images: Array
    rounding: np.ndarray
    lengths: np.ndarray
    residuals: np.ndarray
    rest: Array


class Limits(NamedTuple):
    """Conditions for the end of the iteration.

    Attributes:
        num: number of leading modes that must converge.
        tol: largest residual relative to γ.
        max_iterations: largest number of products with K̃.
        max_blocks: number of blocks at which the basis is restarted from the Ritz vectors.
    """

    num: int
    tol: float
    max_iterations: int
    max_blocks: int


def solve(
    problem: Problem,
    start: Array,
    image: Array,
    limits: Limits,
    report: Callable[[float], Any] = lambda excess: None,
) -> tuple[Ritz, int]:
    """Return the leading modes and the number of products with K̃.

    `start` is a random block, shape (N, b), and `image` is K̃ times `start`. `report` is called with
    the largest residual over its limit, whenever residuals are computed.
    """
    block, iteration = problem.operator(image), 1
    basis, looks = _Basis(problem, *_sizes(start, image)), _Looks()
    while True:
        more = basis.extend(block)
        iteration += 1
        room = iteration + 2 <= limits.max_iterations  # for one more, and one in `_polish`
        going_on = more and room and len(basis.v) < limits.max_blocks
        if going_on and not looks.due(iteration):
            block = basis.turned
            continue
        ritz = basis.ritz()
        looks.record(iteration, _excess(ritz, limits, basis))
        report(looks.excess)
        if looks.excess <= 1 and _is_accurate(ritz, limits, problem):
            return ritz, iteration
        if going_on and looks.excess > 1 and not looks.stalled:
            block = ritz.rest
            continue
        ritz, products = _polish(ritz, limits, basis, limits.max_iterations - iteration)
        iteration += products
        if _excess(ritz, limits, basis) <= 1:
            return ritz, iteration
        if not more or iteration + 2 > limits.max_iterations:
            raise ConvergenceError(_failure(ritz, limits, basis, iteration, more))
        block, basis, looks = ritz.rest, basis.restarted(ritz), _Looks()


class _Looks:
    """Schedule of the iterations at which residuals are computed.

    Convergence is geometric, so two residuals predict the iteration at which they are small enough.
    """

    def __init__(self) -> None:
        self.excess = np.inf
        self.stalled = False  # True if accumulated rounding stops convergence until a restart
        self.iteration = 0
        self.next = 0

    def due(self, iteration: int) -> bool:
        """Return whether to compute residuals now; the first time is after a few blocks."""
        if not self.next:
            self.next = iteration + 4
        return iteration >= self.next

    def record(self, iteration: int, excess: float) -> None:
        """Record the largest residual over its limit, and schedule the next check of residuals."""
        ahead = 2.0
        if np.isfinite(self.excess) and 1 < excess < self.excess:
            rate = np.log(self.excess / excess) / (iteration - self.iteration)
            ahead = np.log(excess) / rate
        self.stalled = excess > self.excess / 2
        self.excess, self.iteration = excess, iteration
        self.next = iteration + int(np.clip(np.ceil(ahead), 1, 6))


class _Basis:
    """The basis V, its image W = K̃ V, and the projection H, in blocks of one shape.

    Negligible directions of a block are dropped: their columns are zeros.
    """

    def __init__(self, problem: Problem, largest: float, frobenius: float) -> None:
        self.problem = problem
        self.largest = largest  # largest Ritz value of K̃ so far, the scale for negligible values
        self.frobenius = frobenius  # estimate of the norm of K̃, the scale of rounding of entries
        self.v: list[Array] = []
        self.w: list[Array] = []
        self.turned = jnp.zeros(())  # P W of the last block
        self.strength = 0.0  # largest factor by which P has lengthened a column
        self.live = np.zeros(0, bool)
        self.rounding = np.zeros(0)  # lengths at which the columns of W are rounded
        self.h = np.zeros((0, 0))

    def extend(self, block: Array) -> bool:
        """Orthonormalise a block and add it; return False if it lies in the span of the basis."""
        block = orthonormal(self._project(normalised(block)))
        image = multiply(self.problem, block)
        for v, w in zip(self.v, self.w, strict=True):
            block, image = subtract_both(block, image, v, w)
        # In float64: the small eigenvalues of this Gram matrix decide how long V becomes.
        gram, square = (np.asarray(a, np.float64) for a in grams(block, image))
        values, vectors = scipy.linalg.eigh((gram + gram.T) / 2)
        self.largest = max(self.largest, float(values[-1]))
        # Rayleigh quotients, because an oblique projection lengthens vectors; lengths below 1 are
        # rounding.
        squares = np.sum(vectors * (square @ vectors), axis=0)
        self.require_positive(float((values / np.maximum(squares, 1)).min()))
        kept = values > _negligible(self.problem) * self.largest
        scale = np.where(kept, np.where(kept, values, 1) ** -0.5, 0)
        turn = jnp.asarray(vectors * scale, self.problem.dtype)
        block, image, *norms = turned_both(block, image, turn)
        turned = self.problem.operator(image)
        self.v.append(block)
        self.w.append(image)
        self.turned = turned
        new = [inner(old, turned) for old in self.w]
        norms += [jnp.linalg.norm(turned, axis=0)]
        new, (lengths, before, after) = jax.device_get((new, norms))
        if kept.any():
            self.strength = max(self.strength, float((after[kept] / before[kept]).max()))
        row = np.concatenate(new).astype(np.float64) / self.problem.scale
        old = len(self.h)
        row[old:] = (row[old:] + row[old:].T) / 2
        self.h = np.block([[self.h, row[:old]], [row[:old].T, row[old:]]])
        self.live = np.concatenate([self.live, kept])
        self.rounding = np.concatenate([self.rounding, lengths])
        return bool(kept.any())

    def ritz(self) -> Ritz:
        """Return the b leading Ritz pairs, where b is the width of a block."""
        width = self.v[0].shape[1]
        live = np.flatnonzero(self.live)
        num = min(width, len(live))
        eigenvalues, y = np.zeros(width), np.zeros((len(self.h), width))
        if num:
            wanted = (len(live) - num, len(live) - 1)
            values, small = scipy.linalg.eigh(self.h[np.ix_(live, live)], subset_by_index=wanted)
            eigenvalues[:num], y[live, :num] = values[::-1], small[:, ::-1]
        y = y[:, np.argsort(-eigenvalues, kind="stable")]
        eigenvalues = np.sort(eigenvalues)[::-1]
        vectors, images = _combined(self.v, self.w, y)
        rounding = np.sqrt(self.rounding**2 @ y**2)
        return _with_residuals(self.problem, eigenvalues, vectors, images, rounding)

    def restarted(self, ritz: Ritz) -> "_Basis":
        """Return a new basis that holds only the Ritz vectors."""
        basis = _Basis(self.problem, self.largest, self.frobenius)
        basis.v, basis.w, basis.live = [ritz.vectors], [ritz.images], ritz.lengths > 0
        basis.h, basis.strength = np.diag(ritz.eigenvalues), self.strength
        basis.rounding = ritz.rounding
        return basis

    def require_positive(self, smallest: float) -> None:
        """Raise if a Ritz value is too negative to be rounding."""
        eps = float(jnp.finfo(self.problem.dtype).eps)
        allowed = entries_rounding(self.problem.dtype, self.frobenius) + 30 * eps * self.largest
        require_positive(smallest, self.largest, allowed, self.problem.unit)

    def _project(self, block: Array) -> Array:
        # Up to rounding, P w of the last block is orthogonal to all but the last two blocks, and
        # residuals are orthogonal to all blocks. `extend` removes the rounding after the product.
        for v, w in zip(self.v[-2:], self.w[-2:], strict=True):
            block = subtract(block, v, w)
        return block


def entries_rounding(dtype: np.dtype, frobenius: float) -> float:
    """Return a bound on the shift of eigenvalues by rounding of a kernel's entries to this dtype.

    Rounding to the dtype shifts eigenvalues by at most half its eps times the Frobenius norm. In
    addition, float64 entries may come from sums in float32, with errors of some 10 eps of float32.
    """
    single, eps = (float(jnp.finfo(a).eps) for a in (jnp.float32, dtype))
    return (20 * single + (eps if eps > single else 0)) * frobenius


def require_positive(smallest: float, largest: float, allowed: float, unit: float = 1.0) -> None:
    """Raise if a kernel with these Ritz values is not positive semidefinite."""
    if smallest < -allowed:
        raise ValueError(
            f"kernel is not positive semidefinite: its most negative Ritz value is "
            f"{smallest * unit:.3g}, its largest {largest * unit:.3g}. Is it a kernel over "
            f"[X, X'], and was it computed in float64?"
        )


def multiply(problem: Problem, block: Array) -> Array:
    """Return K̃ / unit times a block, in the problem's dtype, and check its shape and values."""
    image = jnp.asarray(problem.matmul(block))
    if image.shape != block.shape:
        raise ValueError(
            f"kernel must map a block of shape {block.shape} to one of the same shape, got "
            f"{image.shape}."
        )
    image, rows = divided(image, block, problem.unit)
    finite = np.asarray(rows)
    if not finite.all():
        raise ValueError(
            f"kernel holds NaN or infinity: {int((~finite).sum())} of {len(finite)} rows of its "
            f"product with a finite block are not finite, the first is row {np.argmin(finite)}."
        )
    return image


def _sizes(block: Array, image: Array) -> tuple[float, float]:
    """Return a lower bound on K̃'s largest eigenvalue, and an estimate of its Frobenius norm.

    `block` is random, and `image` is K̃ times `block`. Raise ValueError if K̃ is not symmetric.
    """
    before, after = (
        np.asarray(jnp.linalg.norm(array, axis=0), np.float64) for array in (block, image)
    )
    gram = np.asarray(inner(block, image), np.float64)
    gap, size = np.abs(gram - gram.T).max(), np.abs(gram).max()
    # Rounding: sqrt(N) terms of size eps times the product of the norms.
    if gap > 1e2 * float(jnp.finfo(block.dtype).eps) * before.max() * after.max():
        raise ValueError(
            f"kernel must be symmetric: for random u and v, u·(K v) and v·(K u) differ by up to "
            f"{gap / size:.3g} times their largest value."
        )
    return float((after / before).max()), float(np.sqrt(np.mean(after**2)))


def _negligible(problem: Problem) -> float:
    """Return the ratio to K̃'s largest eigenvalue below which directions are left out of V.

    Coefficients of such directions are so large that rounding would spoil the other modes.
    """
    eps = float(jnp.finfo(problem.dtype).eps)
    return 10 * eps if eps > 1e-10 else 1e-11


def _is_accurate(ritz: Ritz, limits: Limits, problem: Problem) -> bool:
    """Return whether wanted modes need no `_polish`: γ above rounding, which is not amplified."""
    wanted = slice(limits.num)
    least = 10 * float(jnp.finfo(problem.dtype).eps) * np.abs(ritz.eigenvalues).max()
    positive = ritz.eigenvalues[wanted] > least
    near = ritz.rounding[wanted] <= AMPLIFICATION * ritz.lengths[wanted]
    return bool((positive & near).all())


def _polish(ritz: Ritz, limits: Limits, basis: _Basis, room: int) -> tuple[Ritz, int]:
    """Compute Ritz pairs again in an orthonormal basis, and return the number of products taken.

    Residuals of the new pairs are not limited by amplified rounding; see the module's docstring.
    """
    problem = basis.problem
    z: list[Array] = []
    w: list[Array] = []
    turned: list[Array] = []
    block = ritz.images
    for products in range(1, min(room, 4) + 1):
        old = len(z)
        for _ in range(2):  # the block, and then its product with P
            block = normalised(block)
            for least in (0.0, 0.5):  # a new direction keeps its length in the second pass
                for other in z:
                    block = subtract(block, other, other)
                block = orthonormal(block, least)
            if not bool(block.any()):
                break
            z.append(block)
            block = problem.operator(block)
            turned.append(block)
        if len(z) == old:
            return ritz, products - 1
        images = multiply(problem, jnp.concatenate(z[old:], axis=1))
        w += jnp.split(images, len(z) - old, axis=1)
        ritz = _projected(basis, z, w, turned, len(ritz.eigenvalues))
        if _excess(ritz, limits, basis) <= 1:
            break
        block = ritz.rest
    return ritz, products


def _projected(
    basis: _Basis, z: list[Array], w: list[Array], turned: list[Array], width: int
) -> Ritz:
    """Return the leading Ritz pairs in an orthonormal basis Z, given W = K̃ Z and turned = P Z."""
    problem = basis.problem
    gram, operator = (
        np.block([[np.asarray(inner(a, b), np.float64) for b in images] for a in z])
        for images in (w, turned)
    )
    values, vectors = scipy.linalg.eigh((gram + gram.T) / 2)
    basis.largest = max(basis.largest, float(values[-1]))
    basis.require_positive(float(values[0]))
    negligible = 10 * float(jnp.finfo(problem.dtype).eps)
    kept = values > negligible * basis.largest
    factor = vectors[:, kept] * values[kept] ** 0.5
    images = (operator + operator.T) / 2 @ factor
    gammas, y = scipy.linalg.eigh(factor.T @ images / problem.scale)
    usable = np.abs(gammas) > negligible * np.abs(gammas).max(initial=0)
    scaled = np.where(usable, 1 / np.where(usable, gammas * problem.scale, 1), 0)
    missing = max(width - len(gammas), 0)
    gammas = np.pad(np.where(usable, gammas, 0), (0, missing))
    small = np.pad(images @ (y * scaled), [(0, 0), (0, missing)])
    leading = np.argsort(-gammas, kind="stable")[:width]
    return _with_residuals(problem, gammas[leading], *_combined(z, w, small[:, leading]))


def _combined(v: list[Array], w: list[Array], small: np.ndarray) -> tuple[Array, Array]:
    """Return V and W, given as blocks, each times a small matrix."""
    parts = jnp.asarray(small.reshape(len(v), -1, small.shape[1]), v[0].dtype)
    vectors, images = times(v[0], parts[0]), times(w[0], parts[0])
    for a, b, part in zip(v[1:], w[1:], parts[1:], strict=True):
        vectors, images = add_both(vectors, images, a, b, part)
    return vectors, images


def _with_residuals(
    problem: Problem,
    eigenvalues: np.ndarray,
    vectors: Array,
    images: Array,
    rounding: np.ndarray | None = None,
) -> Ritz:
    """Return modes and their residuals; `rounding` is the length of the vectors by default."""
    factors = jnp.asarray(problem.scale * eigenvalues, problem.dtype)
    rest, *norms = residual(problem.operator(images), vectors, factors)
    norms, lengths = (np.asarray(a, np.float64) for a in norms)
    residuals = norms / np.where(lengths > 0, lengths * problem.scale, 1)
    rounding = lengths if rounding is None else rounding
    return Ritz(eigenvalues, vectors, images, rounding, lengths, residuals, rest)


def _ratios(ritz: Ritz, limits: Limits, basis: _Basis) -> np.ndarray:
    """Return the residual of each wanted mode divided by its limit."""
    # Rounding of a residual, like that of a product with K̃, is some eps times the largest
    # eigenvalues of K̃ and of P, over s, which is at least the largest |γ|. In float64 this floor
    # is far below `tol` |γ|, unless |γ| is itself of the size of rounding.
    problem = basis.problem
    eps = float(jnp.finfo(problem.dtype).eps)
    floor = (4 if eps > 1e-10 else 100) * eps * basis.largest * basis.strength / problem.scale
    allowed = limits.tol * np.abs(ritz.eigenvalues) + floor
    return (ritz.residuals / np.where(allowed > 0, allowed, 1))[: limits.num]  # 0 if K̃ = 0


def _excess(ritz: Ritz, limits: Limits, basis: _Basis) -> float:
    return float(_ratios(ritz, limits, basis).max())


def _failure(ritz: Ritz, limits: Limits, basis: _Basis, iteration: int, more: bool) -> str:
    bad = _ratios(ritz, limits, basis) > 1
    first = int(np.argmax(bad))
    relative = ritz.residuals[first] / max(abs(ritz.eigenvalues[first]), 1e-300)
    value = ritz.eigenvalues[first] * basis.problem.unit
    hope = "Allow more with max_iterations or a larger tol" if more else "More would not help"
    return (
        f"{int(bad.sum())} of {limits.num} modes have not converged after {iteration} products "
        f"with the kernel: the first is mode {first + 1}, eigenvalue {value:.3g}, whose residual "
        f"relative to it is {relative:.1e} where tol = {limits.tol:.1e}. {hope}; or, if they span "
        f"more than {basis.problem.dtype} resolves, float64 or fewer modes; or solver='dense'."
    )


# Operations on blocks of columns, (N, b), on the device.


@jax.jit
def normalised(block: Array) -> Array:
    norms = jnp.linalg.norm(block, axis=0)
    return block / jnp.where(norms > 0, norms, 1)[None, :]


@jax.jit
def orthonormal(block: Array, least: ArrayLike = 0.0) -> Array:
    """Return a nearly orthonormal basis of the columns of a block, projections of unit vectors.

    Columns shorter than `least` or 100 eps, and linearly dependent columns are replaced by zeros.
    """
    eps = float(jnp.finfo(block.dtype).eps)
    norms = jnp.linalg.norm(block, axis=0)
    kept = norms > jnp.maximum(jnp.asarray(least, block.dtype), 1e2 * eps)
    block = block * jnp.where(kept, 1 / jnp.where(kept, norms, 1), 0)[None, :]
    # A Gram matrix does not resolve directions shorter than sqrt(eps): the first pass lengthens
    # them, and the second resolves them.
    for last in (False, True):
        values, vectors = jnp.linalg.eigh(inner(block, block))
        noise = 4 * len(values) ** 0.5 * eps * jnp.maximum(1, values[-1])
        factors = jnp.maximum(values, noise) ** -0.5
        if last:
            factors = jnp.where(values > noise, factors, 0)
        block = times(block, vectors * factors[None, :])
    return block


@jax.jit
def inner(a: Array, b: Array) -> Array:
    return matmul(a.T, b)


@jax.jit
def times(a: Array, b: Array) -> Array:
    return matmul(a, b)


@jax.jit
def add_both(vectors: Array, images: Array, v: Array, w: Array, part: Array):
    return vectors + times(v, part), images + times(w, part)


@jax.jit
def subtract(block: Array, v: Array, w: Array) -> Array:
    return block - times(v, inner(w, block))


@jax.jit
def subtract_both(block: Array, image: Array, v: Array, w: Array) -> tuple[Array, Array]:
    part = inner(v, image)
    return block - times(v, part), image - times(w, part)


@jax.jit
def grams(vectors: Array, images: Array) -> tuple[Array, Array]:
    """Return Vᵀ K̃ V and Vᵀ V of a block of vectors V, whose images are K̃ V."""
    return inner(vectors, images), inner(vectors, vectors)


@jax.jit
def turned_both(vectors: Array, images: Array, turn: Array):
    """Return a block and its images times a small matrix, and the norms of both products."""
    vectors, images = times(vectors, turn), times(images, turn)
    return vectors, images, jnp.linalg.norm(vectors, axis=0), jnp.linalg.norm(images, axis=0)


@jax.jit
def residual(turned: Array, vectors: Array, factors: Array) -> tuple[Array, Array, Array]:
    """Return turned - vectors * factors, the norms of its columns, and those of the vectors."""
    rest = turned - vectors * factors[None, :]
    return rest, jnp.linalg.norm(rest, axis=0), jnp.linalg.norm(vectors, axis=0)


@jax.jit
def divided(image: Array, like: Array, unit: ArrayLike) -> tuple[Array, Array]:
    """Return image / unit in the dtype of a block, and which rows of the image are finite."""
    image, finite = image.astype(like.dtype), jnp.isfinite(image).all(axis=1)
    return image * jnp.asarray(1 / unit, like.dtype), finite
