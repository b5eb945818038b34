"""Fixtures for tests. What also concerns docstring examples is in the conftest.py above."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def count_compilations() -> Iterator[Callable[..., int]]:
    """How many programs are compiled by calls with all values but the first."""
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def count(function: Callable[..., object], values: Sequence[object]) -> int:
        function(values[0])
        compiled.clear()
        for value in values[1:]:
            function(value)
        return len(compiled)

    jax.monitoring.register_event_duration_secs_listener(listen)
    # That it is heard at all.
    assert count(lambda n: jax.jit(lambda x: x + n)(jnp.zeros(n)), [2, 3]) > 0
    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def plain_blocks() -> Callable[[str], list[str]]:
    """Of a page of docs/, the blocks that its build does not run, as what they need is not there.

    Each runs in a test, where it is.
    """

    def of(page: str) -> list[str]:
        blocks: list[list[str]] = []
        fence: str | None = None
        for line in (Path(__file__).parent.parent / "docs" / page).read_text().splitlines():
            if fence is None and line.startswith("```"):
                fence = line
                blocks += [[]] if fence == "```" else []
            elif line == "```":
                fence = None
            elif fence == "```":
                blocks[-1].append(line)
        return ["\n".join(block) for block in blocks]

    return of


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[jnp.dtype]:
    """Each floating-point type, the one of two with double precision enabled."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Signatures unchecked, as they are for users: for tests of what a wrong shape tells them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
