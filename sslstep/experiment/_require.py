"""Checks of settings, for all experiments: an error names the setting, its value and what it takes.

A setting of several numbers is good if all of them are.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from sslstep._check import require_at_least


def require(
    config: Any,
    *,
    at_least: Mapping[str, float] | None = None,
    positive: Collection[str] = (),
    fraction: Collection[str] = (),
    at_most_one: Collection[str] = (),
    of: str = "",
) -> None:
    """Refuse settings out of range.

    Args:
        config: whose attributes are looked at.
        at_least: the least value of each of these.
        positive: these are above 0 and finite.
        fraction: these are between 0 and 1, both excluded.
        at_most_one: these are above 0 and at most 1.
        of: what stands before a setting's name, such as "simclr.".
    """
    for name, bound in (at_least or {}).items():
        require_at_least(of + name, getattr(config, name), bound)
    for name in positive:
        value = getattr(config, name)
        require_at_least(of + name, value, 0, strict=True)
        if not np.isfinite(value).all():
            raise ValueError(f"{of}{name} must be finite, got {value}.")
    for name in (*fraction, *at_most_one):
        value, or_one = getattr(config, name), name in at_most_one
        numbers = np.asarray(value)
        if not ((numbers > 0) & (numbers <= 1 if or_one else numbers < 1)).all():
            also = ", or be 1" if or_one else ""
            raise ValueError(f"{of}{name} must lie between 0 and 1{also}, got {value}.")


def require_widths(widths: tuple[int, ...], fit_from: int) -> None:
    """Refuse widths in which no power law can be fitted from `fit_from` on."""
    if len(widths) < 2 or list(widths) != sorted(set(widths)) or widths[0] < 1:
        raise ValueError(f"widths must be at least two, increasing from 1 or more, got {widths}.")
    if sum(width >= fit_from for width in widths) < 2:
        raise ValueError(
            f"fit_from = {fit_from} leaves fewer than two of the widths {widths} for the fit."
        )
