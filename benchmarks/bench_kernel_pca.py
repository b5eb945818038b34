"""Kernel PCA for self-supervised learning: ours against the formula as printed, and at scale.

    make bench    or    python -m benchmarks.bench_kernel_pca

1. The d = 50 leading modes of K_Γ from a kernel that is there already (one-hidden-layer ReLU NTK of
   20x20 crops): `contrastive_modes` against the paper's formula as it reads, with SciPy's sqrtm and
   inv, and as an expert would compute it, with the root by eigh and only the d leading modes of
   K_Γ. Errors are relative to the dense solver, the largest over the modes. In turns, in one
   process: the Krylov solver, its products with the kernel alone, the formula by two eigh, and one
   Cholesky decomposition with SciPy's eigsh on Lᵀ P L, to the tolerance of the Krylov solver.
2. The kernel itself: `gram.pairs` of `infinite.mlp` against neural_tangents' own batching, of one
   hidden layer in float64 and of three in float32.
3. With --full: 20,000 pairs (a kernel of 40,000 x 40,000), from images to 2,000 embedded test
   points, d = 64, with the kernel stored (float32) and without ever storing it.
4. With --plan: a product with a kernel that is never stored, of 80 vectors, on JAX's default
   device; and from its rate, by arithmetic, exact modes of a million views on eight such devices.

Each measurement has a process of its own, whose peak memory is reported (in parts 1 and 2 beside
what was there before); the least of several rounds counts, compilation excluded in parts 1 and 2
and included in 3.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from benchmarks._timing import (
    OURS,
    Row,
    Rows,
    in_own_process,
    parser,
    peak_memory,
    print_machine,
    take_turns,
)
from sslstep import data, gram, kernel_pca
from sslstep.ntk import infinite

NUM_TEST = 2000
PLANNED = {"views": 1_000_000, "devices": 8, "columns": 80, "products": 10}  # d = 64
Settings = dict[str, Any]  # the options, as they go to other processes


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


def as_printed(matrix, dim):
    """Eqs. 22 to 24: γ and K̃^{-1/2} b, word for word; NaN if K̃ is singular to rounding."""
    root = scipy.linalg.sqrtm(matrix).real
    if not np.isfinite(root).all():
        return np.full(dim, np.nan), root[:, :dim]
    inverse_root = scipy.linalg.inv(root)
    gammas, b = scipy.linalg.eigh(inverse_root @ middle(matrix) @ inverse_root)
    return gammas[: -dim - 1 : -1], inverse_root @ b[:, : -dim - 1 : -1]


def by_an_expert(matrix, dim):
    """The same at the least cost that SciPy allows, and with the pseudoinverse."""
    values, vectors = scipy.linalg.eigh(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse_root = (vectors * np.where(values > 0, values**-0.5, 0)) @ vectors.T
    last = len(matrix) - 1
    gammas, b = scipy.linalg.eigh(
        inverse_root @ middle(matrix) @ inverse_root, subset_by_index=(last - dim + 1, last)
    )
    return gammas[::-1], inverse_root @ b[:, ::-1]


PEERS = {"as printed": as_printed, "by an expert": by_an_expert}


def processor(call: Callable[[], Any]) -> float:
    """Return the seconds of processor time, of all cores, that a call takes."""
    start = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - start


def measure_modes(settings: Settings, name: str) -> dict[str, Any]:
    """One way to the modes, from a kernel that is there."""
    options = argparse.Namespace(**settings)
    method: Any  # a solver, or one of PEERS
    method, dtype = name.split("/")
    with jax.enable_x64(True):
        matrix = kernel(options, dtype)
        if method in PEERS:  # nothing is compiled: once is enough
            call, rounds = partial(PEERS[method], np.asarray(matrix), options.dim), 0
        else:
            call = partial(kernel_pca.contrastive_modes, matrix, options.dim, solver=method)
            rounds = options.rounds
        before = peak_memory()
        turns = take_turns({name: call}, rounds)
        gammas = np.asarray(turns.results[name][0], float).tolist()
    used = peak_memory() - before
    return {"seconds": turns.seconds[name], "MiB": used, "eigenvalues": gammas}


def by_cholesky(matrix, dim):
    """Eigenvectors y of Lᵀ P L by Lanczos' method, with K̃ = L Lᵀ, and c = P L y / γ."""
    half, eps = len(matrix) // 2, np.finfo(matrix.dtype).eps
    shift = 10 * eps * np.trace(matrix) * np.eye(len(matrix), dtype=matrix.dtype)  # K̃ is singular
    lower = scipy.linalg.cholesky(matrix + shift, lower=True, check_finite=False)

    def exchanged(y):
        return np.roll(lower @ y, half, axis=0)

    product = scipy.sparse.linalg.LinearOperator(
        matrix.shape, lambda y: lower.T @ exchanged(y), dtype=matrix.dtype
    )
    tol = 1e-3 if eps > 1e-10 else 1e-6
    gammas, y = scipy.sparse.linalg.eigsh(product, dim, which="LA", tol=tol)
    gammas, y = gammas[::-1] / len(matrix), y[:, ::-1]
    return gammas, exchanged(y) / (len(matrix) * gammas)


