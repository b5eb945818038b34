"""The linear model's training run: ours against the obvious loops.

    make bench    or    python -m benchmarks.bench_linear

All four train the same weights on the same Γ (n = 500 pairs of 20x20 crops of the embedded
photographs, m = 1200, d = 10) at half the largest stable rate, in float64. They take turns, and the
shortest time of each counts. The trajectories must agree to 1e-5 at the last of the steps compared,
by which four modes are learned. With --full, they are compared until all ten modes are learned, and
Figure 1's 300,000 steps are timed.
"""

import time
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import OURS, Row, Rows, parser, print_machine, take_turns
from experiments.fig1ab.experiment import Config, positive_pairs
from sslstep import dynamics, linear, simulate

DENSE = "dense Γ, NumPy"


def dense_numpy(weights, gamma, learning_rate, steps):
    """W <- W - 4 η (W Γ W^T - I) W Γ, as it is written."""
    eye = np.eye(len(weights))
    for _ in range(steps):
        image = weights @ gamma
        weights = weights - 4 * learning_rate * (image @ weights.T - eye) @ image
    return weights


@partial(jax.jit, static_argnames="steps")
def dense_jax(weights, gamma, learning_rate, steps):
    """The same, compiled."""

    def step(_, weights):
        image = weights @ gamma
        return weights - 4 * learning_rate * (image @ weights.T - jnp.eye(len(weights))) @ image

    return jax.lax.fori_loop(0, steps, step, weights)


def eigenbasis_numpy(weights, modes, learning_rate, steps):
    """Our change of variables in NumPy, all columns."""
    gammas, vectors = map(np.asarray, modes)
    a, eye = weights @ vectors, np.eye(len(weights))
    for _ in range(steps):
        scaled = a * gammas
        a = a - 4 * learning_rate * (scaled @ a.T - eye) @ scaled
    return a @ vectors.T


def ours(weights, modes, learning_rate, steps):
    """simulate.gradient_descent, given the modes."""
    run = simulate.gradient_descent(weights, modes, learning_rate, steps, steps)
    return run.weights[-1]


def full_run(weights, gamma, modes, rate) -> None:
    """The dense loop compared until all ten modes are learned; Figure 1's run timed."""
    steps = int(20.0 / rate)
    at = np.unique(np.geomspace(1, steps, 100).astype(int))
    run = simulate.gradient_descent(weights, modes, rate, steps, record_at=at, keep_weights=True)
    w, done, worst = np.asarray(weights), 0, 0.0
    for step, ours_at in zip(at.tolist(), np.asarray(run.weights), strict=True):
        w, done = dense_numpy(w, gamma, rate, step - done), step
        worst = max(worst, float(np.linalg.norm(ours_at - w) / np.linalg.norm(w)))
    learned = int((run.eigenvalues[-1] > 0.5).sum())
    print(f"{steps} steps, {learned} modes learned: largest relative distance of W at any of")
    print(f"{len(at)} records from the dense loop's: {worst:.1e}")
    assert worst < 1e-5
    at = np.unique(np.geomspace(1, 300_000, 1000).astype(int))
    start = time.perf_counter()
    jax.block_until_ready(simulate.gradient_descent(weights, modes, 5e-5, 300_000, record_at=at))
    print(f"300,000 steps, compilation included: {time.perf_counter() - start:.1f} s")


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the table."""
    options = parser(__doc__, rounds=3, full="compare the whole run too (2 minutes)")
    options.add_argument("--pairs", type=int, default=500, help="n (default: 500)")
    options.add_argument("--crop", type=int, default=20, help="side of a crop (default: 20)")
    options.add_argument("--steps", type=int, default=4000, help="to compare (default: 4000)")
    chosen = options.parse_args(args)
    rows, steps = Rows("linear", chosen.rows), chosen.steps
    with jax.enable_x64(True):
        config = Config(num_images=chosen.pairs, crop=chosen.crop)
        keys = jax.random.split(jax.random.key(0), 3)
        gamma = linear.cross_correlation(*positive_pairs(config, keys[0], keys[1]))
        modes = jax.block_until_ready(linear.modes(gamma))
        weights = linear.init_weights(keys[2], 10, len(gamma), 1e-7, gamma.dtype)
        rate = 0.5 * float(dynamics.max_learning_rate(modes.eigenvalues))
        on_host = np.asarray(weights), np.asarray(gamma)
        calls = {
            OURS: lambda: ours(weights, modes, rate, steps),
            DENSE: lambda: dense_numpy(*on_host, rate, steps),
            "dense Γ, JAX": lambda: dense_jax(weights, gamma, rate, steps),
            "eigenbasis, NumPy": lambda: eigenbasis_numpy(on_host[0], modes, rate, steps),
        }
        turns = take_turns(calls, chosen.rounds)
        final = {name: np.asarray(result) for name, result in turns.results.items()}
        reference = final[DENSE]
        learned = np.linalg.eigvalsh(reference @ on_host[1] @ reference.T)
        print_machine(f"float64; {steps} steps,")
        print(f"{int((learned > 0.5).sum())} modes learned at the last")
        case = f"a step, {chosen.pairs} pairs, m = {len(gamma)}, d = 10, float64"
        for name, seconds in turns.seconds.items():
            difference = np.abs(final[name] - reference).max() / np.abs(reference).max()
            assert difference < 1e-5, (name, difference)
            rows.add(case, name, seconds / steps, also=f"W differs by {difference:.1e} at most")
        if chosen.full:
            full_run(weights, on_host[1], modes, rate)
    return rows.rows


if __name__ == "__main__":
    main()
