"""The experiment that runs others with a ResNet-18."""

import pytest

from sslstep import claims
from sslstep.experiment import _run, load, results

pytestmark = pytest.mark.slow  # networks are trained

TINY = {"num-steps": "12", "dim": "4", "batch-size": "16", "hidden": "8"}


def test_figures_and_claims_are_those_of_the_experiments(tmp_path):
    """Each network is trained once, and what is drawn and claimed comes from the experiments."""
    args = ["--backbone", "small", "--stem", "small", "--size", "8", "--num-probe", "32"]
    args += ["--num-records", "6", "--num-images", "64", "--num-labelled", "40"]
    args += ["--num-snapshots", "3", "--num-pairs", "8", "--methods", "barlow_twins"]
    for key, value in TINY.items():
        args += [f"--small.barlow-twins.{key}", value, f"--standard.barlow-twins.{key}", value]
    experiment = load("experiments.beyond.resnet18")
    out, runs = tmp_path / "out", tmp_path / "runs"
    assert _run.main(experiment, [*args, "--runs", str(runs), "--out", str(out)]) == 0
    assert len(list(runs.glob("*/metrics.jsonl"))) == 2
    assert {path.stem for path in out.glob("*.png")} == {
        "small",
        "standard",
        "standard_histograms",
        "accuracy",
        "alignment",
        "predicted_steps",
    }
    assert "### Table 1" in (out / "table.md").read_text(encoding="utf-8")
    statements = [claim.statement for claim in claims.load(out / "claims.json")]
    for told in ("dimensions learned", "one band", "small initialisation ends", "initial NTK"):
        assert any(told in statement for statement in statements), told
    assert results.load(out).arrays["small/barlow_twins/0/loss"].shape == (12,)
