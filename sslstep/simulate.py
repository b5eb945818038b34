r"""Training of the linear model by gradient descent or gradient flow on the loss of Eq. 5.

The weights W have shape (d, m), and Γ has shape (m, m). The simulations use the eigenbasis V of Γ,
an exact change of variables: with :math:`A = W V` and :math:`\Lambda = V^\top \Gamma V` diagonal,
Eq. 6 is

.. math:: \frac{dA}{dt} = -4 (A \Lambda A^\top - I) A \Lambda .

A step costs O(d² m) operations instead of the O(d m²) of a dense Γ. This form is also more accurate
in float32: in the original coordinates the rounding of learned modes, which share the entries of W,
is larger than a mode of size 1e-7.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Real

from sslstep import _check, _flow, _xla
from sslstep._linalg import HIGHEST, eigh_descending, matmul, solver_error
from sslstep.dynamics import max_learning_rate
from sslstep.linear import Modes, modes
from sslstep.linear._modes import require_weights

__all__ = ["DivergenceError", "Trajectory", "flow", "gradient_descent", "gradient_flow"]


class DivergenceError(FloatingPointError):
    """Gradient descent produced infinity or NaN; the message names the step."""


class Trajectory(NamedTuple):
    r"""A recorded training run of the linear model: T records of weights (d, m).

    Attributes:
        times: effective time t = learning rate × step of each record, shape ``(T,)``.
        loss: :math:`\|C - I\|_F^2`, shape ``(T,)``.
        eigenvalues: eigenvalues of :math:`C = W \Gamma W^\top`, descending, shape ``(T, d)``. Their
            error is some eps of the largest: in float32, once a mode is learned, eigenvalues below
            1e-7 are rounding, of either sign. The coefficients have a small relative error. To
            resolve small eigenvalues of a record ``a``, compute
            ``np.linalg.eigvalsh(a * gammas @ a.T)`` in float64, with Γ's eigenvalues ``gammas``.
        coefficients: :math:`A = W V`, the weights in the eigenbasis of Γ, shape ``(T, d, m)``;
            from :func:`gradient_descent` without ``keep_weights``, those of the last record only,
            shape ``(1, d, m)``.
        eigenvectors: V, the eigenvectors of Γ as columns, shape ``(m, m)``.
    """

    times: Float[Array, " T"]
    loss: Float[Array, " T"]
    eigenvalues: Float[Array, "T d"]
    coefficients: Float[Array, "kept d m"]
    eigenvectors: Float[Array, "m m"]

    @property
    def weights(self) -> Float[Array, "kept d m"]:
        """The weights W = A Vᵀ, in the shape of ``coefficients``; each access costs O(T d m²)."""
        return jnp.einsum("tik,jk->tij", self.coefficients, self.eigenvectors, precision=HIGHEST)


def gradient_descent(
    weights: Float[ArrayLike, "d m"],
    gamma_matrix: Float[ArrayLike, "m m"] | Modes,
    learning_rate: Real[ArrayLike, ""],
    num_steps: int,
    record_every: int = 1,
    *,
    record_at: Sequence[int] | np.ndarray | None = None,
    keep_weights: bool = False,
    on_record: Callable[[int], None] | None = None,
) -> Trajectory:
    r"""Full-batch gradient descent on the simplified Barlow Twins loss of a linear model.

    .. math:: W \leftarrow W - 4 \eta (W \Gamma W^\top - I) W \Gamma

    The steps are computed in the eigenbasis of Γ, in one compiled loop. Modes with γ = 0 do not
    change, and are not computed. If Γ is given as a matrix, and not traced, every mode with \|γ\|
    up to ``(8 + 4 sqrt(m)) eps max|γ|``, the eigensolver's error, counts as one. With
    ``record_every`` the loop has a reverse-mode derivative; with ``record_at`` a forward-mode
    derivative only. Derivatives by Γ go through its modes; :func:`sslstep.linear.modes` describes
    them at repeated eigenvalues.

    A step smaller than half of a weight's last digit does not change the weight. A mode therefore
    stops at :math:`1 - \lambda` between :math:`\epsilon / 16 \eta\gamma` and
    :math:`\epsilon / 8 \eta\gamma`, where ε is the eps of the dtype: in float32, with η = 5e-5, at
    up to 1e-6 for γ = 282, but at up to 1e-3 for γ = 0.28. Float64 weights and Γ come closer.

    Args:
        weights: W(0), shape ``(d, m)``.
        gamma_matrix: Γ, shape ``(m, m)``; or all m modes of Γ, whose eigenvalues are taken as
            exact.
        learning_rate: η; traced, so that a new value does not recompile.
        num_steps: number of steps.
        record_every: record steps 0, ``record_every``, ... ``num_steps``; must divide
            ``num_steps``.
        record_at: record these steps instead, strictly increasing, within 0...num_steps.
            Logarithmic spacing suits the dynamics. Training ends at the last of them.
        keep_weights: whether to keep the weights of all T records, T d m numbers, instead of those
            of the last record.
        on_record: a function that is called with the step number at every record, from within the
            compiled loop; with ``record_every`` not at step 0.

    Returns:
        :class:`Trajectory`. Under `jit` or `vmap` no error is raised: a run that diverges holds
        NaN.

    Raises:
        ValueError: if shapes do not fit, d > m, Γ is not symmetric, values are not finite, or an
            argument is out of range.
        DivergenceError: if the run diverges; the message names the step.

    Warns:
        UserWarning: if ``learning_rate`` is above :func:`sslstep.dynamics.max_learning_rate`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import linear, simulate
        >>> gamma = jnp.diag(jnp.array([1.0, 0.5, -0.2]))
        >>> weights = linear.init_weights(jax.random.key(0), 2, 3, 1e-3)
        >>> run = simulate.gradient_descent(weights, gamma, 0.05, num_steps=400, record_every=100)
        >>> run.eigenvalues.shape, round(float(run.loss[0])), round(float(run.loss[-1]), 3)
        ((5, 2), 2, 0.0)
    """
    start, all_modes, moving = _prepare(weights, gamma_matrix)
    _check.require_scalar("learning_rate", learning_rate, above=0.0)
    _warn_if_unstable(learning_rate, all_modes.eigenvalues)
    steps = record_steps(num_steps, record_every, record_at)
    learning_rate = jnp.asarray(learning_rate, start.dtype)
    gammas = all_modes.eigenvalues[moving]
    (loss, eigenvalues, finite), kept = _descend(
        start[:, moving],
        gammas,
        learning_rate,
        steps=None if record_at is None else jnp.asarray(np.diff(steps, prepend=0)),
        every=record_every,
        num_records=len(steps),
        keep=keep_weights,
        on_record=on_record,
    )
    _raise_if_diverged(start[:, moving], finite, steps[-1], gammas, learning_rate)
    times = learning_rate * jnp.asarray(steps, start.dtype)
    kept = _reassemble(kept, start, moving)
    return Trajectory(times, loss, eigenvalues, kept, all_modes.eigenvectors)


def gradient_flow(
    weights: Float[ArrayLike, "d m"],
    gamma_matrix: Float[ArrayLike, "m m"] | Modes,
    times: Float[ArrayLike, " T"],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = 1_000_000,
) -> Trajectory:
    r"""Gradient flow (Eq. 6) of the linear model, integrated by diffrax in the eigenbasis.

    The integrator is an adaptive explicit Runge-Kutta method of order 5 (Tsit5). Stability at
    learned fast modes limits its step to about :math:`0.4 / \gamma_1`, for any tolerance. Modes
    with γ = 0 are not computed: see :func:`gradient_descent`. Derivatives by Γ go through its
    modes; :func:`sslstep.linear.modes` describes them at repeated eigenvalues.

    Args:
        weights: W(0), shape ``(d, m)``.
        gamma_matrix: Γ, shape ``(m, m)``; or all m modes of Γ.
        times: times ≥ 0 at which to record, non-decreasing, shape ``(T,)``.
        rtol: relative tolerance of a step; traced. Default: ``0.01 * sqrt(eps)`` of the dtype.
        atol: absolute tolerance of an element of A; traced. Default: ``rtol`` times the root mean
            square of the initial weights, which resolves growth from a small start.
        max_steps: largest number of the integrator's steps; None: no limit.

    Raises:
        ValueError: if shapes do not fit, d > m, Γ is not symmetric, values are not finite, or
            ``times`` are out of order.
        RuntimeError: if the integrator does not reach the last time in ``max_steps`` steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import linear, simulate
        >>> gamma = jnp.diag(jnp.array([1.0, 0.5]))
        >>> run = simulate.gradient_flow(0.1 * jnp.eye(2), gamma, jnp.array([0.0, 1.0]))
        >>> expected = linear.singular_value(1.0, jnp.array([1.0, 0.5]), 0.1)
        >>> bool(jnp.allclose(jnp.diagonal(run.weights[-1]), expected, rtol=1e-4))
        True
    """
    start, all_modes, moving = _prepare(weights, gamma_matrix)
    gammas = all_modes.eigenvalues[moving]
    times = _flow.recorded_times("times", times, start.dtype)
    # In units of the largest weight, because squares of very small or large weights leave the range
    # of the dtype. The unit has a lower bound, so that learned weights do not overflow.
    unit = jnp.abs(start).max()
    unit = jnp.where(unit > 0, jnp.maximum(unit, jnp.finfo(start.dtype).tiny ** 0.75), 1)
    relative = jnp.asarray(_flow.default_rtol(start.dtype) if rtol is None else rtol, start.dtype)
    if atol is None:
        scale = jnp.sqrt(jnp.mean((start / unit) ** 2))
        absolute = relative * jnp.where(scale > 0, scale, 1)
    else:
        absolute = jnp.asarray(atol, start.dtype) / unit
    # Time in units of the fastest mode's time constant.
    fastest = jnp.abs(gammas).max(initial=0)
    fastest = jnp.where(fastest > 0, fastest, 1)
    found = _flow.integrate(
        _flow_field,
        start[:, moving] / unit,
        times * fastest,
        (gammas / fastest, unit, fastest),
        max_steps=max_steps,
        dt0=0.01,
        rtol=relative,
        atol=absolute,
    )
    found = found * unit
    loss, eigenvalues, _ = jax.vmap(_measures, (0, None))(found, gammas)
    kept = _reassemble(found, start, moving)
    return Trajectory(times, loss, eigenvalues, kept, all_modes.eigenvectors)


def flow(
    velocity: Callable[[PyTree], PyTree],
    weights: PyTree,
    times: Float[ArrayLike, " T"],
    *,
    rtol: float | None = None,
    max_steps: int | None = 1_000_000,
) -> PyTree:
    r"""Integrate :math:`w' = v(w)` for the weights w of any model, by diffrax.

    For gradient flow v is minus the gradient of the loss. The absolute tolerance of an array is
    relative to its largest initial element, which resolves growth from a small start. For an array
    of zeros, such as the biases, it is relative to the largest element of all arrays, or to 1.

    Args:
        velocity: v, from a pytree of arrays to a pytree of the same shapes. The function is static.
            To trace its parameters, bind them with :class:`jax.tree_util.Partial`; new values of
            them do not recompile.
        weights: w(0), a pytree of arrays.
        times: times ≥ 0 at which to record, non-decreasing, shape ``(T,)``.
        rtol: relative tolerance of a step, and factor of the absolute tolerances. Default: ``0.01 *
            sqrt(eps)`` of the dtype.
        max_steps: largest number of the integrator's steps; None: no limit.

    Returns:
        The weights at these times: each array with an additional first axis of length T.

    Raises:
        ValueError: if ``times`` is not a vector, or is negative, infinite or out of order.
        RuntimeError: if the integrator does not reach the last time in ``max_steps`` steps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from sslstep import simulate
        >>> decay = simulate.flow(lambda w: -w, jnp.ones(2), jnp.array([0.0, 1.0]))
        >>> bool(jnp.allclose(decay[1], jnp.exp(-1.0), rtol=1e-4))
        True
    """
    weights = jax.tree.map(partial(_check.as_float, "weights"), weights)
    dtype = jnp.result_type(*jax.tree.leaves(weights))
    times = _flow.recorded_times("times", times, dtype)
    rtol = _flow.default_rtol(dtype) if rtol is None else rtol
    # Each array in units of its largest initial element: the solver has one tolerance for all.
    sizes = jax.tree.map(lambda w: jnp.abs(w).max(), weights)
    largest = jnp.max(jnp.stack(jax.tree.leaves(sizes)))
    other = jnp.where(largest > 0, largest, 1)
    units = jax.tree.map(lambda size: jnp.where(size > 0, size, other.astype(size.dtype)), sizes)
    start = jax.tree.map(jnp.divide, weights, units)
    args = _xla.as_partial(velocity), units
    settings: Any = {"rtol": rtol, "atol": rtol, "norm": _largest, "max_steps": max_steps}
    found = _flow.integrate(_scaled_velocity, start, times, args, **settings)
    return jax.tree.map(lambda w, unit: w * unit, found, units)


def _scaled_velocity(t: ArrayLike, w: PyTree, args: tuple[Any, PyTree]) -> PyTree:
    """Velocity of weights in the given units; at module level, so that diffrax compiles it once."""
    velocity, units = args
    return jax.tree.map(jnp.divide, velocity(jax.tree.map(jnp.multiply, w, units)), units)


def _largest(errors: PyTree) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(each)) for each in jax.tree.leaves(errors)]))


def _flow_field(t: ArrayLike, a: Array, args: tuple[Array, Array, Array]) -> Array:
    """`_velocity` in diffrax's form; at module level, so that diffrax compiles it once."""
    return _velocity(a, *args)


