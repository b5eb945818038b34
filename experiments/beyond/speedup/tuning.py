"""Tuning, training and timing of an arm of `speedup`."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.beyond.speedup.contenders import Arm
from experiments.beyond.speedup.tasks import Built, Instance, Problem
from sslstep import train
from sslstep.experiment import Arrays, networks
from sslstep.measure import spectrum
from sslstep.recipes import VICReg

# Eigenvalues above this multiple of their level do not count as learned: the step was too large.
# Losses that are flat above their minimum (G.3) leave eigenvalues at a few times their level.
TOO_FAR = 10.0
# Factors at which the best rate is refined; NEAREST is used for arms without a parameter. Arms with
# one try the two other values of the parameter instead.
NEARER, NEAREST = (2.0, 0.5), (2**0.5, 0.5**0.5)


class Candidate(NamedTuple):
    """A point of the search space: the learning rate and the arm's own parameter."""

    rate: float
    own: float  # the arm's own parameter; 0 without one


class Settings(NamedTuple):
    """Settings of the measurements, equal for all arms; see `speedup`'s options."""

    measure_every: int
    num_records: int
    hold: int
    settle: int


@partial(jax.jit, static_argnames="network")
def spectra(network: Any, state: Any, x: jax.Array, x_prime: jax.Array) -> dict[str, jax.Array]:
    """Return the spectra of embeddings of fixed pairs, with batch norms in training mode."""
    outputs = partial(networks.batch_outputs, network, state.params, state.batch_stats)
    z, z_prime = outputs(x).z, outputs(x_prime).z
    return {
        "correlation": spectrum.correlation_eigenvalues(z, z_prime),
        "covariance": spectrum.covariance_eigenvalues(jnp.concatenate([z, z_prime])),
    }


@partial(jax.jit, static_argnames="network")
def ranks(network: Any, state: Any, x: jax.Array, x_prime: jax.Array) -> dict[str, jax.Array]:
    """Return the effective ranks of hidden representations and embeddings, likewise; slower."""
    outputs = partial(networks.batch_outputs, network, state.params, state.batch_stats)
    both = zip(outputs(x), outputs(x_prime), strict=True)
    h, z = (spectrum.effective_rank(jnp.concatenate(views)) for views in both)
    return {"rank_h": h, "rank_z": z}


def levels_of(arm: Arm, dim: int) -> np.ndarray:
    """Return the level of the k largest eigenvalues with k = 1...d dimensions learned, (d,)."""
    if arm.measured == "covariance":
        # The plateaus are of batches several times as large as d.
        return VICReg(dim=dim, batch_size=max(256, 4 * dim)).plateaus(np.zeros((1, dim)))
    return np.ones(dim)


