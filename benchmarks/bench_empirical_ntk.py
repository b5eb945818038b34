"""The empirical NTK of finite networks: ours against those of other libraries.

    make bench    or    python -m benchmarks.bench_empirical_ntk

The scalar kernel (Appendix D.5: one gradient a sample, of the mean output) of one network, with the
same parameters and images in float32, by

- sslstep.ntk.empirical.ntk;
- torch.func: per-sample gradients by vmap(grad), and a product of matrices;
- neural_tangents, contracting Jacobians and by NTK-vector products.

Each runs in a process of its own: a first time, which compiles, and --rounds times more, of which
the shortest counts (with --rounds 0 the first, compilation included). Peak memory is that of the
process, imports included. The peers get the largest block of samples that keeps their gradients
within --memory GiB. Operations are those that the formula needs as each computes it: counted for
ours, as XLA compiled it. With --full ResNet-50 too; with --networks and --methods, some only.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks._timing import (
    OURS,
    MeasurementError,
    Row,
    Rows,
    in_own_process,
    installed,
    parser,
    peak_memory,
    peak_rate,
    print_machine,
    take_turns,
)
from sslstep import nn
from sslstep.ntk import _contraction, empirical, infinite

GIBIBYTE = 2**30
# Samples, and the images' side; 200 pairs of the last.
NETWORKS = {"mlp": (500, 32), "resnet18": (256, 32), "resnet50": (400, 96)}
BACKBONES = {
    "resnet18": partial(nn.resnet18, stem="small"),
    "resnet50": partial(nn.resnet50, stem="imagenet"),
}
DIM = 50
TORCH = "torch.func"


def images_of(name, most):
    num, size = NETWORKS[name]
    shape = (min(num, most or num), size, size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def encoder_of(name):
    return nn.Encoder(BACKBONES[name](), nn.Projector(hidden=(512,), dim=DIM))


def flax_model(name, x):
    """apply_fn(params, x) and params; batch norm's statistics are fixed."""
    x = jnp.asarray(x[:2])
    if name == "mlp":
        mlp = nn.MLP(DIM, 1024, 2)
        return mlp.apply, mlp.init(jax.random.key(0), x)
    model = encoder_of(name)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x)

    def apply_fn(params, x):
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        return model.apply(tree, x, train=False).z

    return apply_fn, variables["params"]


def ours(name, images, memory):
    apply_fn, params = flax_model(name, images)
    x = jnp.asarray(images)
    return lambda: empirical.ntk(apply_fn, params, x, memory_limit=memory)


def of_torch(name, images, memory):
    """As the documentation of torch.func computes per-sample gradients; blocks as they fit."""
    import torch
    from torch.func import functional_call, grad, vmap

    network = torch_network(name).eval()
    params = {key: value.detach() for key, value in network.named_parameters()}
    fixed = dict(network.named_buffers())
    x = torch.tensor(images.transpose(0, 3, 1, 2).copy())

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

    from benchmarks._pytorch import network_like

    torch.set_num_threads(os.cpu_count() or 1)
    if name == "mlp":
        sizes = (3 * NETWORKS[name][1] ** 2, 1024, 1024, DIM)
        layers = [torch.nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, after, bias=False), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])
    return network_like(encoder_of(name))


def of_neural_tangents(implementation, name, images, memory):
    """nt.empirical_ntk_fn of the same scalar function, in blocks by nt.batch."""
    nt = infinite.load_neural_tangents()
    apply_fn, params = flax_model(name, images)
    x = jnp.asarray(images)

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


METHODS: dict[str, Callable[..., Callable[[], Any]]] = {
    OURS: ours,
    TORCH: of_torch,
    "jacobians": partial(of_neural_tangents, "JACOBIAN_CONTRACTION"),
    "vector products": partial(of_neural_tangents, "NTK_VECTOR_PRODUCTS"),
}


def measure(
    name: str, method: str, most: int | None, memory: int, rounds: int
) -> tuple[float, float]:
    """Seconds and MiB of this process."""
    call = METHODS[method](name, images_of(name, most), memory)
    turns = take_turns({method: call}, rounds)
    assert np.isfinite(np.asarray(turns.results[method])).all()
    return turns.seconds[method], peak_memory()


def operations(name: str, images: np.ndarray, memory: int) -> float:
    """Floating-point operations of ours, in products of matrices and in both passes."""
    apply_fn, params = flax_model(name, images)
    x = jnp.asarray(images)
    program = empirical._read(Partial(apply_fn), params, x.shape[1:], x.dtype)
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


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Print the table."""
    options = parser(__doc__, rounds=1, full="all networks, every method")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp", "resnet18"])
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS)[:3])
    options.add_argument("--memory", type=float, default=8.0, help="GiB (default: 8)")
    options.add_argument("--samples", type=int, help="fewer than the table's")
    options.add_argument("--timeout", type=float, default=200, help="s of one (default: 200)")
    chosen = options.parse_args(args)
    rows, memory = Rows("empirical_ntk", chosen.rows), int(chosen.memory * GIBIBYTE)
    methods = list(METHODS) if chosen.full else chosen.methods
    if TORCH in methods and not installed("torch"):
        methods = [method for method in methods if method != TORCH]
    print_machine("float32")
    peak = peak_rate()
    for name in list(NETWORKS) if chosen.full else chosen.networks:
        images = images_of(name, chosen.samples)
        case = f"{name}, {len(images)} samples"
        for method in methods:
            try:
                seconds, used = in_own_process(
                    measure,
                    *(name, method, chosen.samples, memory, chosen.rounds),
                    timeout=chosen.timeout,
                )
            except MeasurementError as error:
                rows.add(case, method, None, note=str(error))
                continue
            also = ""
            if method == OURS:
                count = operations(name, images, memory)
                share = count / seconds / peak
                also = f"{count / 1e12:.2f} TFLOP, at {share:.0%} of the product's rate"
            rows.add(case, method, seconds, used, also=also)
    return rows.rows


if __name__ == "__main__":
    main()
