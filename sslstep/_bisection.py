"""Where a condition stops to hold, found by halving."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


def bisect(holds: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """Ends 2^60 times as close, elementwise; the lower one holds if the given one does."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        good = holds(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    return jax.lax.fori_loop(0, 60, halve, (low, high))
