"""Kernel PCA for self-supervised learning: ours against the formula as printed, and at scale.

    make bench    or    python -m benchmarks.bench_kernel_pca

1. The d = 50 leading modes of K_Γ from a kernel that is there already (one-hidden-layer ReLU NTK of
   20x20 crops): `contrastive_modes` against the paper's formula as it reads, with SciPy's sqrtm and
   inv, and as an expert would compute it, with the root by eigh and only the d leading modes of
   K_Γ. Errors are relative to the dense solver, the largest over the modes.
2. The kernel itself: `gram.pairs` of `infinite.mlp` against neural_tangents' own batching.
3. With --full: 20,000 pairs (a kernel of 40,000 x 40,000), from images to 2,000 embedded test
   points, d = 64, with the kernel stored (float32) and without ever storing it.

Each measurement has a process of its own, whose peak memory is reported; the least of several
rounds counts, compilation excluded in parts 1 and 2 and included in 3.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from sslstep import data, gram, kernel_pca
from sslstep.ntk import _neural_tangents, infinite

DIM = 50
NUM_TEST = 2000


def crops(options, num: int, split: str = "train", seed: int = 0):
    """Two 20x20 crops of each of `num` images, as float32 rows; images repeat if there are few."""
    images = data.load(options.data, split, data_dir=options.data_dir).images
    order = np.resize(np.random.default_rng(seed).permutation(len(images)), num)
    pairs = data.random_crop_pairs(jax.random.key(seed), images[order], 20)
    return [data.flatten(view) for view in pairs]


def kernel(options, dtype):
    """K̃ in float64, cast to `dtype`."""
    x, x_prime = (view.astype(jnp.float64) for view in crops(options, options.pairs))
    return gram.pairs(infinite.mlp(1), x, x_prime, progress=False).astype(dtype)


def middle(matrix):
    """Z of Eq. 23."""
    n = len(matrix) // 2
    xx, xy, yy = matrix[:n, :n], matrix[:n, n:], matrix[n:, n:]
    z = np.block([[xy @ xx, xy @ xy], [yy @ xx, yy @ xy]]) / (2 * n)
    return z + z.T


def as_printed(matrix):
    """Eqs. 22 to 24: γ and K̃^{-1/2} b, word for word."""
    inverse_root = scipy.linalg.inv(scipy.linalg.sqrtm(matrix).real)
    gammas, b = scipy.linalg.eigh(inverse_root @ middle(matrix) @ inverse_root)
    return gammas[: -DIM - 1 : -1], inverse_root @ b[:, : -DIM - 1 : -1]


def by_an_expert(matrix):
    """The same at the least cost that SciPy allows, and with the pseudoinverse."""
    values, vectors = scipy.linalg.eigh(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse_root = (vectors * np.where(values > 0, values**-0.5, 0)) @ vectors.T
    last = len(matrix) - 1
    gammas, b = scipy.linalg.eigh(
        inverse_root @ middle(matrix) @ inverse_root, subset_by_index=(last - DIM + 1, last)
    )
    return gammas[::-1], inverse_root @ b[:, ::-1]


def seconds(function, rounds: int):
    """The least time of several calls, and what the last returned."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times), result


PEERS = {"as printed": as_printed, "by an expert": by_an_expert}


def measure_modes(options, name: str) -> dict:
    """One way to the modes, from a kernel that is there."""
    method, dtype = name.split("/")
    with jax.enable_x64(True):
        matrix = kernel(options, dtype)
        if method in PEERS:
            host = np.asarray(matrix)
            before = peak()
            elapsed, (gammas, _) = seconds(lambda: PEERS[method](host), 1)
        else:
            before = peak()
            call = lambda: kernel_pca.contrastive_modes(matrix, DIM, solver=method)  # noqa: E731
            call()
            elapsed, modes = seconds(call, options.rounds)
            gammas = modes.eigenvalues
    gammas = np.asarray(gammas, float).tolist()
    return {"seconds": elapsed, "MiB": peak() - before, "eigenvalues": gammas}


def measure_kernel(options, name: str) -> dict:
    """One way to K̃."""
    with jax.enable_x64(True):
        x, x_prime = (view.astype(jnp.float64) for view in crops(options, options.pairs))
        both = jnp.concatenate([x, x_prime])
        before = peak()
        if name == "neural_tangents":
            nt = _neural_tangents.load_neural_tangents()
            layers = (
                nt.stax.Dense(1, W_std=2**0.5),
                nt.stax.Relu(),
                nt.stax.Dense(1, W_std=2**0.5),
            )
            function = nt.batch(jax.jit(nt.stax.serial(*layers)[2], static_argnames="get"), 500)
            call = lambda: function(both, None, "ntk")  # noqa: E731
        else:
            call = lambda: gram.pairs(infinite.mlp(1), x, x_prime, progress=False)  # noqa: E731
        call()
        elapsed, result = seconds(call, options.rounds)
        total = float(jnp.abs(result).sum())
    return {"seconds": elapsed, "MiB": peak() - before, "sum": total}


