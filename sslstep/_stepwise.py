r"""Gradient flow of a model that is linear in features, under any loss, from very small starts.

.. math:: W' = -\nabla_W L(F_0 + A W)

The features A have shape (N, r). An explicit method takes several steps for each time constant of
the fastest mode, also on a plateau. This method solves the linear part exactly. With v the velocity
of W and :math:`J` its Jacobian,

.. math:: W(t + \tau) = W + \tau \varphi_1(\tau J) v + 2 \tau \varphi_3(\tau J) \,
    (N(U) - N(W)), \qquad N(W) = v(W) - J W,

an exponential Rosenbrock method of order 3 (Hochbruck, Ostermann and Schweitzer 2009), where U is
the sum of the first two terms. On a plateau the learned dimensions rest, and the others are so
small that their equations are linear: one step may pass the plateau. A bound on the growth within a
step limits the amplification of rounding errors. The number of steps therefore increases by one for
each 20 that ln(1/α) increases by.

All dimensions have the same relative accuracy, although their sizes may differ by any power of ten.
Before each step the embedding's axes are rotated so that the columns of W are orthogonal. Rotations
of two columns at a time keep the digits of the smaller column. Each column is measured in units of
its own length, also in the Krylov space in which the functions of J are evaluated. The error of a
step is the length of the last term relative to that of the result.

A loss that is not invariant under rotations, such as Barlow Twins with :math:`\lambda \ne 1`,
rotates the learned dimensions relative to fixed axes. For such a loss the axes Q move too: with
:math:`W = B Q^\top`, one system of equations moves B and Q, and the columns of B stay orthogonal
during a step.

For gradient descent, powers of :math:`1 + \eta J` take the place of exponentials, and each step
ends with a rotation R: it takes B to :math:`(B - \eta G) R` and Q to :math:`Q R`, where G is the
gradient with respect to B. The product is gradient descent's for any R.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array

from sslstep._linalg import matmul
from sslstep._second_variation import gradient, value

#: Logarithm of the largest growth within a step. Rounding errors of 1e-16 then stay below 1e-7 of
#: the growing dimensions.
LARGEST_GROWTH = 20.0

#: Number of vectors of a Krylov space.
KRYLOV = 96

#: Smallest step of gradient flow, in units of the inverse of the fastest rate. At a kink of the
#: loss smaller steps would not reduce the error.
SMALLEST = 0.02

#: Number of steps of gradient descent that are taken one by one, and are exact, where the method's
#: error is too large.
ONE_BY_ONE = 16


class Model(NamedTuple):
    """The model F_0 + A W, with A of shape (N, r) and F_0 of shape (N, d), and its learning rate.

    The learning rate is that of gradient descent; None: gradient flow.
    """

    features: Array
    rest: Array
    learning_rate: Array | None = None


def follow(
    loss_fn: Callable[..., Any],
    num_views: int,
    features: np.ndarray,
    rest: np.ndarray,
    weights: np.ndarray,
    times: np.ndarray,
    learning_rate: float,
    tol: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Integrate the flow (or descent) from `weights` W(0), shape (r, d); all arrays are float64.

    Return W at each time, shape (T, r, d), on the host in float64, and the loss, shape (T,).
    """
    with jax.enable_x64(True):
        parts = (features, rest, *([learning_rate] if learning_rate else []))
        model = Model(*(jnp.asarray(a, jnp.float64) for a in parts))
        invariant = _turns_with(loss_fn, num_views, model, weights.shape[1])
        walk = _Walk(loss_fn, num_views, model, invariant, learning_rate, tol)
        records = walk.run(weights, times)
        return records, np.asarray(_losses(loss_fn, num_views, model, jnp.asarray(records)))


