"""The empirical NTK of finite networks: ours against those of other libraries.

    make bench    or    python -m benchmarks.bench_empirical_ntk

The scalar kernel (Appendix D.5: one gradient a sample, of the mean output) of one network, with the
same parameters and images in float32, by

- sslstep.ntk.empirical.ntk;
- torch.func: per-sample gradients by vmap(grad), and a product of matrices;
- neural_tangents, contracting Jacobians and by NTK-vector products.

Each runs in a process of its own, twice where that is affordable, and the shorter time counts,
without what is compiled. Peak memory is that of the process, imports included. The peers get the
largest block of samples that keeps their gradients within --memory GiB. Operations are those that
the formula needs as each computes it: counted for ours, as XLA compiled it. With --full ResNet-50
too; with --networks and --methods, some only.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sslstep import nn
from sslstep.ntk import _contraction, _neural_tangents, empirical

GIBIBYTE = 2**30
# Samples, and the images' side; 200 pairs of the last.
NETWORKS = {"mlp": (500, 32), "resnet18": (256, 32), "resnet50": (400, 96)}
RESNETS = {"resnet18": ((2, 2, 2, 2), "basic"), "resnet50": ((3, 4, 6, 3), "bottleneck")}
STEMS = {"resnet18": "small", "resnet50": "imagenet"}
DIM = 50


def images_of(name):
    num, size = NETWORKS[name]
    return np.random.default_rng(0).normal(size=(num, size, size, 3)).astype(np.float32)


def flax_model(name):
    """apply_fn(params, x) and params; batch norm's statistics are fixed."""
    x = jnp.asarray(images_of(name)[:2])
    if name == "mlp":
        model = nn.MLP(DIM, 1024, 2)
        params = model.init(jax.random.key(0), x)
        return model.apply, params
    backbone = nn.ResNet(*RESNETS[name], 64, STEMS[name])
    model = nn.Encoder(backbone, nn.Projector(hidden=(512,), dim=DIM))
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x)

    def apply_fn(params, x):
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        return model.apply(tree, x, train=False).z

    return apply_fn, variables["params"]


def ours(name, memory):
    apply_fn, params = flax_model(name)
    x = jnp.asarray(images_of(name))
    return lambda: empirical.ntk(apply_fn, params, x, memory_limit=memory)


def of_torch(name, memory):
    """As the documentation of torch.func computes per-sample gradients; blocks as they fit."""
    import torch
    from torch.func import functional_call, grad, vmap

    network = torch_network(name).eval()
    params = {key: value.detach() for key, value in network.named_parameters()}
    fixed = dict(network.named_buffers())
    x = torch.tensor(images_of(name).transpose(0, 3, 1, 2).copy())

    def component(params, sample):
        return functional_call(network, (params, fixed), sample[None]).sum() / DIM**0.5

    per_sample = vmap(grad(component), in_dims=(None, 0))

    def gradients(block):
        return [leaf.flatten(1) for leaf in per_sample(params, block).values()]

    size = max(1, memory // (2 * 4 * sum(leaf.numel() for leaf in params.values())))

    def kernel():
        blocks = x.split(min(size, len(x)))
        result, starts = torch.zeros(len(x), len(x)), range(0, len(x), min(size, len(x)))
        with torch.no_grad():
            for number, (i, block) in enumerate(zip(starts, blocks, strict=True)):
                left = gradients(block)
                for j, other in zip(starts[number:], blocks[number:], strict=True):
                    right = left if i == j else gradients(other)
                    part = sum(a @ b.T for a, b in zip(left, right, strict=True))
                    result[i : i + len(block), j : j + len(other)] = part
                    result[j : j + len(other), i : i + len(block)] = part.T
        return result

    return lambda: kernel().numpy()


def torch_network(name):
    import torch

    from benchmarks._pytorch import residual_network

    torch.set_num_threads(os.cpu_count() or 1)
    if name == "mlp":
        sizes = (3 * NETWORKS[name][1] ** 2, 1024, 1024, DIM)
        layers = [torch.nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, after, bias=False), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])
    return residual_network(*RESNETS[name], 64, STEMS[name], 512, DIM)


def of_neural_tangents(name, memory, implementation):
    """nt.empirical_ntk_fn of the same scalar function, in blocks by nt.batch."""
    nt = _neural_tangents.load_neural_tangents()
    apply_fn, params = flax_model(name)
    x = jnp.asarray(images_of(name))

    def component(params, x):
        return apply_fn(params, x).sum(axis=1, keepdims=True) / DIM**0.5

    kernel_fn = nt.empirical_ntk_fn(
        component, vmap_axes=0, implementation=nt.NtkImplementation[implementation]
    )
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    size = max(k for k in range(1, len(x) + 1) if len(x) % k == 0 and 2 * k * gradient <= memory)
    batched = nt.batch(kernel_fn, batch_size=size, device_count=0) if size < len(x) else None
    batched = jax.jit(kernel_fn) if batched is None else batched
    return lambda: batched(x, None, params)