def learned(eigenvalues: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return whether at least k = 1...d dimensions are learned, shape (..., d).

    k dimensions are learned if the k largest eigenvalues lie between half and TOO_FAR times the
    level of k; the levels may fall with k.
    """
    largest, limit = eigenvalues[..., None, :], levels[:, None]
    there = (largest > limit / 2) & (largest < TOO_FAR * limit)
    exactly = (there | ~np.tri(len(levels), dtype=bool)).all(axis=-1)
    return np.logical_or.accumulate(exactly[..., ::-1], axis=-1)[..., ::-1]


class Trainer:
    """Training of one arm on a problem, compiled once for all rates, parameters and seeds."""

    def __init__(self, built: Built, arm: Arm, problem: Problem, settings: Settings) -> None:
        self.built, self.arm, self.problem, self.settings = built, arm, problem, settings

        @jax.jit
        def advance(state: Any, images: jax.Array, rate: Any, own: Any) -> Any:
            loss, optimizer = arm.loss(own), arm.optimizer(rate)
            step = train.make_step(built.network, loss, optimizer, built.views_fn)
            return step(state, images)

        self.advance = advance

    def start(self, instance: Instance) -> train.TrainState:
        """Return the initial state of an instance, with the arm's optimiser state."""
        opt_state = self.arm.optimizer(0.0).init(instance.state.params)
        return instance.state._replace(opt_state=opt_state)

    def batches(self, state: train.TrainState, images: np.ndarray, step: int, num: int) -> Any:
        """Yield the batches of `num` steps, each of all images if they are few."""
        size = min(self.problem.batch_size, len(images))
        for chosen in train.batch_indices(state.key, step, num, size, len(images)):
            yield images[chosen]

    def record_steps(self) -> np.ndarray:
        """Return the steps at which probes are trained: 0 and geometrically spaced, increasing.

        All are multiples of `measure_every`, at which spectra are measured.
        """
        every = self.settings.measure_every
        wanted = np.geomspace(2 * every, self.problem.num_steps, self.settings.num_records - 1)
        return np.unique(np.concatenate([[0], (wanted / every).round().astype(int) * every]))

    def run(
        self, instance: Instance, candidate: Candidate, *, within: float | None = None
    ) -> Arrays:
        """Train from the start; record spectra, and a probe's accuracy at some steps.

        With `within`, a number of steps, accuracies are not measured. The run then ends `settle`
        steps after the target is reached, or once the target can no longer be reached within that
        number. If the target is an accuracy, it is measured, and the run ends when the mean of
        successive records that begin after that number lies below it.
        """
        state, settings, target = self.start(instance), self.settings, self.problem.target - 1
        every, levels = settings.measure_every, levels_of(self.arm, self.problem.dim)
        goal, averaged = self.problem.accuracy, self.problem.averaged
        records = self.record_steps() if within is None or goal is not None else ()
        numbers = [jnp.asarray(value, jnp.float32) for value in candidate]
        eigenvalues, steps, accuracy, losses = [], [], [], [0.0]
        finite, pruned, reached = True, False, np.inf
        pairs = instance.x, instance.x_prime
        for step in range(0, self.problem.num_steps + 1, every):
            if step:
                for images in self.batches(state, instance.images, step - every, every):
                    state, metrics = self.advance(state, images, *numbers)
                losses.append(float(metrics.loss))
            found = spectra(self.built.network, state, *pairs)[self.arm.measured or "correlation"]
            values = np.asarray(found)
            finite = bool(np.isfinite(losses[-1]) and np.isfinite(values).all())
            if not finite:
                break
            eigenvalues.append(values)
            steps.append(step)
            if step in records:
                accuracy += [float(value) for value in self.built.accuracy(state).values()]
            if within is not None and goal is not None:
                last = accuracy[-averaged:]
                first = records[len(accuracy) - len(last)]
                pruned = bool(first > within and np.mean(last) < goal)
                if pruned:
                    break
            elif within is not None and self.arm.measured is not None:
                # Compute times only when the target is newly learned; then it stays reached.
                if np.isinf(reached) and learned(values, levels)[target]:
                    reached = times_of(steps, eigenvalues, levels, settings.hold)[target]
                # A dimension must stay learned for `hold` spectra.
                pruned = np.isinf(reached) and step > within + settings.hold * every
                if pruned or step > reached + settings.settle:
                    break
        run: Arrays = {
            **dict.fromkeys(("rank_h", "rank_z"), np.nan),
            **(ranks(self.built.network, state, *pairs) if finite else {}),
            "eigenvalues": eigenvalues,
            "times": times_of(steps, eigenvalues, levels, settings.hold),
            "accuracy": accuracy,
            "steps": self.record_steps()[: len(accuracy)],
            "finite": finite,
            "pruned": pruned,
            "whole": step == self.problem.num_steps,
            "loss": np.mean(losses[-10:]),
        }
        return {name: np.asarray(value) for name, value in run.items()}


def times_of(steps: Any, eigenvalues: Any, levels: np.ndarray, hold: int) -> np.ndarray:
    """Return the step from which at least k dimensions are learned, for k = 1...d, shape (d,).

    The k dimensions must stay learned, as `learned` defines it, for `hold` spectra in succession.
    The step is interpolated if the k-th eigenvalue passes half its level between two spectra, and
    `inf` if k dimensions never stay learned.

    Args:
        steps: step of each spectrum, shape (T,).
        eigenvalues: the spectra, in descending order, shape (T, d).
        levels: level of the eigenvalues when k dimensions are learned, shape (d,).
        hold: number of spectra.
    """
    steps, eigenvalues = np.asarray(steps), np.asarray(eigenvalues)
    out = np.full(len(levels), np.inf)
    if len(steps) < hold:
        return out
    all_learned = learned(eigenvalues, levels)
    for k, level in enumerate(levels):
        runs = np.lib.stride_tricks.sliding_window_view(all_learned[:, k], hold)
        held = np.flatnonzero(runs.all(axis=1))
        if not held.size:
            continue
        first = held[0]
        out[k] = steps[first]
        if first and eigenvalues[first - 1, k] < level / 2:  # it has just risen past half
            before, after = eigenvalues[first - 1, k], eigenvalues[first, k]
            part = (level / 2 - before) / (after - before)
            out[k] = steps[first - 1] + part * (steps[first] - steps[first - 1])
    return out


def time_to_accuracy(steps: Any, accuracy: Any, goal: float, averaged: int = 1) -> float:
    """Return the first of `steps` from which the accuracy stays at `goal`; `inf` if none.

    An accuracy is the mean of `averaged` successive records, from that step on.
    """
    if len(accuracy) < averaged:
        return np.inf
    means = np.lib.stride_tricks.sliding_window_view(accuracy, averaged).mean(axis=1)
    below = np.flatnonzero(~(means >= goal))  # NaN is below
    first = below[-1] + 1 if below.size else 0
    return max(float(steps[first]), 1.0) if first < len(means) else np.inf


def tune(
    attempt: Callable[[Candidate, int, float | None], Arrays],
    arm: Arm,
    problem: Problem,
    seeds: Sequence[int],
    own: Sequence[float],
) -> Arrays:
    """Search an arm's learning rate and own parameter, with equally many trials for every arm.

    The trials are all rates with the first value of the parameter, then twice and half the best
    rate, then the other two values at the best rate; an arm without a parameter tries two rates
    nearer to the best instead. The score is the number of steps to the target, mean over seeds, or
    the final loss for an arm without measured eigenvalues. The winner is trained to the end, unless
    its trials were. If it diverges or loses the target for any seed, the other candidates are
    compared again.

    Returns `trials`, a row (rate, parameter, score) for each candidate, `chosen`, and `lasts`,
    whether any candidate kept the target.
    """
    tried: dict[Candidate, float] = {}
    pruned: set[Candidate] = set()
    kept: dict[tuple[Candidate, int], Arrays] = {}  # runs to the last step

    def score(candidate: Candidate) -> None:
        # Stop a candidate once it is slower than the best, or fails for one seed.
        limit, total = min([problem.num_steps, *tried.values()]), 0.0
        pruned.discard(candidate)
        for done, seed in enumerate(seeds):
            run = attempt(candidate, seed, limit * len(seeds) - total)
            found = _score(run, arm, problem)
            if run["pruned"]:
                pruned.add(candidate)
            elif run["whole"]:
                kept[candidate, seed] = run
            if found > problem.num_steps:
                total += found * (len(seeds) - done)
                break
            total += found
        tried[candidate] = total / len(seeds)

    def best() -> Candidate:
        return min(tried, key=lambda candidate: tried[candidate])

    for rate in getattr(problem.search, arm.rates):
        score(Candidate(rate, own[0] if arm.own else 0.0))
    middle = best()
    for factor in NEARER:
        score(middle._replace(rate=factor * middle.rate))
    middle = best()
    for number in own[1:] if arm.own else ():
        score(middle._replace(own=number))
    for factor in () if arm.own else NEAREST:
        score(middle._replace(rate=factor * middle.rate))
    lasts = False
    while tried[best()] <= problem.num_steps:
        winner = best()
        whole = [kept.get((winner, seed)) or attempt(winner, seed, None) for seed in seeds]
        if all(_score(run, arm, problem) <= problem.num_steps for run in whole):
            lasts = True
            break
        tried[winner] = np.inf
        for candidate in list(pruned):
            score(candidate)
    rows = [(*candidate, value) for candidate, value in tried.items()]
    found = {"trials": rows, "chosen": best(), "lasts": lasts}
    return {name: np.asarray(value) for name, value in found.items()}


def _score(run: Arrays, arm: Arm, problem: Problem) -> float:
    """Return the score of a run, smaller is better; above `num_steps` if the target is missed."""
    if not run["finite"]:
        return np.inf
    if problem.accuracy is not None:
        goal, averaged = problem.accuracy, problem.averaged
        time = time_to_accuracy(run["steps"], run["accuracy"], goal, averaged)
        missed = problem.num_steps * (2.0 + goal - run["accuracy"][-averaged:].mean())
        return time if np.isfinite(time) else float(missed)
    if arm.measured is None:
        return float(run["loss"])
    levels = levels_of(arm, problem.dim)
    lasting = np.isfinite(run["times"]) & learned(run["eigenvalues"][-1], levels)
    if lasting[problem.target - 1]:
        return float(run["times"][problem.target - 1])
    num = int(np.flatnonzero(lasting).max(initial=-1)) + 1
    reached = float(run["times"][num - 1]) if num else 0.0
    return problem.num_steps * (1.0 + problem.target - min(num, problem.target)) + 0.5 * reached


def run_arm(
    trainer: Trainer,
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    own: Sequence[float],
    begin: Callable[[str], None],
) -> Arrays:
    """Tune an arm on `tuning_seeds`, then train it from `seeds`; call `begin` before every run."""
    label, problem, built = trainer.arm.label, trainer.problem, trainer.built
    tuning = {seed: built.instance(seed) for seed in tuning_seeds}

    def attempt(candidate: Candidate, seed: int, within: float | None) -> Arrays:
        begin(f"{label}, rate {candidate.rate:.3g}")
        return trainer.run(tuning[seed], candidate, within=within)

    arrays = tune(attempt, trainer.arm, problem, tuning_seeds, own)
    chosen = Candidate(*map(float, arrays["chosen"]))
    runs = []
    for seed in seeds:
        begin(f"{label}, seed {seed}")
        runs.append(trainer.run(built.instance(seed), chosen))
    for name in ("times", "rank_h", "rank_z", "finite"):
        arrays[name] = np.stack([run[name] for run in runs])
    arrays["record_steps"] = trainer.record_steps()
    for name, length in (
        ("accuracy", len(arrays["record_steps"])),
        ("eigenvalues", problem.num_steps // trainer.settings.measure_every + 1),
    ):
        arrays[name] = np.stack([_filled(run[name], length) for run in runs])
    return arrays


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """Pad the values of a run that ended early with NaN to a given length."""
    out = np.full((length, *values.shape[1:]), np.nan)
    out[: len(values)] = values
    return out


def step_seconds(
    arms: Mapping[str, tuple[Trainer, Candidate]], seed: int, *, rounds: int, seconds: float
) -> Arrays:
    """Time a step of each arm in seconds, shape (rounds,); arms in random order in each round."""
    ready = {}
    for name, (trainer, candidate) in arms.items():
        instance = trainer.built.instance(seed)
        state = trainer.start(instance)
        (images,) = trainer.batches(state, instance.images, 0, 1)
        numbers = [jnp.asarray(value, jnp.float32) for value in candidate]
        ready[name] = partial(_go, trainer.advance, state, images, numbers)
        ready[name](1)  # compiles
    start = time.perf_counter()
    ready["plain"](10)
    num = max(10, round(10 * seconds / (time.perf_counter() - start)))
    found: dict[str, list[float]] = {name: [] for name in arms}
    order = np.random.default_rng(seed)
    for _ in range(rounds):
        for name in order.permutation(list(ready)):
            start = time.perf_counter()
            ready[name](num)
            found[name].append((time.perf_counter() - start) / num)
    return {name: np.asarray(values) for name, values in found.items()}


def _go(advance: Any, state: Any, images: Any, numbers: list[jax.Array], num: int) -> None:
    """Take `num` steps of a compiled arm and wait for the result."""
    for _ in range(num):
        state, _ = advance(state, images, *numbers)
    jax.block_until_ready(state)