def _velocity(a: Array, gammas: Array, unit: ArrayLike = 1, fastest: ArrayLike = 1) -> Array:
    """Return dA/dt of Eq. 6 in the eigenbasis; A in units of `unit`, γ and 1/t of `fastest`."""
    scaled = a * gammas[None, :]
    correlation = matmul(scaled * unit * fastest, (a * unit).T)
    rest = jnp.eye(a.shape[0], dtype=a.dtype) - correlation
    return 4 * matmul(rest, scaled)


def _measures(a: Array, gammas: Array) -> tuple[Array, Array, Array]:
    """Return the loss, the eigenvalues of C, and whether the coefficients A are finite."""
    correlation = matmul(a * gammas[None, :], a.T)
    rest = correlation - jnp.eye(a.shape[0], dtype=a.dtype)
    return jnp.sum(rest**2), eigh_descending(correlation)[0], jnp.isfinite(a).all()


@partial(jax.jit, static_argnames=("every", "num_records", "keep", "on_record"))
def _descend(a, gammas, learning_rate, *, steps, every, num_records, keep, on_record):
    """Descend and return `_measures` at each record, and the coefficients A.

    With `keep` the coefficients are those of each record, otherwise of the last. `steps` holds the
    number of steps between records; None: `every` steps.
    """

    def step(_, a):
        return a + learning_rate * _velocity(a, gammas)

    def advance(carry, count):
        a, done = carry
        # A static number of steps becomes a scan, which has a reverse-mode derivative.
        a = jax.lax.fori_loop(0, every if count is None else count, step, a)
        done = done + (every if count is None else count)
        if on_record is not None:
            jax.debug.callback(on_record, done)
        return (a, done), record(a)

    def record(a):
        return _measures(a, gammas), a if keep else None

    if steps is not None:
        zero = jnp.zeros((), steps.dtype)
        (a, _), (measures, kept) = jax.lax.scan(advance, (a, zero), steps)
    else:
        first, zero = record(a), jnp.zeros((), int)
        (a, _), rest = jax.lax.scan(advance, (a, zero), None, length=num_records - 1)
        measures, kept = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, rest)
    return measures, kept if keep else a[None]


