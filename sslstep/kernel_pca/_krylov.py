r"""A block Krylov iteration for the leading modes of P K̃, in the inner product of K̃.

With :math:`\langle u, v \rangle = u^\top \tilde K v` the operator :math:`T = P \tilde K / s` is
self-adjoint for any symmetric P. A basis V that is orthonormal in it and :math:`W = \tilde K V`
give the projection :math:`H = W^\top P W / s` of T, whose eigenpairs (γ, y) are Ritz pairs
:math:`(\gamma, V y)`. Each iteration multiplies one block by K̃ and adds it to the basis; the next
block is the residuals of the leading Ritz pairs. What is returned went through one more product, so
that rounding which has built up along the way is gone and the residuals are its own.

The first block is :math:`P \tilde K` times a random one, so that all lie in the range of
:math:`P \tilde K`, as c does: K̃ may be singular.

Blocks live on the device in the kernel's dtype; the projected problems, a few hundred wide, are
solved on the host in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array

from sslstep._linalg import matmul


class ConvergenceError(RuntimeError):
    """The Krylov iteration did not meet its tolerance; the message has what it reached."""


class Problem(NamedTuple):
    """P K̃ c = s γ c with cᵀ K̃ c = 1.

    Attributes:
        matmul: a block v (N, b) to K̃ v.
        involution: a block v to P v.
        scale: s.
        dtype: of the blocks; it must hold the squares of what K̃ over its unit gives.
        unit: what K̃ is divided by for that.
    """

    matmul: Callable[[Array], Array]
    involution: Callable[[Array], Array]
    scale: float
    dtype: np.dtype
    unit: float = 1.0


class Ritz(NamedTuple):
    """Approximate modes.

    Attributes:
        eigenvalues: γ, descending, shape (b,); on the host, in float64.
        vectors: c as columns, (N, b); zeros where K̃ has no further directions.
        images: K̃ c, (N, b).
        residuals: ‖P K̃ c − s γ c‖ / (s ‖c‖), shape (b,); on the host.
    """

    eigenvalues: np.ndarray
    vectors: Array
    images: Array
    residuals: np.ndarray


class Limits(NamedTuple):
    """When to stop.

    Attributes:
        num: how many leading modes have to converge.
        tol: residuals relative to γ.
        max_iterations: products with K̃.
        max_blocks: blocks in the basis before it is restarted from the Ritz vectors.
    """

    num: int
    tol: float
    max_iterations: int
    max_blocks: int


def solve(problem: Problem, start: Array, image: Array, limits: Limits) -> tuple[Ritz, int]:
    """The leading modes and the number of products, from a random block (N, b) and K̃ times it."""
    _require_symmetry(start, image)
    block, iteration = problem.involution(image), 1
    basis, looks = _Basis(problem, _largest(start, image)), _Looks()
    while True:
        more = basis.extend(block)
        iteration += 1
        room = iteration + 2 <= limits.max_iterations  # for another, and the last of its own
        going_on = more and room and len(basis.v) < limits.max_blocks
        if going_on and not looks.due(iteration):
            block = problem.involution(basis.w[-1])
            continue
        ritz = basis.ritz()
        looks.record(iteration, _excess(ritz, limits, basis))
        if going_on and looks.excess > 1 and not looks.stalled:
            block = _residual(ritz, problem)
            continue
        # P K̃ c / s γ is a step of the power method that costs no product, and has nothing in it
        # that K̃ does not see.
        ritz = _rayleigh_ritz(problem, _power_step(problem, ritz), basis.largest)
        iteration += 1
        if _excess(ritz, limits, basis) <= 1:
            return ritz, iteration
        if not more or iteration + 2 > limits.max_iterations:
            raise ConvergenceError(_failure(ritz, limits, basis, iteration, more))
        block, basis, looks = _residual(ritz, problem), basis.restarted(ritz), _Looks()


class _Looks:
    """When to look at the Ritz pairs: convergence is geometric, so two looks foretell a third."""

    def __init__(self) -> None:
        self.excess = np.inf
        self.stalled = False  # as rounding that has built up makes it, until a restart
        self.iteration = 0
        self.next = 0

    def due(self, iteration: int) -> bool:
        """Whether to look now; first after a few blocks."""
        if not self.next:
            self.next = iteration + 4
        return iteration >= self.next

    def record(self, iteration: int, excess: float) -> None:
        """What was seen: the largest residual over what is allowed."""
        ahead = 2.0
        if np.isfinite(self.excess) and 1 < excess < self.excess:
            rate = np.log(self.excess / excess) / (iteration - self.iteration)
            ahead = np.log(excess) / rate
        self.stalled = excess > self.excess / 2
        self.excess, self.iteration = excess, iteration
        self.next = iteration + int(np.clip(np.ceil(ahead), 1, 6))


class _Basis:
    """V and W = K̃ V in blocks of one shape, and H. A direction that was dropped is zeros."""

    def __init__(self, problem: Problem, largest: float) -> None:
        self.problem = problem
        self.largest = largest  # Ritz value of K̃ so far: what is negligible is judged by it
        self.v: list[Array] = []
        self.w: list[Array] = []
        self.live = np.zeros(0, bool)
        self.h = np.zeros((0, 0))

    def extend(self, block: Array) -> bool:
        """Add a block, made orthonormal; False if it has nothing that the basis does not."""
        block = _orthonormal(self._project(_normalised(block)))
        image = multiply(self.problem, block)
        for v, w in zip(self.v, self.w, strict=True):
            block, image = _subtract_both(block, image, v, w)
        gram = np.asarray(_inner(block, image), np.float64)
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        self.largest = max(self.largest, float(values[-1]))
        require_positive(float(values[0]), self.largest, self.problem.dtype, self.problem.unit)
        kept = values > _negligible(self.problem) * self.largest
        scale = np.where(kept, np.where(kept, values, 1) ** -0.5, 0)
        turn = jnp.asarray(vectors * scale, self.problem.dtype)
        self._append(_times(block, turn), _times(image, turn), kept)
        return bool(kept.any())

    def ritz(self) -> Ritz:
        """The b leading Ritz pairs, b the width of a block."""
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
        parts = jnp.asarray(y.reshape(len(self.v), width, width), self.problem.dtype)
        vectors, images = _times(self.v[0], parts[0]), _times(self.w[0], parts[0])
        for v, w, part in zip(self.v[1:], self.w[1:], parts[1:], strict=True):
            vectors, images = _add_both(vectors, images, v, w, part)
        return _with_residuals(self.problem, eigenvalues, vectors, images)

    def restarted(self, ritz: Ritz) -> "_Basis":
        """A basis of the Ritz vectors alone."""
        basis = _Basis(self.problem, self.largest)
        live = np.asarray(jnp.abs(ritz.images).max(axis=0) > 0)
        basis.v, basis.w, basis.live = [ritz.vectors], [ritz.images], live
        basis.h = np.diag(ritz.eigenvalues)
        return basis

    def _project(self, block: Array) -> Array:
        # P w of the last block is orthogonal to all but the last two, and residuals are to all, up
        # to rounding, which `extend` removes once the product is there.
        for v, w in zip(self.v[-2:], self.w[-2:], strict=True):
            block = _subtract(block, v, w)
        return block

    def _append(self, v: Array, w: Array, live: np.ndarray) -> None:
        self.v.append(v)
        self.w.append(w)
        turned = self.problem.involution(w)
        new = np.concatenate([np.asarray(_inner(old, turned), np.float64) for old in self.w])
        new /= self.problem.scale
        old = len(self.h)
        new[old:] = (new[old:] + new[old:].T) / 2
        self.h = np.block([[self.h, new[:old]], [new[:old].T, new[old:]]])
        self.live = np.concatenate([self.live, live])


def require_positive(smallest: float, largest: float, dtype: np.dtype, unit: float = 1.0) -> None:
    """Raise if a kernel with these Ritz values is not positive semidefinite."""
    # One that was rounded, to float32 even where it comes as float64, has negative eigenvalues of
    # 1e-8 of the largest.
    if smallest < -max(1e2 * float(jnp.finfo(dtype).eps), 1e-7) * largest:
        raise ValueError(
            f"kernel is not positive semidefinite: its most negative Ritz value is "
            f"{smallest * unit:.3g}, its largest {largest * unit:.3g}. Is it a kernel over "
            f"[X, X'], and was it computed in float64?"
        )


def multiply(problem: Problem, block: Array) -> Array:
    """K̃ over its unit times a block, in the problem's dtype, checked."""
    image = jnp.asarray(problem.matmul(block))
    if image.shape != block.shape:
        raise ValueError(
            f"kernel must map a block of shape {block.shape} to one of the same shape, got "
            f"{image.shape}."
        )
    finite = np.asarray(jnp.isfinite(image).all(axis=1))
    if not finite.all():
        raise ValueError(
            f"kernel holds NaN or infinity: {int((~finite).sum())} of {len(finite)} rows of its "
            f"product with a finite block are not finite, the first is row {np.argmin(finite)}."
        )
    return image.astype(problem.dtype) * jnp.asarray(1 / problem.unit, problem.dtype)


