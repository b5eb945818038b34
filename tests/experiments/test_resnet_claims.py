"""Claims about trained ResNets, on synthetic runs: each holds where it should and can fail."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.fig3_4 import claims as fig3_4_claims
from experiments.fig3_4 import experiment as fig3_4
from experiments.fig3_4 import figure as fig3_4_figure
from sslstep import recipes
from sslstep.experiment import curves, load, training

TIMES = 0.01 * training.record_steps(2500, 120)
STEP_TIMES = 1.5 * np.array([1, 1.3, 1.75, 2.1, 2.9, 3.5, 4.9, 5.7, 7.4, 9.2, 10.7, 13.5])


def staircase(at, dim, start, top=1.0, width=0.03):
    """Eigenvalues (T, dim), of which one for each of these times rises from `start` to `top`."""
    log_t = np.log(np.maximum(TIMES, 0.005))
    curves = np.geomspace(start, start / 3, dim) * np.ones((len(TIMES), 1))
    curves[:, : len(at)] += top / (1 + np.exp(-(log_t[:, None] - np.log(at)) / width))
    return -np.sort(-curves, axis=1)


def seen(at=STEP_TIMES, hidden_at=None, *, start=1e-3, top=1.0, resting=0.0):
    """A run of Barlow Twins with steps at these times, as its arrays."""
    z = staircase(at, 16, start, top)
    t = np.linspace(0.01, 25, 2500)
    rate = 8 * np.log(9) / at
    loss = 16 - (1 / (1 + np.exp(-rate * (t[:, None] - at)))).sum(axis=1) + resting
    hidden = staircase(at if hidden_at is None else hidden_at, 40, 0.1)
    return {
        **{"t": t, "loss": loss, "record_t": TIMES, "step": np.round(100 * TIMES).astype(int)},
        **{"correlation": z, "covariance": z, "hidden": hidden},
    }


def three(make, name="barlow_twins"):
    """Arrays of three seeds, which differ a little in their step times."""
    arrays: dict[str, np.ndarray] = {}
    for seed in range(3):
        at = STEP_TIMES * (1 + 0.01 * np.random.default_rng(seed).normal(size=12))
        arrays |= {f"{name}/{seed}/{key}": value for key, value in make(at).items()}
    return arrays


def verdicts(experiment, arrays, **settings):
    """By statement, without the method's name."""
    config = replace(experiment.presets["cpu"], methods=("barlow_twins",), **settings)
    made = experiment.check(config, arrays)
    return {claim.statement.split(": ", 1)[1]: claim.verdict for claim in made}


def of(found, words):
    """The verdict of the one statement with these words in it."""
    (verdict,) = (verdict for statement, verdict in found.items() if words in statement)
    return verdict


def between(at):
    """Times in the middle of each pause of more than its share."""
    return np.sqrt(at[1:] * at[:-1])


def test_claims_of_runs_as_the_paper_has_them_hold():
    found = verdicts(load("experiments.fig5"), three(seen))
    assert set(found.values()) == {"yes"}, found


@pytest.mark.parametrize(
    ("words", "make", "answer"),
    [
        ("largest eigenvalue at the start", lambda at: seen(at, start=0.05), "NO"),
        ("dimensions learned", lambda at: seen(at[:6]), "NO"),
        ("from 0.1 to 0.7", lambda at: seen(np.repeat(at[::2], 2)), "NO"),
        ("from 0.1 to 0.9", lambda at: seen(np.repeat(at[::2], 2)), "NO"),
        ("not learned all at once", lambda at: seen(9 + 0.1 * at / at[-1]), "NO"),
        ("log det", lambda at: seen(at, between(at)), "NO"),
        ("entropy rank", lambda at: seen(at, between(at)), "NO"),
        ("training loss rests", lambda at: seen(at, resting=0.3), "NO"),
        ("mean of the learned eigenvalues", lambda at: seen(at, top=1.2), "NO"),
    ],
)
def test_each_claim_of_a_small_initialisation_can_fail(words, make, answer):
    assert of(verdicts(load("experiments.fig5"), three(make)), words) == answer


def test_one_seed_decides_nothing():
    found = verdicts(load("experiments.fig5"), three(seen), seeds=(1,))
    assert set(found.values()) == {"undecided"}


def test_claims_of_a_run_that_learns_nothing_do_not_hold():
    """No step is learned, none stands alone, nothing rejects simultaneous growth."""

    def nothing(at):
        grown = np.exp(np.outer(TIMES / 25, np.linspace(1, 2, 16))) * 1e-3
        hidden = np.exp(np.outer((TIMES / 25) ** 2, np.linspace(1, 2, 40))) * 1e-3
        return seen(at) | {"correlation": grown, "covariance": grown, "hidden": hidden}

    found = verdicts(load("experiments.fig5"), three(nothing))
    assert list(found.values()) == ["yes"] + 8 * ["NO"], found