def _prepare(weights, gamma_matrix) -> tuple[Array, Modes, np.ndarray]:
    """Return the weights in the eigenbasis of Γ, its modes, and the columns that change."""
    if isinstance(gamma_matrix, Modes):
        rows, columns = _check.shape_of(gamma_matrix.eigenvectors)
        if rows != columns:
            raise ValueError(
                f"a simulation needs all modes of Γ, got {columns} of {rows}: call "
                f"modes(gamma_matrix) without num."
            )
        _check.require_finite("the modes' eigenvalues", gamma_matrix.eigenvalues)
        _check.require_finite("the modes' eigenvectors", gamma_matrix.eigenvectors)
        size = rows
    else:
        _check.require_symmetric("gamma_matrix", gamma_matrix, _check.OF_DATA)
        size = _check.shape_of(gamma_matrix)[0]
    require_weights(weights, size)
    if _check.shape_of(weights)[0] > size:
        raise ValueError(
            f"weights of shape {_check.shape_of(weights)}: the embedding dimension d exceeds "
            f"the number of features m, and a linear model learns at most m dimensions."
        )
    _check.require_finite("weights", weights)
    computed = not isinstance(gamma_matrix, Modes)
    all_modes = modes(gamma_matrix) if computed else gamma_matrix
    start = matmul(_check.as_float("weights", weights), all_modes.eigenvectors)
    return start, all_modes, _moving(all_modes.eigenvalues, computed=computed)