def _require_symmetry(block: Array, image: Array) -> None:
    """A symmetric kernel gives a symmetric ΩᵀK̃Ω."""
    gram = np.asarray(_inner(block, image), np.float64)
    gap, size = np.abs(gram - gram.T).max(), np.abs(gram).max()
    # Rounding: sqrt(N) terms of size eps times the product of the norms.
    norms = [np.asarray(jnp.linalg.norm(a, axis=0)).max() for a in (block, image)]
    if gap > 1e2 * float(jnp.finfo(block.dtype).eps) * norms[0] * norms[1]:
        raise ValueError(
            f"kernel must be symmetric: for random u and v, u·(K v) and v·(K u) differ by up to "
            f"{gap / size:.3g} times what they reach."
        )


def _largest(block: Array, image: Array) -> float:
    """A lower bound of the largest eigenvalue of K̃."""
    return float((jnp.linalg.norm(image, axis=0) / jnp.linalg.norm(block, axis=0)).max())


def _power_step(problem: Problem, ritz: Ritz) -> Array:
    turned = problem.involution(ritz.images)
    gammas = np.abs(ritz.eigenvalues)
    usable = gammas > 1e3 * float(jnp.finfo(problem.dtype).eps) * gammas.max()
    factor = np.where(usable, 1 / np.where(usable, ritz.eigenvalues * problem.scale, 1), 0)
    stepped = turned * jnp.asarray(factor, problem.dtype)[None, :]
    return jnp.where(jnp.asarray(usable)[None, :], stepped, ritz.vectors)


