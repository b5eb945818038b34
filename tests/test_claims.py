"""Claims: which side counts, what never holds, and the way to disk and back."""

import json
import math

import numpy as np
import pytest

from sslstep import claims


@pytest.mark.parametrize(
    ("kind", "measured", "holds"),
    [
        (claims.close, 1.05, True),
        (claims.close, 0.95, True),
        (claims.close, 1.2, False),
        (claims.below, -5.0, True),
        (claims.below, 1.05, True),
        (claims.below, 1.2, False),
        (claims.above, 5.0, True),
        (claims.above, 0.95, True),
        (claims.above, 0.8, False),
        (claims.close, math.nan, False),
        (claims.below, -math.inf, False),
        (claims.above, math.inf, False),
    ],
)
def test_which_side_counts(kind, measured, holds):
    assert kind("s", "w", expected=1.0, measured=measured, tolerance=0.1).holds is holds


def test_save_and_load(tmp_path):
    made = [
        claims.close("ά", "Eq. 1", expected=1, measured=math.nan, tolerance=0.1),
        claims.below("b", "Eq. 2", measured=math.inf, tolerance=0.1),
        claims.above("c", "Eq. 3", expected=1.0, measured=2.0),
        claims.above("d", "Eq. 4", expected=3.0, measured=2.0).known_to_fail("3 > 2"),
    ]
    path = tmp_path / "claims.json"
    claims.save(path, made)
    back = claims.load(path)
    assert math.isnan(back[0].measured)
    assert back[1:] == made[1:]
    assert [path] == list(tmp_path.iterdir())  # no draft is left behind
    text = claims.table([("one", back), ("two", [])])
    assert "1 of 4 claims hold." in text
    assert text.count("  NO ") == 3
    assert text.count("        does not hold, because ") == 1
    assert "        does not hold, because 3 > 2" in text
    assert "        2 >=          1          0  Eq. 3" in text
    assert "inf <=          0        0.1  Eq. 2" in text


def test_claims_of_before_they_had_a_side_and_a_declaration(tmp_path):
    path = tmp_path / "claims.json"
    claims.save(path, [claims.above("c", "Eq. 3", expected=1.0, measured=2.0)])
    rows = json.loads(path.read_text())
    del rows[0]["relation"], rows[0]["known_failure"]
    path.write_text(json.dumps(rows))
    (old,) = claims.load(path)
    assert (old.relation, old.known_failure) == ("", "")


@pytest.mark.parametrize("text", ["", "{}x", '[{"statement": "s"}]', '["s"]', "3"])
def test_a_corrupt_file_is_named(tmp_path, text):
    path = tmp_path / "claims.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"claims.json does not hold claims"):
        claims.load(path)


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        # Of (10, 12): mean 11, half width 12.706; of (10.9, 11.1): 1.27; both by Student's table.
        (">=", [10.0, 12.0], None),
        (">=", [12.9, 13.1], True),
        (">=", [6.9, 7.1], False),
        ("<=", [6.9, 7.1], True),
        ("<=", [12.9, 13.1], False),
        ("<=", [10.9, 11.1], None),
        ("=", [10.9, 11.1], True),
        ("=", [12.9, 13.1], None),
        ("=", [13.9, 14.1], False),
        ("=", [5.9, 6.1], False),
        (">=", [100.0], None),
        (">=", [11.0, 11.0, 11.0], True),
        (">=", [20.0, 30.0, math.nan], False),
        ("<=", [-math.inf, 0.0], False),
    ],
)
def test_over_seeds_the_interval_decides(relation, measured, holds):
    made = claims.over_seeds(
        "s", "w", relation, expected=10, measured=measured, tolerance=2.5 * (relation == "=")
    )
    assert made.holds is holds
    assert made.seeds == pytest.approx(measured, nan_ok=True)


def test_more_spread_never_makes_a_claim_hold():
    for relation in ("=", "<=", ">="):
        for middle in (8.0, 9.9, 10.0, 10.1, 12.0):
            verdicts = [
                claims.over_seeds(
                    "s",
                    "w",
                    relation,
                    expected=10,
                    measured=[middle - spread, middle + spread],
                    tolerance=0.5,
                ).holds
                for spread in (0.0, 1e-3, 0.01, 0.1, 1.0, 10.0)
            ]
            held = [verdict is True for verdict in verdicts]
            assert held == sorted(held, reverse=True)
            assert verdicts[-1] is None


def test_the_interval_has_the_coverage_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, size=(2000, 3))
    covered = np.mean(
        [
            made.interval[0] <= 3.0 <= made.interval[1]
            for made in (claims.over_seeds("s", "w", "=", measured=row.tolist()) for row in draws)
        ]
    )
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_undecided_claims_survive_the_disk_and_are_counted(tmp_path):
    made = [
        claims.over_seeds("a", "w", ">=", expected=1.0, measured=[3.0]),
        claims.over_seeds("b", "w", "<=", expected=1.0, measured=[0.5, 0.5]),
        claims.over_seeds("c", "w", "<=", expected=1.0, measured=[0.5, math.inf]),
    ]
    path = tmp_path / "claims.json"
    claims.save(path, made)
    assert claims.load(path) == made
    text = claims.table([("one", made)])
    assert "1 of 3 claims hold, 1 undecided." in text
    assert "one seed, which decides nothing" in text
    assert "2 seeds: mean within 0.5 to 0.5" in text


@pytest.mark.parametrize(("measured", "confidence"), [([], 0.95), ([1.0], 1.0), ([1.0], 0.0)])
def test_over_seeds_refuses(measured, confidence):
    with pytest.raises(ValueError, match=r"measured|confidence"):
        claims.over_seeds("s", "w", "=", measured=measured, confidence=confidence)
