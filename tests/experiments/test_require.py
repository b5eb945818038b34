"""Checks of settings: what they refuse, and that the error says which setting and why."""

from types import SimpleNamespace

import pytest

from sslstep.experiment._require import require, require_list, require_widths

GOOD = SimpleNamespace(
    num=2, sizes=(1, 3), rate=0.5, rates=(0.1, 2.0), share=0.5, scale=1.0, scales=(1.0, 0.5)
)


def check(**changes):
    require(
        SimpleNamespace(**{**vars(GOOD), **changes}),
        at_least={"num": 2, "sizes": 1},
        positive=("rate", "rates"),
        fraction=("share",),
        at_most_one=("scale", "scales"),
        of="one.",
    )


def test_good_settings_pass():
    check()
    check(rates=())
    require_widths((1, 4, 8), 4)
    require_list("scales", (3, 2), least=2, order="decreasing")
    require_list("scales", (), least=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num": 1}, "one.num must be >= 2, got 1"),
        ({"sizes": (3, 0)}, "one.sizes must be >= 1, got 0"),
        ({"rate": 0.0}, "one.rate must be > 0, got 0"),
        ({"rate": float("nan")}, "one.rate must be > 0, got nan"),
        ({"rate": float("inf")}, "one.rate must be finite, got inf"),
        ({"rates": (1.0, -2.0)}, "one.rates must be > 0, got -2"),
        ({"share": 1.0}, "one.share must lie between 0 and 1, got 1.0"),
        ({"share": float("nan")}, "one.share must lie between 0 and 1, got nan"),
        ({"scale": 1.5}, "one.scale must lie between 0 and 1, or be 1, got 1.5"),
        ({"scales": (0.5, 0.0)}, "one.scales must lie between 0 and 1, or be 1, got .0.5, 0.0."),
        ({"scales": (2.0, 0.5)}, "one.scales must lie between 0 and 1, or be 1, got .2.0, 0.5."),
        ({"scale": 0.0}, "one.scale must lie between 0 and 1, or be 1, got 0.0"),
    ],
    ids=str,
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check(**changes)


@pytest.mark.parametrize(
    ("values", "order"),
    [((), "each once"), ((1, 2, 1), "each once"), ((1, 2), "decreasing"), ((2, 1), "increasing")],
)
def test_lists_are_long_enough_without_repetitions_and_in_order(values, order):
    with pytest.raises(ValueError, match=f"scales must be two or more, {order}, got"):
        require_list("scales", values, least=2, order=order)


@pytest.mark.parametrize("widths", [(), (8,), (8, 4), (4, 4), (0, 4)])
def test_widths_increase(widths):
    with pytest.raises(ValueError, match=r"widths must be (two or more, increasing|>= 1)"):
        require_widths(widths, 1)
    with pytest.raises(ValueError, match="fit_from = 5 leaves fewer than two"):
        require_widths((1, 4, 8), 5)