def _negligible(problem: Problem) -> float:
    """Directions in which K̃ is smaller, relative to its largest eigenvalue, are left out.

    Their coefficients are huge, and mixing them into the others by rounding errors spoils these.
    """
    eps = float(jnp.finfo(problem.dtype).eps)
    return (10 if eps > 1e-10 else 1e3) * eps


def _rayleigh_ritz(problem: Problem, vectors: Array, largest: float) -> Ritz:
    """The Ritz pairs of a block that is not orthonormal, by a product of its own."""
    images = multiply(problem, vectors)
    gram, turned = (
        np.asarray(_inner(images, other), np.float64)
        for other in (vectors, problem.involution(images))
    )
    sizes = np.asarray(jnp.linalg.norm(vectors, axis=0), np.float64)
    live = np.flatnonzero(np.diagonal(gram) > _negligible(problem) * largest * sizes**2)
    width, num = len(gram), len(live)
    inside = np.ix_(live, live)
    gram, turned = ((a[inside] + a[inside].T) / 2 for a in (gram, turned))
    eigenvalues, y = np.zeros(width), np.zeros((width, width))
    if num:
        turned /= problem.scale
        values, small = scipy.linalg.eigh(turned, gram)
        values, small = values[::-1], small[:, ::-1]
        # What a mode would take from one of much smaller γ is rounding, unless it is large: the
        # power step has removed it. It would not be small, as coefficients grow as γ falls.
        before = np.diagonal(turned) / np.diagonal(gram)
        eps = float(jnp.finfo(problem.dtype).eps)
        rounding = np.abs(small) * np.diagonal(gram)[:, None] ** 0.5 < 1e2 * eps
        small = np.where(rounding & (2 * before[:, None] < values[None, :]), 0, small)
        eigenvalues[:num], y[live, :num] = values, small
    turn = jnp.asarray(y[:, np.argsort(-eigenvalues, kind="stable")], problem.dtype)
    eigenvalues = np.sort(eigenvalues)[::-1]
    return _with_residuals(problem, eigenvalues, _times(vectors, turn), _times(images, turn))


