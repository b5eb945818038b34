"""Integration of gradient flows by diffrax, which is imported when it is first used."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree

from sslstep import _check


def recorded_times(name: str, times: ArrayLike, dtype: DTypeLike) -> Array:
    """Check that times are a vector, finite, >= 0 and non-decreasing; convert them to the dtype."""
    _check.require_vector(name, times, "(T,)")
    _check.require_within(name, times, at_least=0.0)
    _check.require_increasing(name, times, strict=False)
    _check.require_finite(name, times)
    return jnp.asarray(times, dtype)


def default_rtol(dtype: Any) -> float:
    """Return 0.01 times the root of the dtype's eps, the default tolerance of a step."""
    return 1e-2 * float(jnp.finfo(dtype).eps) ** 0.5


def integrate(
    field: Callable[..., PyTree],
    start: PyTree,
    times: Array,
    args: Any,
    *,
    rtol: ArrayLike,
    atol: ArrayLike,
    max_steps: int | None,
    dt0: float | None = None,
    **controller: Any,
) -> PyTree:
    """Return y at each time, for y' = field(t, y, args) with y(0) = start, by diffrax's Tsit5.

    `controller` holds further settings of diffrax's PIDController. A field at module level is
    compiled once. Raise RuntimeError if the integrator does not reach the last time.
    """
    import diffrax

    # diffrax compiles each Python number anew.
    controller |= {"rtol": jnp.asarray(rtol), "atol": jnp.asarray(atol)}
    try:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=jnp.zeros((), times.dtype),
            t1=jnp.maximum(times[-1], jnp.finfo(times.dtype).tiny),
            dt0=dt0,
            y0=start,
            args=args,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(**controller),
            max_steps=max_steps,
        )
    except RuntimeError as error:
        if "number of solver steps" not in str(error):  # one of the field's own
            raise
        raise RuntimeError(
            f"the integrator did not reach the last time in max_steps = {max_steps} steps: allow "
            f"more, give a larger rtol, or look whether the solution grows without bound."
        ) from None
    return solution.ys
