"""The linear model's training run: ours against the obvious loops.

    make bench    or    python -m benchmarks.bench_linear

All four train the same weights on the same Γ (n = 500 pairs of 20x20 crops of the embedded
photographs, m = 1200, d = 10) at half the largest stable rate, in float64. They take turns, and the
shortest time of each counts, because other work on the machine only ever adds to it. The
trajectories must agree to 1e-5 at the last of the steps compared, by which four modes are learned.
With --full, they are compared until all ten modes are learned, and Figure 1's 300,000 steps are
timed.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.linear_model import Config, positive_pairs
from sslstep import linear, simulate

STEPS = 4000


def dense_numpy(weights, gamma, learning_rate):
    """W <- W - 4 η (W Γ W^T - I) W Γ, as it is written."""
    eye = np.eye(len(weights))
    for _ in range(STEPS):
        image = weights @ gamma
        weights = weights - 4 * learning_rate * (image @ weights.T - eye) @ image
    return weights


@jax.jit
def dense_jax(weights, gamma, learning_rate):
    """The same, compiled."""

    def step(_, weights):
        image = weights @ gamma
        return weights - 4 * learning_rate * (image @ weights.T - jnp.eye(len(weights))) @ image

    return jax.lax.fori_loop(0, STEPS, step, weights)


def eigenbasis_numpy(weights, modes, learning_rate):
    """Our change of variables in NumPy, all columns."""
    gammas, vectors = map(np.asarray, modes)
    a, eye = weights @ vectors, np.eye(len(weights))
    for _ in range(STEPS):
        scaled = a * gammas
        a = a - 4 * learning_rate * (scaled @ a.T - eye) @ scaled
    return a @ vectors.T


def ours(weights, modes, learning_rate):
    """simulate.gradient_descent, given the modes."""
    run = simulate.gradient_descent(weights, modes, learning_rate, STEPS, STEPS)
    return run.weights[-1]


def seconds(function, *arguments):
    """Time of one call and its result, after JAX has finished."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, np.asarray(result)


def full_run(weights, gamma, modes, rate) -> None:
    """The dense loop compared until all ten modes are learned; Figure 1's run timed."""
    steps = int(20.0 / rate)
    at = np.unique(np.geomspace(1, steps, 100).astype(int))
    run = simulate.gradient_descent(weights, modes, rate, steps, record_at=at)
    ours_at, recorded = np.asarray(run.weights), set(at.tolist())
    w, eye, worst = np.asarray(weights), np.eye(len(weights)), 0.0
    for step in range(1, steps + 1):
        image = w @ gamma
        w = w - 4 * rate * (image @ w.T - eye) @ image
        if step in recorded:
            other = ours_at[np.searchsorted(at, step)]
            worst = max(worst, float(np.linalg.norm(other - w) / np.linalg.norm(w)))
    learned = int((run.eigenvalues[-1] > 0.5).sum())
    print(f"{steps} steps, {learned} modes learned: largest relative distance of W at any of")
    print(f"{len(at)} records from the dense loop's: {worst:.1e}")
    assert worst < 1e-5
    at = np.unique(np.geomspace(1, 300_000, 1000).astype(int))
    start = time.perf_counter()
    jax.block_until_ready(simulate.gradient_descent(weights, modes, 5e-5, 300_000, record_at=at))
    print(f"300,000 steps, compilation included: {time.perf_counter() - start:.1f} s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--full", action="store_true", help="compare the whole run too (2 minutes)")
    options = parser.parse_args()
    with jax.enable_x64(True):
        config, keys = Config(), jax.random.split(jax.random.key(0), 3)
        gamma = linear.cross_correlation(*positive_pairs(config, keys[0], keys[1]))
        modes = jax.block_until_ready(linear.modes(gamma))
        weights = linear.init_weights(keys[2], 10, len(gamma), 1e-7, gamma.dtype)
        rate = 0.5 * float(linear.max_learning_rate(modes.eigenvalues))
        peers = {
            "dense Γ, NumPy": lambda: dense_numpy(np.asarray(weights), np.asarray(gamma), rate),
            "dense Γ, JAX": lambda: dense_jax(weights, gamma, rate),
            "eigenbasis, NumPy": lambda: eigenbasis_numpy(np.asarray(weights), modes, rate),
            "sslstep": lambda: ours(weights, modes, rate),
        }
        peers["dense Γ, JAX"](), peers["sslstep"]()  # compile
        best: dict[str, float] = {}
        final: dict[str, np.ndarray] = {}
        for _ in range(options.rounds):
            for name, function in peers.items():
                elapsed, final[name] = seconds(function)
                best[name] = min(elapsed, best.get(name, np.inf))
        reference = final["dense Γ, NumPy"]
        learned = np.linalg.eigvalsh(reference @ np.asarray(gamma) @ reference.T)
        print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {STEPS} steps, float64;")
        print(f"{int((learned > 0.5).sum())} modes learned at the last")
        print(f"{'':20}{'µs/step':>9}{'sslstep is faster by':>22}{'largest difference of W':>25}")
        for name in peers:
            difference = np.abs(final[name] - reference).max() / np.abs(reference).max()
            assert difference < 1e-5, (name, difference)
            ratio = best[name] / best["sslstep"]
            print(f"{name:20}{best[name] / STEPS * 1e6:9.1f}{ratio:22.1f}{difference:25.1e}")
        if options.full:
            full_run(weights, np.asarray(gamma), modes, rate)


if __name__ == "__main__":
    main()