def _moving(eigenvalues: Array, *, computed: bool) -> np.ndarray:
    """Return the indices of the columns of A that change, those of modes with γ ≠ 0.

    Γ of n pairs has at least m - 2n modes with γ = 0. With `computed`, |γ| up to the eigensolver's
    error counts as 0. Under a trace all indices are returned.
    """
    if not _check.is_concrete(eigenvalues):
        return np.arange(eigenvalues.shape[0])
    with jax.ensure_compile_time_eval():
        cutoff = float(solver_error(eigenvalues, eigenvalues.shape[0])) if computed else 0.0
    return np.flatnonzero(np.abs(np.asarray(eigenvalues)) > cutoff)


def _reassemble(records: Array, start: Array, moving: np.ndarray) -> Array:
    if len(moving) == start.shape[1]:
        return records
    full = jnp.broadcast_to(start[None], (records.shape[0], *start.shape))
    return full.at[:, :, moving].set(records)


def record_steps(num_steps: int, record_every: int, record_at) -> np.ndarray:
    """Check and return the steps to record: `record_at`, or multiples of `record_every`."""
    _check.require_within("num_steps", num_steps, at_least=0)
    if record_at is None:
        _check.require_within("record_every", record_every, at_least=1)
        if num_steps % record_every:
            raise ValueError(
                f"record_every = {record_every} does not divide num_steps = {num_steps}: the last "
                f"steps would go unrecorded. Choose another, or give record_at."
            )
        return np.arange(0, num_steps + 1, record_every)
    steps = np.asarray(record_at)
    if steps.ndim != 1 or steps.size == 0 or not np.issubdtype(steps.dtype, np.integer):
        raise ValueError(f"record_at must be a sequence of whole step numbers, got {record_at!r}.")
    if (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] > num_steps:
        raise ValueError(
            f"record_at must increase strictly within 0...num_steps = {num_steps}; it runs from "
            f"{steps[0]} to {steps[-1]}."
        )
    return steps


