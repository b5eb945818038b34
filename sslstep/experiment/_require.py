"""Checks of experiments' settings; an error names the setting, its value and the allowed values.

A setting that holds several numbers is valid if all of them are.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sslstep._check import require_within


def require(
    config: Any,
    *,
    at_least: Mapping[str, float] | None = None,
    positive: Collection[str] = (),
    fraction: Collection[str] = (),
    at_most_one: Collection[str] = (),
    of: str = "",
) -> None:
    """Raise ValueError unless the named settings of `config` are in their ranges.

    They are at least a bound (`at_least`); positive and finite; in (0, 1); or in (0, 1]. `of` is
    the prefix of a setting's name in the error, such as "simclr.".
    """
    for name, bound in (at_least or {}).items():
        require_within(of + name, getattr(config, name), at_least=bound)
    for name in positive:
        value = getattr(config, name)
        require_within(of + name, value, above=0)
        if not np.isfinite(value).all():
            raise ValueError(f"{of}{name} must be finite, got {value}.")
    for name in (*fraction, *at_most_one):
        value, or_one = getattr(config, name), name in at_most_one
        numbers = np.asarray(value)
        if not ((numbers > 0) & (numbers <= 1 if or_one else numbers < 1)).all():
            also = ", or be 1" if or_one else ""
            raise ValueError(f"{of}{name} must lie between 0 and 1{also}, got {value}.")


def require_list(
    name: str,
    values: Sequence[Any],
    *,
    least: int = 1,
    order: Literal["each once", "increasing", "decreasing"] = "each once",
) -> None:
    """Raise ValueError unless there are at least `least` values, each once, in the named order."""
    ordered = values if order == "each once" else sorted(values, reverse=order == "decreasing")
    if len(values) < least or len(set(values)) < len(values) or list(values) != list(ordered):
        number = ("zero", "one", "two", "three", "four")[least]
        raise ValueError(f"{name} must be {number} or more, {order}, got {values}.")


def require_descent(recipe: Any) -> None:
    """Raise ValueError unless a recipe is plain gradient descent, which the theory describes."""
    found = recipe.optimizer, recipe.momentum, recipe.schedule
    if found != ("sgd", 0, "constant"):
        raise ValueError(
            "the theory is of plain gradient descent: optimizer must be sgd, momentum 0, schedule "
            f"constant, got {found[0]}, {found[1]}, {found[2]}."
        )


def require_widths(widths: tuple[int, ...], fit_from: int) -> None:
    """Raise ValueError unless widths increase and at least two of them are `fit_from` or more."""
    require_within("widths", widths, at_least=1)
    require_list("widths", widths, least=2, order="increasing")
    if sum(width >= fit_from for width in widths) < 2:
        raise ValueError(
            f"fit_from = {fit_from} leaves fewer than two of the widths {widths} for the fit."
        )