def _with_residuals(
    problem: Problem, eigenvalues: np.ndarray, vectors: Array, images: Array
) -> Ritz:
    ritz = Ritz(eigenvalues, vectors, images, np.zeros_like(eigenvalues))
    norms, sizes = (
        np.asarray(jnp.linalg.norm(a, axis=0), np.float64)
        for a in (_residual(ritz, problem), vectors)
    )
    return ritz._replace(residuals=norms / np.where(sizes > 0, sizes * problem.scale, 1))


def _residual(ritz: Ritz, problem: Problem) -> Array:
    factor = jnp.asarray(problem.scale * ritz.eigenvalues, problem.dtype)
    return problem.involution(ritz.images) - ritz.vectors * factor[None, :]


def _ratios(ritz: Ritz, limits: Limits, basis: _Basis) -> np.ndarray:
    """Each wanted mode's residual over what is allowed."""
    # What rounding leaves of a residual is of the order of eps times the largest eigenvalue of K̃,
    # over s: no |γ| is larger. In float64 that is far below `tol` for any γ that matters, and the
    # allowance is generous; in float32 the two are close.
    problem = basis.problem
    eps = float(jnp.finfo(problem.dtype).eps)
    floor = (4 if eps > 1e-10 else 100) * eps * basis.largest / problem.scale
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


@jax.jit
def _normalised(block: Array) -> Array:
    norms = jnp.linalg.norm(block, axis=0)
    return block / jnp.where(norms > 0, norms, 1)[None, :]


def _orthonormal(block: Array) -> Array:
    """A nearly orthonormal basis of what projection left of a block of unit columns.

    Zeros take the place of columns of which rounding alone is left, and of dependent ones.
    """
    eps = float(jnp.finfo(block.dtype).eps)
    norms = np.asarray(jnp.linalg.norm(block, axis=0), np.float64)
    scale = np.where(norms > 1e2 * eps, 1 / np.where(norms > 0, norms, 1), 0)
    block = _times(block, jnp.asarray(np.diag(scale), block.dtype))
    # What a Gram matrix does not resolve, directions shorter than sqrt(eps), the first pass
    # lengthens and the second sees.
    for last in (False, True):
        values, vectors = np.linalg.eigh(np.asarray(_inner(block, block), np.float64))
        noise = 4 * len(values) ** 0.5 * eps * max(1.0, values[-1])
        turn = vectors * np.maximum(values, noise) ** -0.5
        if last:
            turn = np.where(values > noise, turn, 0)
        block = _times(block, jnp.asarray(turn, block.dtype))
    return block


@jax.jit
def _inner(a: Array, b: Array) -> Array:
    return matmul(a.T, b)


@jax.jit
def _times(a: Array, b: Array) -> Array:
    return matmul(a, b)


@jax.jit
def _add_both(vectors: Array, images: Array, v: Array, w: Array, part: Array):
    return vectors + _times(v, part), images + _times(w, part)


@jax.jit
def _subtract(block: Array, v: Array, w: Array) -> Array:
    return block - _times(v, _inner(w, block))


@jax.jit
def _subtract_both(block: Array, image: Array, v: Array, w: Array) -> tuple[Array, Array]:
    part = _inner(v, image)
    return block - _times(v, part), image - _times(w, part)
