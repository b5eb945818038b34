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
from sslstep.experiment import Arrays
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


class Compiled(NamedTuple):
    """An arm on a problem, compiled once for all rates, parameters and seeds."""

    init: Callable[[Instance], train.TrainState]
    advance: Callable[..., tuple[train.TrainState, train.Metrics]]


class Settings(NamedTuple):
    """Settings of the measurements, equal for all arms; see `speedup`'s options."""

    measure_every: int
    num_records: int
    hold: int
    settle: int


def compile_arm(built: Built, arm: Arm) -> Compiled:
    """Return functions that start the training of an arm and advance it by one step."""

    def init(instance: Instance) -> train.TrainState:
        opt_state = arm.optimizer(0.0).init(instance.state.params)
        return instance.state._replace(opt_state=opt_state)

    @jax.jit
    def advance(state: Any, images: jax.Array, rate: Any, own: Any) -> Any:
        step = train.make_step(built.network, arm.loss(own), arm.optimizer(rate), built.views_fn)
        return step(state, images)

    return Compiled(init, advance)


class Measures(NamedTuple):
    """Measurements on fixed pairs, with batch norms in training mode.

    Both are functions of (state, x, x_prime): spectra of embeddings, and effective ranks.
    """

    spectra: Callable[..., dict[str, jax.Array]]
    ranks: Callable[..., dict[str, jax.Array]]


def make_measures(built: Built) -> Measures:
    """Compile the spectra of embeddings and the slower effective ranks of both representations."""

    def embed(state: Any, x: jax.Array) -> Any:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return built.network.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    @jax.jit
    def spectra(state: Any, x: jax.Array, x_prime: jax.Array) -> dict[str, jax.Array]:
        z, z_prime = embed(state, x).z, embed(state, x_prime).z
        return {
            "correlation": spectrum.correlation_eigenvalues(z, z_prime),
            "covariance": spectrum.covariance_eigenvalues(jnp.concatenate([z, z_prime])),
        }

    @jax.jit
    def ranks(state: Any, x: jax.Array, x_prime: jax.Array) -> dict[str, jax.Array]:
        both = [
            jnp.concatenate(pair)
            for pair in zip(embed(state, x), embed(state, x_prime), strict=True)
        ]
        return {
            f"rank_{name}": spectrum.effective_rank(part)
            for name, part in zip("hz", both, strict=True)
        }

    return Measures(spectra, ranks)


def levels_of(arm: Arm, dim: int) -> np.ndarray:
    """Return the level of the k largest eigenvalues with k = 1...d dimensions learned, (d,)."""
    if arm.measured == "covariance":
        return VICReg(dim=dim).plateaus(np.zeros((1, dim)))
    return np.ones(dim)


