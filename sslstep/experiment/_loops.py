"""Parts of experiments' loops: recorded steps, a progress bar of training, stacked results."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm import tqdm

from sslstep.experiment._record import Arrays


def geometric_steps(num_steps: int, num: int) -> np.ndarray:
    """Return at most `num` steps from 1 to `num_steps`, geometrically spaced."""
    return np.unique(np.geomspace(1, num_steps, num).astype(int))


@contextmanager
def progress(
    num_steps: int, runs: int = 1, desc: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of `runs` training runs of `num_steps` steps each.

    Yields a function that moves the bar to a step of the current run, for `on_record`.
    """
    total = num_steps * runs
    with tqdm(total=total, desc=desc, unit=" steps", unit_scale=True, disable=None) as bar:

        def advance(step: Any) -> None:
            bar.update(bar.n // num_steps * num_steps + int(step) - bar.n)

        yield advance


def stacked(found: Iterable[Mapping[str, Any]]) -> Arrays:
    """Stack arrays of equal names, in order; mappings without a name are left out for it."""
    found = list(found)
    names = dict.fromkeys(name for one in found for name in one)
    return {name: np.stack([one[name] for one in found if name in one]) for name in names}