@pytest.mark.parametrize("gap", [1, 1e-4])
def test_claims_of_one_band_or_of_bands_from_the_start_do_not_hold(gap):
    """Eigenvalues that grow together, log-uniform over four decades but for a gap: no order."""
    t = np.geomspace(1e-2, 1, 50)
    row = np.geomspace(1, 1e-4, 64) * np.repeat([1, gap], 32)
    arrays: dict[str, np.ndarray] = {}
    for seed in range(3):
        spectra = row * (1 + t[:, None]) * (1 + 0.01 * seed)
        arrays |= {f"simclr/{seed}/record_t": t, f"simclr/{seed}/covariance": spectra}
    made = fig3_4_claims.check(fig3_4.Config(methods=("simclr",)), arrays)
    two_bands = gap < 1
    assert [claim.holds for claim in made] == [two_bands, not two_bands, False]


def test_two_bands_are_marked_where_one_is_rejected():
    row = np.geomspace(1, 1e-4, 64)
    assert np.isnan(fig3_4_figure._gap(row)).all()
    apart = row * np.repeat([1, 1e-4], 32)
    assert fig3_4_figure._gap(apart) == pytest.approx(apart[[32, 31]], rel=1e-6)


def probed(course, standard=0.5):
    """Arrays of Figure 7: accuracy along runs of small initialisation, from their step times."""
    arrays = {"num_test": np.asarray(2048), "chance": np.asarray(0.1)}
    rng = np.random.default_rng(0)

    def small(at):
        noise = 1e-3 * rng.normal(size=len(TIMES))
        return seen(at) | {"accuracy": course(at) + noise}

    def plain(at):
        return {"accuracy": np.linspace(0.2, standard, 10)}

    for name, make in (("small", small), ("standard", plain)):
        arrays |= {f"{name}/{key}": value for key, value in three(make).items()}
    return arrays


def by_steps(at, least=0.2, most=0.5):
    """Accuracy that grows with each dimension."""
    return least + (most - least) * staircase(at, 16, 1e-9).sum(axis=1) / len(at)


def sagging(at):
    """Falls by much before the first step and grows at each: ends below the untrained network."""
    return by_steps(at, 0.2, 0.4) + np.where(TIMES < 1, 0.4 * (1 - TIMES), 0)


def drifting(at):
    """Grows smoothly, whatever is learned."""
    return 0.2 + 0.3 * np.log1p(TIMES) / np.log1p(25)


def test_claims_of_probes_hold_where_accuracy_grows_at_the_steps():
    found = verdicts(load("experiments.fig7"), probed(by_steps))
    assert set(found.values()) == {"yes"}, found


@pytest.mark.parametrize(
    ("words", "arrays"),
    [
        ("within a few points", lambda: probed(by_steps, standard=0.7)),
        ("most frequent label", lambda: probed(lambda at: by_steps(at, 0.08))),
        ("from small initialisation", lambda: probed(sagging)),
        ("from standard initialisation", lambda: probed(by_steps, standard=0.15)),
        ("rises when dimensions", lambda: probed(lambda at: by_steps(between(at)))),
    ],
)
def test_each_claim_of_probes_can_fail(words, arrays):
    assert of(verdicts(load("experiments.fig7"), probed(by_steps) | arrays()), words) == "NO"


def test_a_known_failure_is_declared_for_the_data_that_it_was_seen_on():
    """Where accuracy grows at the steps after all, the declaration is reported as wrong."""
    experiment = load("experiments.fig7")
    for data, wrong in (("photos", False), ("cifar10", True)):
        config = replace(experiment.presets["cpu"], methods=("barlow_twins",), data=data)
        made = experiment.check(config, probed(by_steps))
        (claim,) = (each for each in made if "rises when dimensions" in each.statement)
        assert claim.changed is wrong


def test_a_drifting_accuracy_is_no_growth_at_the_steps():
    """Its rank correlation with the dimensions learned is nearly one."""
    arrays = probed(drifting)
    one = training.run_of(arrays, "small/barlow_twins/0")
    learned = curves.learned_along(recipes.BarlowTwins(), one)
    assert curves.rank_correlation(learned, one["accuracy"]) > 0.9
    assert of(verdicts(load("experiments.fig7"), arrays), "rises when dimensions") != "yes"
