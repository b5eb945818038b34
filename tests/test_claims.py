"""Claims: which side counts, what never holds, and the way to disk and back."""

import json
import math

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
    ]
    path = tmp_path / "claims.json"
    claims.save(path, made)
    back = claims.load(path)
    assert math.isnan(back[0].measured)
    assert back[1:] == made[1:]
    assert [path] == list(tmp_path.iterdir())  # no draft is left behind
    text = claims.table([("one", back), ("two", [])])
    assert "1 of 3 claims hold." in text
    assert text.count("  NO ") == 2
    assert "        2 >=          1          0  Eq. 3" in text
    assert "inf <=          0        0.1  Eq. 2" in text


def test_claims_of_before_they_had_a_side(tmp_path):
    path = tmp_path / "claims.json"
    claims.save(path, [claims.above("c", "Eq. 3", expected=1.0, measured=2.0)])
    rows = json.loads(path.read_text())
    del rows[0]["relation"]
    path.write_text(json.dumps(rows))
    assert claims.load(path)[0].relation == ""


@pytest.mark.parametrize("text", ["", "{}x", '[{"statement": "s"}]', '["s"]', "3"])
def test_a_corrupt_file_is_named(tmp_path, text):
    path = tmp_path / "claims.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"claims.json does not hold claims"):
        claims.load(path)