class _Walk:
    def __init__(self, loss_fn, num_views, model, invariant, learning_rate, tol):
        self.static = (loss_fn, num_views)
        self.model, self.invariant = model, invariant
        self.learning_rate, self.tol = learning_rate, tol

    def run(self, w: np.ndarray, times: np.ndarray) -> np.ndarray:
        records = [w for _ in times[times == 0]]
        turn, t, step = np.eye(w.shape[1]), 0.0, np.inf
        while len(records) < len(times):
            w, rotation = aligned(w)
            turn = turn @ rotation
            advance, step, following = self._step(w, turn, step, times[-1] - t)
            slack = 1e-12 * (1 + t)
            while len(records) < len(times) and times[len(records)] <= t + step + slack:
                there, axes = advance(min(times[len(records)] - t, step))
                records.append(there @ axes.T)
            (w, turn), t, step = advance(step), t + step, following
        return np.stack(records)

    def _step(self, w, turn, step, left):
        """Prepare one step of at most `step` and `left` from W and its axes `turn`.

        Return a function from a time within the step to W and axes at this time, the length of the
        step, and a guess of the next step's length.
        """
        lengths = np.linalg.norm(w, axis=0)
        lengths = np.where(lengths > 0, lengths, 1)
        units, y, model = np.broadcast_to(lengths, w.shape), w, self.model
        if self.invariant:
            # Rotated axes keep all digits of each column, and do not change an invariant loss.
            model = model._replace(rest=matmul(model.rest, jnp.asarray(turn)))
        else:
            y, units = np.vstack([w, turn]), np.vstack([units, np.ones_like(turn)])
        here = model, y, units
        space = self._krylov(*here)
        ritz = np.linalg.eigvals(space.hessenberg[:-1])
        fastest, growth = np.abs(ritz).max(), max(ritz.real.max(), 0.0)
        smallest = SMALLEST / fastest if fastest > 0 else np.inf
        if self.learning_rate:
            smallest = ONE_BY_ONE * self.learning_rate
        step = min(step, left, LARGEST_GROWTH / growth if growth > 0 else np.inf)
        while space.error(step, 1) > self.tol / 10 and step > smallest:
            step /= 2
        while True:
            if self.learning_rate:
                step = max(round(step / self.learning_rate), 1) * self.learning_rate
            first = y + space.at(step, 1) * units
            second = self._krylov(*here, first - y)
            correction = second.at(step, 3) * (2 / step**2) * units
            error = self._error(correction, first + correction, units)
            good = np.isfinite(error) and error <= self.tol
            if good or step <= smallest:
                break
            step = max(step / 2, smallest)

        exact = None
        if self.learning_rate and not good:
            exact = np.asarray(_one_by_one(*self.static, model, jnp.asarray(y)))
            error = 0.0 if np.isfinite(exact).all() else np.inf
        if not np.isfinite(error):
            raise FloatingPointError("the flow left the finite numbers.")

        def advance(tau: float) -> tuple[np.ndarray, np.ndarray]:
            if tau <= 0:
                return w, turn
            if exact is not None:
                there = exact[round(tau / self.learning_rate)]
            else:
                there = y + space.at(tau, 1) * units
                if good:
                    there = there + second.at(tau, 3) * (2 / step**2) * units
            if self.invariant:
                return there, turn
            u, _, v = np.linalg.svd(there[len(w) :])
            return there[: len(w)], u @ v

        if exact is not None:
            return advance, step, 2 * step
        larger = 0.8 * (self.tol / error) ** (1 / 3) if error > 0 else 8.0
        return advance, step, step * float(np.clip(larger, 0.3, 8.0))

    def _error(self, correction, there, units) -> float:
        """Return the largest error: of a column relative to its length, of the axes absolute."""
        rank = self.model.features.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):  # such a step is rejected
            sizes = np.linalg.norm(there[:rank], axis=0)
            sizes = np.maximum(np.where(np.isfinite(sizes), sizes, 0), units[0])
            error = np.linalg.norm(correction[:rank], axis=0) / sizes
            return float(np.append(error, np.linalg.norm(correction[rank:])).max())

    def _krylov(self, model, y, units, change=None) -> "_Space":
        flag, change = (0.0, np.zeros_like(y)) if change is None else (1.0, change)
        arrays = map(jnp.asarray, (y, units, change, flag))
        basis, matrix, size = _arnoldi(*self.static, model, *arrays, min(KRYLOV, y.size))
        return _Space(np.asarray(basis), np.asarray(matrix), float(size), self.learning_rate)