def learned(eigenvalues: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return whether at least k = 1...d dimensions are learned, shape (..., d).

    k dimensions are learned if the k largest eigenvalues lie between half and TOO_FAR times the
    level of k; the levels may fall with k.
    """
    exactly = []
    for k, level in enumerate(levels, start=1):
        largest = eigenvalues[..., :k]
        exactly.append(((largest > level / 2) & (largest < TOO_FAR * level)).all(axis=-1))
    return np.logical_or.accumulate(np.stack(exactly[::-1], axis=-1), axis=-1)[..., ::-1]


def train_once(
    built: Built,
    compiled: Compiled,
    measures: Measures,
    arm: Arm,
    problem: Problem,
    instance: Instance,
    candidate: Candidate,
    settings: Settings,
    *,
    within: float | None = None,
) -> Arrays:
    """Train from the start; record spectra, and a probe's accuracy at some steps.

    With `within`, a number of steps, accuracies are not measured. The run then ends `settle` steps
    after the target is reached, or once the target can no longer be reached within that number.
    """
    state = compiled.init(instance)
    every, levels = settings.measure_every, levels_of(arm, problem.dim)
    records = _record_steps(problem, settings) if within is None else ()
    waits = settings.hold * every  # steps for which a dimension must stay learned
    rate, own = (jnp.asarray(value, jnp.float32) for value in candidate)
    eigenvalues, steps, accuracy, losses = [], [], [], [0.0]
    finite, pruned, reached = True, False, np.inf
    for step in range(0, problem.num_steps + 1, every):
        if step:
            indices = train.batch_indices(
                state.key, step - every, every, _batch(problem, instance), len(instance.images)
            )
            for chosen in indices:
                state, metrics = compiled.advance(state, instance.images[chosen], rate, own)
            losses.append(float(metrics.loss))
            if not np.isfinite(losses[-1]):
                finite = False
                break
        found = measures.spectra(state, instance.x, instance.x_prime)
        spectra = np.asarray(found[arm.measured or "correlation"])
        if not np.isfinite(spectra).all():
            finite = False
            break
        eigenvalues.append(spectra)
        steps.append(step)
        if step in records:
            accuracy += [float(value) for value in built.accuracy(state).values()]
        if within is not None and arm.measured is not None:
            # Compute times only when the target is newly learned; once reached, it stays reached.
            if np.isinf(reached) and learned(spectra, levels)[problem.target - 1]:
                times = times_of(np.asarray(steps), np.asarray(eigenvalues), levels, settings.hold)
                reached = times[problem.target - 1]
            pruned = not np.isfinite(reached) and step > within + waits
            if pruned or step > reached + settings.settle:
                break
    return {
        "steps": np.asarray(steps),
        "eigenvalues": np.asarray(eigenvalues),
        "times": times_of(np.asarray(steps), np.asarray(eigenvalues), levels, settings.hold),
        "record_steps": np.asarray([step for step in records if step <= steps[-1]]),
        "accuracy": np.asarray(accuracy),
        "finite": np.asarray(finite),
        "pruned": np.asarray(pruned),
        "loss": np.asarray(np.mean(losses[-10:])),
        **_ranks(measures, state, instance, finite),
    }


def _ranks(measures: Measures, state: Any, instance: Instance, finite: bool) -> Arrays:
    """Return the effective ranks of the last representations; NaN if the run diverged."""
    if not finite:
        return {"rank_h": np.asarray(np.nan), "rank_z": np.asarray(np.nan)}
    found = measures.ranks(state, instance.x, instance.x_prime)
    return {name: np.asarray(value) for name, value in found.items()}


def times_of(
    steps: np.ndarray, eigenvalues: np.ndarray, levels: np.ndarray, hold: int
) -> np.ndarray:
    """Return the step from which k = 1...d dimensions stay learned for `hold` spectra, (d,)."""
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
    the final loss for an arm without measured eigenvalues. The winner is trained to the end. If
    that run diverges or loses the target for any seed, the other candidates are compared again.

    Returns `trials`, a row (rate, parameter, score) for each candidate, `chosen`, and `lasts`,
    whether any candidate kept the target.
    """
    tried: dict[Candidate, float] = {}
    pruned: set[Candidate] = set()

    def score(candidate: Candidate) -> None:
        # Stop a candidate once it is slower than the best, or fails for one seed.
        limit, total = min([problem.num_steps, *tried.values()]), 0.0
        pruned.discard(candidate)
        for done, seed in enumerate(seeds):
            run = attempt(candidate, seed, limit * len(seeds) - total)
            found = _score(run, arm, problem)
            if run["pruned"]:
                pruned.add(candidate)
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
    rows = np.asarray([(*candidate, value) for candidate, value in tried.items()])
    while tried[best()] <= problem.num_steps:
        winner = best()
        whole = [attempt(winner, seed, None) for seed in seeds]
        if all(_score(run, arm, problem) <= problem.num_steps for run in whole):
            return {"trials": rows, "chosen": np.asarray(winner), "lasts": np.asarray(True)}
        tried[winner] = np.inf
        for candidate in list(pruned):
            score(candidate)
    return {"trials": rows, "chosen": np.asarray(best()), "lasts": np.asarray(False)}


def _score(run: Arrays, arm: Arm, problem: Problem) -> float:
    """Return the score of a run, smaller is better; above `num_steps` if the target is missed."""
    if not run["finite"]:
        return np.inf
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
    built: Built,
    measures: Measures,
    arm: Arm,
    problem: Problem,
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    own: Sequence[float],
    settings: Settings,
    begin: Callable[[str], None],
) -> Arrays:
    """Tune an arm on `tuning_seeds`, then train it from `seeds`; call `begin` before every run."""
    compiled = compile_arm(built, arm)
    once = partial(train_once, built, compiled, measures, arm, problem)
    tuning = {seed: built.instance(seed) for seed in tuning_seeds}

    def attempt(candidate: Candidate, seed: int, within: float | None) -> Arrays:
        begin(f"{arm.label}, rate {candidate.rate:.3g}")
        return once(tuning[seed], candidate, settings, within=within)

    arrays = tune(attempt, arm, problem, tuning_seeds, own)
    chosen = Candidate(*map(float, arrays["chosen"]))
    runs = []
    for seed in seeds:
        begin(f"{arm.label}, seed {seed}")
        runs.append(once(built.instance(seed), chosen, settings))
    for name in ("times", "rank_h", "rank_z", "finite"):
        arrays[name] = np.stack([run[name] for run in runs])
    arrays["record_steps"] = _record_steps(problem, settings)
    for name, length in (
        ("accuracy", len(arrays["record_steps"])),
        ("eigenvalues", problem.num_steps // settings.measure_every + 1),
    ):
        arrays[name] = np.stack([_filled(run[name], length) for run in runs])
    return arrays


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """Pad the values of a run that ended early with NaN to a given length."""
    out = np.full((length, *values.shape[1:]), np.nan)
    out[: len(values)] = values
    return out


def step_seconds(
    built: Built,
    arms: Mapping[str, tuple[Arm, Candidate]],
    problem: Problem,
    seed: int,
    *,
    rounds: int,
    seconds: float,
) -> Arrays:
    """Time a step of each arm in seconds, shape (rounds,); arms in random order in each round."""
    instance = built.instance(seed)
    batch = _batch(problem, instance)
    indices = train.batch_indices(instance.state.key, 0, 1, batch, len(instance.images))
    ready = {}
    for name, (arm, candidate) in arms.items():
        compiled = compile_arm(built, arm)
        numbers = [jnp.asarray(value, jnp.float32) for value in candidate]
        state = compiled.init(instance)
        ready[name] = partial(_go, compiled.advance, state, instance.images[indices[0]], numbers)
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


def _record_steps(problem: Problem, settings: Settings) -> np.ndarray:
    """Return the steps at which probes are trained: 0 and geometrically spaced ones, increasing.

    All are multiples of `measure_every`, at which spectra are measured.
    """
    every = settings.measure_every
    wanted = np.geomspace(2 * every, problem.num_steps, settings.num_records - 1)
    return np.unique(np.concatenate([[0], (wanted / every).round().astype(int) * every]))


def _batch(problem: Problem, instance: Instance) -> int:
    """Return the batch size: the problem's, or all images if there are fewer."""
    return min(problem.batch_size, len(instance.images))