def measure_scale(options, name: str) -> dict:
    """From images to embedded test points."""
    start = time.perf_counter()
    x, x_prime = crops(options, options.scale_pairs)
    x_test = crops(options, NUM_TEST, "test", seed=1)[0]
    kernel_fn, laps = infinite.mlp(1), {}

    def lap(key: str) -> None:
        laps[key] = time.perf_counter() - start - sum(laps.values())

    lap("images")
    if name == "stored":
        matrix = jax.block_until_ready(gram.pairs(kernel_fn, x, x_prime, progress=options.progress))
        lap("kernel")
        modes = kernel_pca.contrastive_modes(matrix, 64)
    else:
        matmul = gram.pairs_operator(kernel_fn, x, x_prime, progress=options.progress)
        modes = kernel_pca.contrastive_modes(
            matmul, 64, num_pairs=options.scale_pairs, block_size=options.block_size
        )
    lap("modes")
    k_test = gram.test_train(kernel_fn, x_test, x, x_prime, progress=False)
    z = jax.block_until_ready(kernel_pca.embed(modes, k_test))
    lap("test points")
    assert z.shape == (NUM_TEST, 64)
    assert bool(jnp.isfinite(z).all())
    return {
        "seconds": time.perf_counter() - start,
        "MiB": peak(),
        "laps": laps,
        "iterations": int(modes.iterations),
        "residual": float((modes.residuals / modes.eigenvalues).max()),
        "eigenvalues": np.asarray(modes.eigenvalues, float).tolist(),
    }


def peak() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASURES = {"modes": measure_modes, "kernel": measure_kernel, "scale": measure_scale}


def in_own_process(what: str, name: str) -> dict:
    """A measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.bench_kernel_pca", *sys.argv[1:]]
    done = subprocess.run(
        [*command, "--measure", what, name], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def report(options) -> None:
    """Run all and print the tables."""
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, data: {options.data}")
    print(f"\n{DIM} modes of {options.pairs} pairs")
    ways = ["dense/float64", "as printed/float64", "by an expert/float64"]
    ways += ["by an expert/float32", "krylov/float64", "krylov/float32"]
    found = {way: in_own_process("modes", way) for way in ways}
    reference = np.array(found["dense/float64"]["eigenvalues"])
    print(
        f"{'':24}{'seconds':>9}{'over krylov in f64':>20}{'in f32':>9}{'MiB':>7}{'error of γ':>12}"
    )
    for way, row in found.items():
        ratios = [row["seconds"] / found[f"krylov/float{bits}"]["seconds"] for bits in (64, 32)]
        error = np.abs(np.array(row["eigenvalues"]) / reference - 1).max()
        print(f"{way:24}{row['seconds']:9.2f}{ratios[0]:20.1f}{ratios[1]:9.1f}", end="")
        print(f"{row['MiB']:7.0f}{error:12.1e}")
    print(f"\nthe kernel of {options.pairs} pairs, float64")
    rows = {way: in_own_process("kernel", way) for way in ("neural_tangents", "sslstep")}
    ours = rows["sslstep"]
    assert abs(rows["neural_tangents"]["sum"] / ours["sum"] - 1) < 1e-10
    for way, row in rows.items():
        ratio = row["seconds"] / ours["seconds"]
        print(f"{way:24}{row['seconds']:9.2f}{ratio:20.2f}{'':9}{row['MiB']:7.0f}")
    if options.full:
        print(f"\n{options.scale_pairs} pairs, from images to {NUM_TEST} test points, d = 64")
        for way in ("stored", "matrix-free"):
            row = in_own_process("scale", way)
            laps = ", ".join(f"{key} {value:.0f}" for key, value in row["laps"].items())
            print(f"{way:12}{row['seconds']:7.0f} s ({laps}), peak {row['MiB'] / 1024:.2f} GiB,")
            print(f"{'':12}{row['iterations']} products, largest residual {row['residual']:.1e}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1000, help="n of parts 1, 2 (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="calls of each (default: 3)")
    parser.add_argument("--full", action="store_true", help="part 3 too (20 minutes)")
    parser.add_argument("--scale-pairs", type=int, default=20_000, help="n of part 3")
    parser.add_argument("--block-size", type=int, default=160, help="of the matrix-free solver")
    parser.add_argument("--data", default="photos", help="photos, cifar10 or stl10")
    parser.add_argument("--data-dir", help="folder of prepared data")
    parser.add_argument("--progress", action="store_true", help="show bars in part 3")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, name = options.measure
        print(json.dumps(MEASURES[what](options, name)))
    else:
        report(options)


if __name__ == "__main__":
    main()