class _Space(NamedTuple):
    """A Krylov space of J.

    It holds the basis (m, r, d), the Hessenberg matrix of J in this basis (m + 1, m), and the
    length of the starting vector.
    """

    basis: np.ndarray
    hessenberg: np.ndarray
    size: float
    learning_rate: float

    def at(self, tau: float, order: int) -> np.ndarray:
        r"""Return :math:`\tau^p \varphi_p(\tau J)` times the starting vector, for p = `order`.

        For gradient descent powers of :math:`1 + \eta J` take the place of the exponential.
        """
        return np.tensordot(self._small(tau, order), self.basis, 1)

    def error(self, tau: float, order: int) -> float:
        """Estimate the error of `at` from the component of J that leaves the space."""
        if self.size == 0 or not np.isfinite(tau):
            return 0.0 if self.size == 0 else np.inf
        with np.errstate(invalid="ignore"):
            error = abs(self.hessenberg[-1, -1] * self._small(tau, order + 1)[-1])
        return error if np.isfinite(error) else np.inf

    def _small(self, tau: float, order: int) -> np.ndarray:
        # y' = H y + e_1 t^(p-1) / (p-1)!, with the powers of t as further variables.
        num = self.hessenberg.shape[1]
        whole = np.zeros((num + order, num + order))
        whole[:num, :num] = self.hessenberg[:-1]
        whole[0, num] = self.size
        whole[range(num, num + order - 1), range(num + 1, num + order)] = 1
        if self.learning_rate:
            count = round(tau / self.learning_rate)
            power = np.eye(len(whole)) + self.learning_rate * whole
            return np.linalg.matrix_power(power, count)[:num, -1]
        # An overflow here leads to the rejection of the step.
        with np.errstate(over="ignore", invalid="ignore"):
            return scipy.linalg.expm(tau * whole)[:num, -1]


def _loss(loss_fn, num_views, model, w):
    return value(loss_fn, num_views, model.rest + matmul(model.features, w))


@partial(jax.jit, static_argnums=(0, 1))
def _losses(loss_fn, num_views, model, records):
    """Return the loss at each record of W."""
    return jax.lax.map(partial(_loss, loss_fn, num_views, model), records)


def _field(loss_fn, num_views, model, start, y):
    """Return the velocity of y, which is W, or B with the axes Q below it, for W = B Qᵀ.

    For gradient descent it is the change in one step over the learning rate. `start` is y at the
    start of the time step.
    """
    rank, eta = model.features.shape[1], model.learning_rate
    w, axes = y[:rank], y[rank:]
    moving = len(axes) > 0
    down = -jax.grad(partial(_loss, loss_fn, num_views, model))(matmul(w, axes.T) if moving else w)
    if not moving:
        return down
    down = matmul(down, axes)
    if eta is not None:
        there = w + eta * down
        turn = _rotation(start[:rank], there)
        return jnp.concatenate([matmul(there, turn) - w, matmul(axes, turn) - axes]) / eta
    # Q rotates so that the columns of B stay orthogonal. Two columns of nearly equal length may
    # lose orthogonality until `aligned` restores it: the velocity of B Qᵀ is exact for any spin.
    overlap = matmul(w.T, down)
    squares = jnp.sum(w**2, axis=0)
    apart = squares[:, None] - squares[None, :]
    near = squares[:, None] * squares[None, :]
    spin = -(overlap + overlap.T) * apart / jnp.where(near > 0, apart**2 + near, 1)
    return jnp.concatenate([down + matmul(w, spin), matmul(axes, spin)])


def _rotation(start, there):
    """Return the rotation R: column j of `there` R is orthogonal to columns i < j of `start`.

    A learned dimension that turns then leaves nothing in the columns of the small ones.
    """
    overlap = matmul(there.T, start)
    empty = jnp.all(overlap == 0, axis=0)
    turn, triangle = jnp.linalg.qr(overlap + jnp.diag(empty.astype(overlap.dtype)))
    return turn * jnp.sign(jnp.diagonal(triangle))[None, :]