METHODS = {
    "sslstep": ours,
    "torch.func": of_torch,
    "jacobians": lambda name, memory: of_neural_tangents(name, memory, "JACOBIAN_CONTRACTION"),
    "vector products": lambda name, memory: of_neural_tangents(name, memory, "NTK_VECTOR_PRODUCTS"),
}


def measure(name: str, method: str, memory: int, repeats: int) -> dict[str, float]:
    """Seconds and MiB of this process."""
    run = METHODS[method](name, memory)
    best = np.inf
    for turn in range(repeats + 1):
        start = time.perf_counter()
        kernel = np.asarray(run())
        if turn or repeats == 0:  # the first compiles
            best = min(best, time.perf_counter() - start)
    assert np.isfinite(kernel).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": best, "MiB": peak}


def operations(name: str, memory: int) -> float:
    """Floating-point operations of ours, in products of matrices and in both passes."""
    apply_fn, params = flax_model(name)
    x = jnp.asarray(images_of(name))
    partial = Partial(apply_fn)
    program = empirical._read(partial, params, x.shape[1:], x.dtype)
    plan = empirical._plan(program, (len(x),), DIM, "scalar", memory, None, np.dtype("float32"))
    sites = program.sites.values()
    passes = sum(4 * s.groups * s.positions * s.fan_in * s.fan_out for s in sites)
    num = -(-len(x) // plan.batch_size)
    total = passes * plan.batch_size * num * (num + 1) // 2
    for i in range(num):
        for j in range(i, num):
            pairs = _contraction._Pairs(plan.batch_size, plan.batch_size, i == j)
            total += sum(min(_contraction.operations(s, pairs, 1, s.fan_out)) for s in sites)
    return float(total)


def peak_rate() -> float:
    """Operations a second of a product of two matrices of 4096 x 4096."""
    a = jnp.ones((4096, 4096))
    product = jax.jit(jnp.matmul)
    best = np.inf
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - start)
    return 2 * 4096**3 / best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp", "resnet18"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS)[:3])
    parser.add_argument("--memory", type=float, default=8.0, help="GiB (default: 8)")
    parser.add_argument("--repeats", type=int, default=1, help="after the first (default: 1)")
    parser.add_argument("--samples", type=int, help="fewer than the table's")
    parser.add_argument("--timeout", type=int, default=300, help="s of a process (default: 300)")
    parser.add_argument("--full", action="store_true", help="all networks, every method")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, (num, size) in NETWORKS.items():
        NETWORKS[name] = (min(num, options.samples or num), size)
    memory = int(options.memory * GIBIBYTE)
    if options.one:
        print(json.dumps(measure(*options.one, memory, options.repeats)))
        return
    networks = list(NETWORKS) if options.full else options.networks
    methods = list(METHODS) if options.full else options.methods
    peak = peak_rate()
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX {jax.__version__}, float32")
    print(f"a product of 4096 x 4096 matrices: {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':12}{'samples':>8}{'method':>18}{'seconds':>10}{'ratio':>8}{'MiB':>8}", flush=True)
    for name in networks:
        first = None
        for method in methods:
            command = [
                sys.executable,
                "-m",
                "benchmarks.bench_empirical_ntk",
                "--one",
                name,
                method,
            ]
            command += ["--memory", str(options.memory), "--repeats", str(options.repeats)]
            command += ["--samples", str(options.samples)] if options.samples else []
            try:
                result = subprocess.run(
                    command, capture_output=True, text=True, timeout=options.timeout
                )
            except subprocess.TimeoutExpired:
                print(f"{name:12}{NETWORKS[name][0]:8}{method:>18}  over {options.timeout} s")
                continue
            if result.returncode:
                reason = (result.stderr.strip().splitlines() or ["killed"])[-1]
                print(f"{name:12}{NETWORKS[name][0]:8}{method:>18}  failed: {reason[:60]}")
                continue
            seconds, used = json.loads(result.stdout.strip().splitlines()[-1]).values()
            first = seconds if first is None else first
            line = f"{name:12}{NETWORKS[name][0]:8}{method:>18}{seconds:10.2f}"
            print(f"{line}{seconds / first:8.2f}{used:8.0f}", flush=True)
            if method == "sslstep":
                count = operations(name, memory)
                share = count / seconds / peak
                print(f"{'':20}{count / 1e12:.2f} TFLOP, at {share:.0%} of the product's rate")


if __name__ == "__main__":
    main()