def _warn_if_unstable(learning_rate, eigenvalues) -> None:
    if not _check.is_concrete(learning_rate, eigenvalues):
        return
    with jax.ensure_compile_time_eval():
        limit = float(max_learning_rate(eigenvalues))
        first, last = float(eigenvalues[0]), float(eigenvalues[-1])
    if float(learning_rate) >= limit:
        warnings.warn(
            f"learning_rate = {float(learning_rate):.3g} is above the stability limit "
            f"{limit:.3g}, set by the eigenvalues of Γ, {first:.3g} ... {last:.3g} "
            f"(see max_learning_rate).",
            stacklevel=3,
        )


def _raise_if_diverged(start, finite, num_steps, gammas, learning_rate) -> None:
    if not _check.is_concrete(finite) or bool(finite.all()):
        return
    step = int(_first_bad(start, gammas, learning_rate, num_steps))
    raise DivergenceError(
        f"gradient descent diverged: the weights are no longer finite at step {step} "
        f"(t = {step * float(learning_rate):.4g}). The learning rate is "
        f"{float(learning_rate):.3g}, its "
        f"limit {float(max_learning_rate(gammas)):.3g}."
    )


@jax.jit
def _first_bad(a, gammas, learning_rate, num_steps):
    """Repeat the descent, and return the number of the first step whose weights are not finite."""

    def goes_on(state):
        return jnp.isfinite(state[0]).all() & (state[1] < num_steps)

    def advance(state):
        return state[0] + learning_rate * _velocity(state[0], gammas), state[1] + 1

    return jax.lax.while_loop(goes_on, advance, (a, jnp.zeros((), int)))[1]