def measure_turns(settings: Settings, dtype: str) -> dict[str, Any]:
    """The quick ways to the modes, in turns."""
    options = argparse.Namespace(**settings)
    with jax.enable_x64(True):
        matrix = kernel(options, dtype)
        host = np.asarray(matrix)
        solve = partial(kernel_pca.contrastive_modes, matrix, options.dim, solver="krylov")
        width = min(len(matrix), options.dim + max(8, options.dim // 4))
        block = jnp.ones((len(matrix), width), dtype)
        multiply = jax.jit(partial(jnp.matmul, precision="highest"))
        num = int(solve().iterations)

        def products():
            return [jax.block_until_ready(multiply(matrix, block)) for _ in range(num)]

        calls: dict[str, Any] = {
            f"{OURS}, krylov": solve,
            "its products": products,
            "two eigh": partial(by_an_expert, host, options.dim),
            "Cholesky and eigsh": partial(by_cholesky, host, options.dim),
        }
        turns = take_turns(calls, options.rounds)
    ours, *_, eigsh = (np.asarray(found[0], float) for found in turns.results.values())
    error = np.abs(eigsh / ours - 1).max()
    return {"seconds": turns.seconds, "error": float(error), "products": num}


def measure_kernel(settings: Settings, name: str) -> dict[str, Any]:
    """One way to K̃."""
    options = argparse.Namespace(**settings)
    way, dtype, depth = name.split("/")
    with jax.enable_x64(True):
        x, x_prime = (view.astype(dtype) for view in crops(options, options.pairs))
        both = jnp.concatenate([x, x_prime])
        before = peak_memory()
        if way == "neural_tangents":
            nt = infinite.load_neural_tangents()
            dense = nt.stax.Dense(1, W_std=2**0.5)
            layers = [dense, nt.stax.Relu()] * int(depth)
            kernel_fn = jax.jit(nt.stax.serial(*layers, dense)[2], static_argnames="get")
            call = partial(
                nt.batch(kernel_fn, min(500, options.pairs), device_count=1), both, None, "ntk"
            )
        else:
            call = partial(gram.pairs, infinite.mlp(int(depth)), x, x_prime, progress=False)
        turns = take_turns({name: call}, options.rounds)
        total = float(jnp.sum(jnp.abs(turns.results[name]), dtype=jnp.float64))
        used, seconds = peak_memory() - before, turns.seconds[name]
        return {"seconds": seconds, "processor": processor(call), "MiB": used, "sum": total}


def measure_scale(settings: Settings, name: str) -> dict[str, Any]:
    """From images to embedded test points."""
    options = argparse.Namespace(**settings)
    start = time.perf_counter()
    x, x_prime = crops(options, options.scale_pairs)
    x_test = crops(options, NUM_TEST, "test", seed=1)[0]
    kernel_fn = infinite.mlp(1)
    laps: dict[str, float] = {}

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
    k_test = gram.to_pairs(kernel_fn, x_test, x, x_prime, progress=False)
    z = jax.block_until_ready(kernel_pca.embed(modes, k_test))
    lap("test points")
    assert z.shape == (NUM_TEST, 64)
    assert bool(jnp.isfinite(z).all())
    return {
        "seconds": time.perf_counter() - start,
        "MiB": peak_memory(),
        "laps": laps,
        "iterations": int(modes.iterations),
        "residual": float((modes.residuals / modes.eigenvalues).max()),
        "eigenvalues": np.asarray(modes.eigenvalues, float).tolist(),
    }


def measure_rate(settings: Settings, name: str) -> dict[str, Any]:
    """A product with a kernel that is never stored."""
    options = argparse.Namespace(**settings)
    views = [jax.device_put(view) for view in crops(options, options.plan_pairs)]
    multiply = gram.pairs_operator(
        infinite.mlp(1), *views, batch_size=options.batch_size, progress=options.progress
    )
    v = jax.random.normal(jax.random.key(0), (2 * options.plan_pairs, PLANNED["columns"]))
    before = peak_memory()
    turns = take_turns({name: partial(multiply, v)}, options.rounds)
    used, seconds = peak_memory() - before, turns.seconds[name]
    return {"seconds": seconds, "MiB": used, "processor": processor(partial(multiply, v))}


def modes_table(options: argparse.Namespace, rows: Rows) -> None:
    """Print part 1."""
    ways = {"float64": ["krylov", "dense", *PEERS], "float32": ["krylov", "by an expert"]}
    found: dict[str, Any] = {}
    for dtype, methods in ways.items():
        for method in methods:
            way = f"{method}/{dtype}"
            one = in_own_process(measure_modes, vars(options), way)
            case = f"{options.dim} modes, {options.pairs} pairs, {dtype}"
            title = f"the formula {method}" if method in PEERS else f"{OURS}, {method}"
            rows.add(case, title, one["seconds"], one["MiB"])
            found[way] = np.array(one["eigenvalues"])
    for way, eigenvalues in found.items():
        error = np.abs(eigenvalues / found["dense/float64"] - 1).max()
        print(f"largest error of γ, {way}: {error:.1e}", flush=True)


def turns_table(options: argparse.Namespace, rows: Rows) -> None:
    """Print the second table of part 1."""
    for dtype in ("float64", "float32"):
        found = in_own_process(measure_turns, vars(options), dtype)
        case = f"{options.dim} modes, {options.pairs} pairs, {dtype}, in turns"
        for name, seconds in found["seconds"].items():
            rows.add(case, name, seconds)
        print(f"{found['products']} products, eigsh differs by {found['error']:.1e}", flush=True)


def kernel_table(options: argparse.Namespace, rows: Rows) -> None:
    """Print part 2."""
    # Between equal samples the arc cosine of neural_tangents loses half of the digits.
    for dtype, depth, digits in (("float64", 1, 1e-8), ("float32", 3, 1e-5)):
        layers = "one hidden layer" if depth == 1 else f"{depth} hidden layers"
        case = f"the kernel, {options.pairs} pairs, {dtype}, {layers}"
        ways = (OURS, "neural_tangents")
        name = f"{dtype}/{depth}"
        found = {w: in_own_process(measure_kernel, vars(options), f"{w}/{name}") for w in ways}
        assert abs(found["neural_tangents"]["sum"] / found[OURS]["sum"] - 1) < digits
        for way, row in found.items():
            also = f"{row['processor']:.2f} s of all cores"
            rows.add(case, way, row["seconds"], row["MiB"], also=also)


def scale_table(options: argparse.Namespace, rows: Rows) -> None:
    """Print part 3."""
    case = f"{options.scale_pairs} pairs to {NUM_TEST} test points, d = 64"
    for way in ("stored", "matrix-free"):
        row = in_own_process(measure_scale, vars(options), way)
        laps = ", ".join(f"{key} {value:.0f} s" for key, value in row["laps"].items())
        rows.add(case, f"{OURS}, {way}", row["seconds"], row["MiB"], also=laps)
        print(f"  {row['iterations']} products, largest residual {row['residual']:.1e}")


def plan_table(options: argparse.Namespace, rows: Rows) -> None:
    """Print part 4."""
    row = in_own_process(measure_rate, vars(options), OURS)
    size = 2 * options.plan_pairs
    case = f"a product of {PLANNED['columns']} vectors, {size} views, never stored"
    rate = size * (size + 1) / 2 / row["seconds"]
    also = f"{row['processor']:.2f} s of all cores"
    rows.add(case, OURS, row["seconds"], row["MiB"], also=also)
    print(f"{rate:.2e} entries of the upper half a second")
    views, devices = PLANNED["views"], PLANNED["devices"]
    seconds = views**2 / 2 / (devices * rate)
    block = 4 * views * PLANNED["columns"] / 2**30
    sent = 4 * (devices - 1) / devices * block
    print(f"by arithmetic, {views} views on {devices} such devices: {seconds:.3g} s a product and")
    print(f"{seconds * PLANNED['products'] / 3600:.3g} h for {PLANNED['products']}; a block is")
    print(f"{block:.2f} GiB, and each device sends {sent:.2f} GiB a product")


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the tables."""
    options = parser(__doc__, rounds=3, full="part 3 too (20 minutes)")
    options.add_argument("--pairs", type=int, default=1000, help="n of parts 1, 2 (default: 1000)")
    options.add_argument("--dim", type=int, default=50, help="d of part 1 (default: 50)")
    options.add_argument("--scale-pairs", type=int, default=20_000, help="n of part 3")
    options.add_argument("--block-size", type=int, default=160, help="of the matrix-free solver")
    options.add_argument("--plan", action="store_true", help="part 4 alone")
    options.add_argument("--plan-pairs", type=int, default=4096, help="n of part 4")
    options.add_argument("--batch-size", type=int, default=1000, help="of part 4 (GPU: 8192)")
    options.add_argument("--data", default="photos", help="photos, cifar10 or stl10")
    options.add_argument("--data-dir", help="folder of prepared data")
    options.add_argument("--progress", action="store_true", help="show bars in parts 3, 4")
    chosen = options.parse_args(args)
    rows = Rows("kernel_pca", chosen.rows)
    del chosen.rows  # the rest goes to each measurement
    print_machine(f"data: {chosen.data}")
    if chosen.plan:
        plan_table(chosen, rows)
        return rows.rows
    modes_table(chosen, rows)
    turns_table(chosen, rows)
    kernel_table(chosen, rows)
    if chosen.full:
        scale_table(chosen, rows)
    return rows.rows


if __name__ == "__main__":
    main()
