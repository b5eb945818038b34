r"""The flow of a model that is linear in features, under any loss, from a start however small.

.. math:: W' = -\nabla_W L(F_0 + A W)

with features A (N, r). An explicit method follows each plateau in steps of the fastest rate. This
one is exact for what is linear: with :math:`J` the Jacobian of the field v at W,

.. math:: W(t + \tau) = W + \tau \varphi_1(\tau J) v + 2 \tau \varphi_3(\tau J) \,
    (N(U) - N(W)), \qquad N(W) = v(W) - J W,

an exponential Rosenbrock method of order 3 (Hochbruck, Ostermann and Schweitzer 2009; U is the
first two terms). On a plateau those learned rest and the others are so small that their equations
are linear: one step passes it, whatever its length, but for a bound on how much a step may amplify
rounding. So the cost does not grow with ln(1/α), but by a step for each 20 in it.

Each dimension is followed to the same relative accuracy, though they may differ by any power of
ten. The embedding's axes are turned so that the columns of W are orthogonal, in each step by
rotations of two columns that keep the smaller one's digits; all is measured in units of each
column's length, and so is the Krylov space in which the functions of J are evaluated. The last
term over the length of what it is added to is the error of a step.

A loss that sees a rotation of the embeddings, such as Barlow Twins with :math:`\lambda \ne 1`,
turns the learned dimensions against its own axes. There the axes Q move too, with
:math:`W = B Q^\top`, in one system with B: the columns of B stay orthogonal during a step.

Gradient descent is the same with powers of :math:`1 + \eta J` in place of exponentials.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.typing import ArrayLike
from jaxtyping import Array

from sslstep._linalg import matmul
from sslstep._second_variation import gradient, value

#: What a step may amplify, in logarithms: rounding of 1e-16 stays below 1e-7 of what grows.
LARGEST_GROWTH = 20.0

#: Vectors of a Krylov space.
KRYLOV = 96

#: A step is not made smaller than this over the fastest rate: where a loss has a kink, a finer one
#: would only see it closer.
SMALLEST = 0.02


class Model(NamedTuple):
    """A: (N, r); F_0: (N, d)."""

    features: Array
    rest: Array


def follow(
    loss_fn: Callable[..., Any],
    num_views: int,
    features: ArrayLike,
    rest: ArrayLike,
    weights: ArrayLike,
    times: ArrayLike,
    learning_rate: float,
    tol: float,
) -> tuple[np.ndarray, np.ndarray]:
    """W (T, r, d) at each time, on the host in float64, and the loss (T,)."""
    with jax.enable_x64(True):
        model = Model(*(jnp.asarray(a, jnp.float64) for a in (features, rest)))
        w, times = (np.asarray(a, np.float64) for a in (weights, times))
        invariant = _turns_with(loss_fn, num_views, model, w.shape[1])
        walk = _Walk(loss_fn, num_views, model, invariant, learning_rate, tol)
        records = walk.run(w, times)
        of = partial(_loss, loss_fn, num_views, model)
        return records, np.asarray(jax.lax.map(jax.jit(of), jnp.asarray(records)))


class _Walk:
    def __init__(self, loss_fn, num_views, model, invariant, learning_rate, tol):
        self.static = (loss_fn, num_views)
        self.model, self.invariant = model, invariant
        self.learning_rate, self.tol = learning_rate, tol
        self.num_steps = 0

    def run(self, w: np.ndarray, times: np.ndarray) -> np.ndarray:
        records: list[np.ndarray] = []
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
            self.num_steps += 1
        return np.stack(records)

    def _step(self, w, turn, step, left):
        """How W and its axes advance from here, until when, and a guess of the next step."""
        lengths = np.linalg.norm(w, axis=0)
        lengths = np.where(lengths > 0, lengths, 1)
        units, y, model = np.broadcast_to(lengths, w.shape), w, self.model
        if self.invariant:
            # The loss sees each column alone, with all its digits.
            model = model._replace(rest=matmul(model.rest, jnp.asarray(turn)))
        else:
            y, units = np.vstack([w, turn]), np.vstack([units, np.ones_like(turn)])
        here = (model, y, units)
        space = self._krylov(here, None)
        ritz = np.linalg.eigvals(space.matrix)
        fastest, growth = np.abs(ritz).max(), max(ritz.real.max(), 0.0)
        smallest = max(SMALLEST / fastest if fastest > 0 else np.inf, self.learning_rate)
        step = min(step, left, LARGEST_GROWTH / growth if growth > 0 else np.inf)
        while space.error(step, 1) > self.tol / 10 and step > smallest:
            step /= 2
        while True:
            if self.learning_rate:
                step = max(round(step / self.learning_rate), 1) * self.learning_rate
            first = y + space.at(step, 1) * units
            second = self._krylov(here, first - y)
            correction = second.at(step, 3) * (2 / step**2) * units
            error = self._error(correction, first + correction, units)
            good = np.isfinite(error) and error <= self.tol
            if good or step <= smallest:
                break
            step = max(step / 2, smallest)

        if not np.isfinite(error):
            raise FloatingPointError("the flow left the finite numbers.")

        def advance(tau: float) -> tuple[np.ndarray, np.ndarray]:
            if tau <= 0:
                return w, turn
            change = space.at(tau, 1)
            if good:
                change = change + second.at(tau, 3) * (2 / step**2)
            there = y + change * units
            if self.invariant:
                return there, turn
            u, _, v = np.linalg.svd(there[len(w) :])
            return there[: len(w)], u @ v

        larger = 0.8 * (self.tol / error) ** (1 / 3) if error > 0 else 8.0
        return advance, step, step * float(np.clip(larger, 0.3, 8.0))

    def _error(self, correction, there, units) -> float:
        """Relative to the length of each column, and of the axes to 1."""
        rank = self.model.features.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):  # of a step that is then refused
            sizes = np.linalg.norm(there[:rank], axis=0)
            sizes = np.maximum(np.where(np.isfinite(sizes), sizes, 0), units[0])
            error = np.linalg.norm(correction[:rank], axis=0) / sizes
            return float(np.append(error, np.linalg.norm(correction[rank:])).max())

    def _krylov(self, here, change) -> "_Space":
        model, y, units = here
        num = min(KRYLOV, y.size)
        basis, matrix, size = _arnoldi(
            *self.static,
            model,
            jnp.asarray(y),
            jnp.asarray(units),
            jnp.asarray(np.zeros_like(y) if change is None else change),
            jnp.asarray(0.0 if change is None else 1.0),
            num,
        )
        return _Space(np.asarray(basis), np.asarray(matrix), float(size), self.learning_rate)


class _Space(NamedTuple):
    """A Krylov space of J: its basis (m, r, d), J in it (m + 1, m), and the length of its start."""

    basis: np.ndarray
    hessenberg: np.ndarray
    size: float
    learning_rate: float

    @property
    def matrix(self) -> np.ndarray:
        return self.hessenberg[:-1]

    def at(self, tau: float, order: int) -> np.ndarray:
        r""":math:`\tau^p \varphi_p(\tau J)` times the start, or of descent what comes near it."""
        return np.tensordot(self._small(tau, order), self.basis, 1)

    def error(self, tau: float, order: int) -> float:
        """Of `at`, by what leaves the space."""
        if self.size == 0 or not np.isfinite(tau):
            return 0.0 if self.size == 0 else np.inf
        with np.errstate(invalid="ignore"):
            error = abs(self.hessenberg[-1, -1] * self._small(tau, order + 1)[-1])
        return error if np.isfinite(error) else np.inf

    def _small(self, tau: float, order: int) -> np.ndarray:
        # y' = H y + e_1 t^(p-1) / (p-1)!, with the powers of t as variables of their own.
        num = len(self.matrix)
        whole = np.zeros((num + order, num + order))
        whole[:num, :num] = self.matrix
        whole[0, num] = self.size
        whole[range(num, num + order - 1), range(num + 1, num + order)] = 1
        if self.learning_rate:
            count = round(tau / self.learning_rate)
            power = np.eye(len(whole)) + self.learning_rate * whole
            return np.linalg.matrix_power(power, count)[:num, -1]
        # It may overflow for a step that is then refused.
        with np.errstate(over="ignore", invalid="ignore"):
            return scipy.linalg.expm(tau * whole)[:num, -1]


def _loss(loss_fn, num_views, model, w):
    return value(loss_fn, num_views, model.rest + matmul(model.features, w))


def _field(loss_fn, num_views, model, y):
    """The velocity of W; or, where y has Q below B, of both, with W = B Qᵀ."""
    rank = model.features.shape[1]
    w, axes = y[:rank], y[rank:]
    moving = len(axes) > 0
    down = -jax.grad(partial(_loss, loss_fn, num_views, model))(matmul(w, axes.T) if moving else w)
    if not moving:
        return down
    # Q turns so that the columns of B stay orthogonal. Two of about the same length may wait for
    # `aligned`: the velocity of B Qᵀ is exact whatever the spin.
    down = matmul(down, axes)
    overlap = matmul(w.T, down)
    squares = jnp.sum(w**2, axis=0)
    apart = squares[:, None] - squares[None, :]
    near = squares[:, None] * squares[None, :]
    spin = -(overlap + overlap.T) * apart / jnp.where(near > 0, apart**2 + near, 1)
    return jnp.concatenate([down + matmul(w, spin), matmul(axes, spin)])


@partial(jax.jit, static_argnums=(0, 1, 7))
def _arnoldi(loss_fn, num_views, model, w, units, change, flag, num):
    """The Krylov space of the field at W; or, with flag = 1, of N(W + change) - N(W)."""
    field = partial(_field, loss_fn, num_views, model)
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
    """W with its columns made orthogonal and sorted by length, and the rotation that did it.

    One-sided Jacobi: a column far smaller than another keeps its digits, which SVD would not.
    """
    order = np.argsort(-np.linalg.norm(w, axis=0), kind="stable")
    w, turn = w[:, order].copy(), np.eye(w.shape[1])[:, order]
    for _ in range(30):
        largest = 0.0
        for i in range(w.shape[1] - 1):
            for j in range(i + 1, w.shape[1]):
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
                    m[:, i], m[:, j] = (
                        c * (m[:, i] - tangent * m[:, j]),
                        c * (m[:, j] + tangent * m[:, i]),
                    )
        if largest < 1e-12:
            break
    order = np.argsort(-np.linalg.norm(w, axis=0), kind="stable")
    return w[:, order], turn[:, order]


def _turns_with(loss_fn, num_views: int, model: Model, dim: int) -> bool:
    """Whether the loss does not see a rotation of the embeddings, by its gradient at random."""
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.standard_normal((model.features.shape[0], dim)))
    rotation = jnp.asarray(np.linalg.qr(rng.standard_normal((dim, dim)))[0])
    of = partial(gradient, loss_fn, num_views)
    wanted = matmul(of(z), rotation)
    gap = jnp.linalg.norm(of(matmul(z, rotation)) - wanted)
    return bool(gap < 1e-8 * jnp.linalg.norm(wanted))
