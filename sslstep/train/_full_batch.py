"""Full-batch gradient descent of any model, compiled as one loop."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree, Real

from sslstep import _check, _xla
from sslstep.simulate import DivergenceError, record_steps


class Descent(NamedTuple):
    r"""Result of full-batch gradient descent with T records.

    Attributes:
        params: parameters after the last step.
        records: values of ``measure``: its pytree, each leaf with a new leading axis of length T.
        times: effective time t = learning rate × step of each record, shape ``(T,)``.
    """

    params: PyTree
    records: PyTree
    times: Float[Array, " T"]


def full_batch_descent(
    loss_fn: Callable[..., Array],
    params: PyTree,
    learning_rate: Real[ArrayLike, ""],
    num_steps: int,
    *,
    args: Sequence[Any] = (),
    record_at: Sequence[int] | np.ndarray | None = None,
    measure: Callable[..., Any] | None = None,
    on_record: Callable[[int], None] | None = None,
) -> Descent:
    r"""Run gradient descent on the loss of all samples, as in Appendix D.1.

    .. math:: \theta \leftarrow \theta - \eta \nabla_\theta \mathcal{L}(\theta; \mathrm{args})

    with parameters θ, loss :math:`\mathcal{L}` and learning rate η. The whole run is one compiled
    loop. JAX reuses the program while ``loss_fn``, ``measure`` and ``on_record`` are the same
    functions and shapes and the number of records are the same. Pass data through ``args``, not in
    a closure. Other data of the same shapes, another learning rate or other recorded steps then
    need no compilation.

    Args:
        loss_fn: ``loss_fn(params, *args)``, a scalar.
        params: initial parameters, a pytree of floating-point arrays; not modified.
        learning_rate: η > 0; traced.
        num_steps: number of steps.
        args: further arguments of ``loss_fn`` and ``measure``: pytrees of arrays, traced.
        record_at: steps to record, strictly increasing, within 0...num_steps. Default: 0 and
            ``num_steps``.
        measure: ``measure(params, *args)``, a pytree of arrays to record. Default: the loss.
        on_record: function that is called with the step number at every record, during the run.

    Returns:
        :class:`Descent`. Under ``jit`` or ``vmap`` a diverging run raises no error: it stops at the
        first step whose loss is not finite, and repeats that step's record.

    Raises:
        ValueError: if the learning rate or ``record_at`` is out of range, or the loss is not a
            scalar.
        DivergenceError: if the loss is no longer finite. The message states the step.

    Example:
        >>> import jax.numpy as jnp
        >>> from sslstep import train
        >>> def half_square(theta, target):
        ...     return 0.5 * jnp.sum((theta - target) ** 2)
        >>> target = jnp.array([1.0, 2.0])
        >>> run = train.full_batch_descent(half_square, jnp.zeros(2), 0.5, 20, args=(target,))
        >>> run.params.round(3), run.records.round(3)
        (Array([1., 2.], dtype=float32), Array([2.5, 0. ], dtype=float32))
    """
    _check.require_within("learning_rate", learning_rate, above=0.0)
    steps = record_steps(num_steps, max(num_steps, 1), record_at)
    shape = jax.eval_shape(loss_fn, params, *args).shape
    if shape != ():
        raise ValueError(f"loss_fn must return a scalar, got shape {shape}.")
    learning_rate = jnp.asarray(learning_rate, float)
    stops = steps if steps[-1] == num_steps else np.append(steps, num_steps)
    final, records, bad_step = _descend(
        params,
        tuple(args),
        learning_rate,
        jnp.asarray(stops),
        on_cpu=_xla.on_cpu(_xla.devices_of((params, args))),
        loss_fn=loss_fn,
        measure=measure or loss_fn,
        on_record=on_record,
    )
    if _check.is_concrete(bad_step) and int(bad_step) >= 0:
        raise DivergenceError(
            f"gradient descent diverged: the loss is no longer finite at step {int(bad_step)} "
            f"(t = {int(bad_step) * float(learning_rate):.4g}). The learning rate is "
            f"{float(learning_rate):.3g}: choose a smaller one."
        )
    records = jax.tree.map(lambda leaf: leaf[: len(steps)], records)
    return Descent(final, records, learning_rate * jnp.asarray(steps, float))


@partial(jax.jit, static_argnames=("on_cpu", "loss_fn", "measure", "on_record"))
def _descend(params, args, learning_rate, stops, *, on_cpu, **functions):
    """Return final parameters, records at the stops, and the first step of infinite loss or -1."""
    descend = _xla.prepared(partial(_descended, **functions), on_cpu)
    return descend(params, args, learning_rate, stops)


def _descended(params, args, learning_rate, stops, *, loss_fn, measure, on_record):
    value_and_grad = jax.value_and_grad(loss_fn)

    def step(carry):
        params, count, _ = carry
        loss, grads = value_and_grad(params, *args)
        good = jnp.isfinite(loss)
        params = jax.tree.map(
            lambda p, g: jnp.where(good, p - learning_rate.astype(p.dtype) * g, p), params, grads
        )
        return params, count + good.astype(count.dtype), good

    def advance(carry, stop):
        carry = jax.lax.while_loop(lambda c: (c[1] < stop) & c[2], step, carry)
        if on_record is not None:
            jax.debug.callback(on_record, carry[1])
        return carry, measure(carry[0], *args)

    start = (params, jnp.zeros((), stops.dtype), jnp.array(True))
    (params, count, good), records = jax.lax.scan(advance, start, stops)
    good &= jnp.isfinite(loss_fn(params, *args))
    return params, records, jnp.where(good, -1, count)