@partial(jax.jit, static_argnums=(0, 1))
def _one_by_one(loss_fn, num_views, model, y):
    """Return y, and its values after each of `ONE_BY_ONE` steps of gradient descent."""

    def step(there, _):
        there = there + model.learning_rate * _field(loss_fn, num_views, model, y, there)
        return there, there

    return jnp.concatenate([y[None], jax.lax.scan(step, y, None, length=ONE_BY_ONE)[1]])


@partial(jax.jit, static_argnums=(0, 1, 7))
def _arnoldi(loss_fn, num_views, model, w, units, change, flag, num):
    """Build a Krylov space of the field's Jacobian at W by Arnoldi's iteration.

    With `flag` = 0 and `change` = 0 the starting vector is the field at W; with `flag` = 1 it is
    N(W + change) - N(W).
    """
    field = partial(_field, loss_fn, num_views, model, w)
    here, jacobian = jax.linearize(field, w)
    start = field(w + change) - flag * (here + jacobian(change))
    start = (start / units).ravel()
    size = jnp.linalg.norm(start)
    basis = jnp.zeros((num + 1, w.size), w.dtype)
    basis = basis.at[0].set(jnp.where(size > 0, start / jnp.where(size > 0, size, 1), 0))

    def extend(j, carry):
        basis, matrix = carry
        image = jacobian(basis[j].reshape(w.shape) * units) / units
        image = image.ravel()
        before, column = jnp.linalg.norm(image), jnp.zeros(num + 1, w.dtype)
        for _ in range(2):
            part = matmul(basis, image)
            image, column = image - matmul(part, basis), column + part
        after = jnp.linalg.norm(image)
        new = after > 1e-12 * before
        image = jnp.where(new, image / jnp.where(new, after, 1), 0)
        column = column.at[j + 1].set(jnp.where(new, after, 0))
        return basis.at[j + 1].set(image), matrix.at[:, j].set(column)

    matrix = jnp.zeros((num + 1, num), w.dtype)
    basis, matrix = jax.lax.fori_loop(0, num, extend, (basis, matrix))
    return basis[:num].reshape(num, *w.shape), matrix, size


def aligned(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return W R with orthogonal columns in descending order of length, and the rotation R.

    The one-sided Jacobi method keeps the digits of a column that is far smaller than another; the
    singular value decomposition does not.
    """
    order = np.argsort(-np.linalg.norm(w, axis=0), kind="stable")
    w, turn = w[:, order].copy(), np.eye(w.shape[1])[:, order]
    for _ in range(30):
        largest = 0.0
        for i, j in itertools.combinations(range(w.shape[1]), 2):
            a, b = np.linalg.norm(w[:, i]), np.linalg.norm(w[:, j])
            if a == 0 or b == 0:
                continue
            cosine = (w[:, i] / a) @ (w[:, j] / b)
            largest = max(largest, abs(cosine))
            if abs(cosine) < 1e-14:
                continue
            # The tangent of the angle, of size b / a where a is the longer.
            zeta = (b / a - a / b) / (2 * cosine)
            tangent = (1 if zeta >= 0 else -1) / (abs(zeta) + np.hypot(1, zeta))
            c = 1 / np.hypot(1, tangent)
            for m in (w, turn):
                first, second = m[:, i] - tangent * m[:, j], m[:, j] + tangent * m[:, i]
                m[:, i], m[:, j] = c * first, c * second
        if largest < 1e-12:
            break
    order = np.argsort(-np.linalg.norm(w, axis=0), kind="stable")
    return w[:, order], turn[:, order]


def _turns_with(loss_fn, num_views: int, model: Model, dim: int) -> bool:
    """Return whether the loss is invariant under rotations; test gradients at random embeddings."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.standard_normal((model.features.shape[0], dim)))
    rotation = jnp.asarray(np.linalg.qr(rng.standard_normal((dim, dim)))[0])
    of = partial(gradient, loss_fn, num_views)
    wanted = matmul(of(z), rotation)
    gap = jnp.linalg.norm(of(matmul(z, rotation)) - wanted)
    return bool(gap < 1e-8 * jnp.linalg.norm(wanted))
