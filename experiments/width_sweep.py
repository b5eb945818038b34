r"""How finite networks approach the infinite-width prediction as they widen (Section 5).

    make width_sweep    or    python -m experiments.width_sweep

ReLU networks of widths 64 to 8192, in the NTK and the standard parameterisation, are trained by
full-batch gradient descent on the simplified Barlow Twins loss. Each is compared with gradient
descent of its infinite-width kernel from the same initial embeddings: the final embeddings of the
training pairs and of held-out ones (A), the eigenvalues of C (B, D, E), and step times (C).
Expected: every distance falls like width^-1/2. Two to four minutes on two cores.

Why -1/2. Gradient descent moves the embeddings F of a network by -η Θ ∇L(F), with Θ its NTK at
that moment, and those of the limit by the same with the fixed kernel. To first order, a distance is
linear in their difference. At initialisation that is a mean over independent hidden units less its
expectation, O(width^-1/2); training adds O(1 / width), because to first order a unit's change is
odd in its output weights, which have mean zero.

When it holds. First, the fluctuation has to be small against 1 / (4 γ_j τ_j), the inverse number of
e-foldings in which a mode grows. Second, and harder to meet, against α, the size of the initial
embeddings: the finite network's NTK couples the outputs, so that a mode being learned by one of
them leaves O(width^-1/2) of the others in the rest, and where α is smaller that is what they grow
from. Width and 1 / α do not go to infinity independently: width^-1/2 << α. So α is 0.1 here, and
the prediction is not Result 4.6, whose own error is of order α^β (F), but gradient descent of the
kernel from the network's initial embeddings, exact for every α and learning rate.

Initial embeddings are made small by subtracting most of the network's own, which leaves its kernel
as it is (sslstep.nn.centred). Presets differ in the data and the widest network.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import _networks, _prediction
from experiments._images import Source, split_pairs
from experiments._require import require, require_widths
from experiments._run import Arrays, Experiment, command
from sslstep import claims, gram, linear, nn, plotting
from sslstep.ntk import infinite

PARAMETERIZATIONS: tuple[Literal["ntk"], Literal["standard"]] = ("ntk", "standard")


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    data: Source = "photos"
    """Where the images come from: by name, or a folder of one's own."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10; TFDS's own default if not given."""
    num_images: int = 50
    """n, the number of positive pairs."""
    num_test: int = 25
    """How many held-out pairs, from other images."""
    crop: int = 20
    """Side of a crop, in pixels."""
    dim: int = 4
    """Embedding dimension d."""
    depth: int = 1
    """Hidden layers of the networks."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    """Hidden units in a layer, increasing."""
    fit_from: int = 512
    """The narrowest width of the fitted exponents; beside them are those of all widths."""
    num_seeds: int = 8
    """Networks of each width and parameterisation, all independent."""
    init_scale: float = 0.1
    """α: initial embeddings, relative to the plain network's."""
    scales: tuple[float, ...] = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
    """α at which the closed form is compared with gradient flow of the kernel, decreasing."""
    weight_std: float = 2**0.5
    """σ_W of the networks, both parameterisations alike."""
    step_size: float = 0.2
    """4 η γ_1: the learning rate in units of the limit of slow growth; stable below 1."""
    seed: int = 2
    """Seed of the choice of images, the crops and the networks."""


def run(config: Config) -> Arrays:
    """Every network, its prediction and the distances between the two."""
    require(
        config,
        # Of one seed there is no standard error.
        at_least={"num_images": 1, "num_test": 1, "dim": 1, "depth": 1, "num_seeds": 2},
        fraction=("step_size",),
        at_most_one=("init_scale",),
    )
    require_widths(config.widths, config.fit_from)
    key_data, key_networks = jax.random.split(jax.random.key(config.seed))
    numbers = (config.num_images, config.num_test)
    x, x_test = split_pairs(key_data, config.data, *numbers, config.data_dir, config.crop)
    basis = _networks.basis(x, x_test)
    shape = (len(PARAMETERIZATIONS), len(config.widths), config.num_seeds)
    keys = jax.random.split(key_networks, shape)
    arrays: Arrays = {
        "widths": np.asarray(config.widths),
        "distances": np.zeros((*shape, len(_prediction.MEASURES))),
    }
    with tqdm(total=int(np.prod(shape)), unit=" networks", disable=None) as bar:
        for p, w in np.ndindex(shape[:2]):
            parameterization, width = PARAMETERIZATIONS[p], config.widths[w]
            limit = _limit(config, parameterization, width, x, x_test)
            model = nn.MLP(config.dim, width, config.depth, parameterization, config.weight_std)
            inputs = _networks.rotated(basis, model, x, x_test)
            functions = _networks.functions(model.apply)
            for s in range(config.num_seeds):
                params = _networks.init(keys[p, w, s], basis, model=model)
                (z, z_test), trained, times = _networks.trained(
                    functions, params, inputs, config.init_scale, limit
                )
                exact = _prediction.kernel_descent(limit, z, z_test, times)
                span = float(times[-1])
                arrays["distances"][p, w, s] = _prediction.distances(trained, exact, span)
                bar.update()
            if p == 0 and w in (0, len(config.widths) - 1):
                name = "wide" if w else "narrow"
                arrays[f"{name}_t"] = times
                arrays[f"{name}_curves"] = trained.curves
                arrays[f"{name}_predicted"] = exact.curves
    errors = [
        _prediction.closed_form_error(limit, scale / config.init_scale * z)
        for scale in config.scales
    ]
    arrays["closed_form"] = np.column_stack([config.scales, np.asarray(errors)])
    gammas = limit.gamma_modes.eigenvalues
    arrays["alignment_exponent"] = linear.alignment_exponent(gammas, config.dim)
    return {name: np.asarray(array) for name, array in arrays.items()}


def _limit(config, parameterization, width, x, x_test) -> _prediction.Limit:
    kernel_fn = infinite.mlp(
        config.depth, width, parameterization=parameterization, weight_std=config.weight_std
    )
    first, second = jnp.split(x, 2)
    kernel = gram.pairs(kernel_fn, first, second, progress=False)
    k_test_train = gram.test_train(kernel_fn, x_test, first, second, progress=False)
    return _prediction.limit(kernel, k_test_train, config.dim, config.step_size)


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """The exponents, and that nothing but width limits the agreement."""
    results = []
    for p, name in enumerate(PARAMETERIZATIONS):
        for i, measure in enumerate(_prediction.MEASURES):
            results += _prediction.exponent_claims(
                f"distance of the {measure} from the infinite-width prediction, {name} "
                f"parameterisation",
                "Section 5, beyond the paper",
                arrays["widths"],
                arrays["distances"][p, :, :, i],
                fit_from=config.fit_from,
                expected=-0.5,
            )
    return [*results, *_check_closed_form(config, arrays)]


def _check_closed_form(config: Config, arrays: Arrays) -> list[claims.Claim]:
    scales, measured, first_order = arrays["closed_form"].T
    return [
        claims.close(
            f"at infinite width, the closed form's distance from gradient flow of the kernel "
            f"is that of the elements it leaves out: ratio at α = {scales[-1]:.0e}, where the "
            f"distance is {measured[-1]:.2g}",
            "Eq. 42, Result 4.6",
            expected=1.0,
            measured=float(measured[-1] / first_order[-1]),
            # What is of second order in the elements, d of which are of this size.
            tolerance=config.dim * float(scales[-1] ** arrays["alignment_exponent"]),
        ),
        claims.below(
            "and it falls with α without exception: largest ratio of successive distances",
            "Eq. 42, Result 4.6",
            measured=float((measured[1:] / measured[:-1]).max()),
            tolerance=1.0,
        ),
    ]


def plot(config: Config, arrays: Arrays) -> Any:
    """Distances against width, the curves of two networks, and the closed form's own error."""
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(7.0, 4.4))
    grid = fig.add_gridspec(2, 3)
    first = fig.add_subplot(grid[0, 0])
    top = [first, *(fig.add_subplot(grid[0, i], sharey=first) for i in (1, 2))]
    bottom = [fig.add_subplot(grid[1, i]) for i in range(3)]
    titles = ("embeddings, relative", r"eigenvalues of $C$, largest", "step times, relative")
    for ax, title, measures in zip(top, titles, ((0, 1), (2,), (3,)), strict=True):
        _plot_distances(ax, config, arrays, measures)
        ax.set(xlabel="width", xscale="log", yscale="log", title=title)
    low = 10 ** np.floor(np.log10(arrays["distances"].mean(axis=2).min()))
    first.set(ylabel="distance from prediction", ylim=(low, 1.2))
    first.plot([], [], "D", color="grey", markersize=4, label="training pairs")
    first.plot([], [], "D", color="grey", mfc="white", markersize=4, label="held-out pairs")
    first.legend(loc="lower left")
    top[2].legend(*_legend(top[2]), loc="upper right")
    for ax, name, width in ((bottom[0], "narrow", 0), (bottom[1], "wide", -1)):
        t, curves, predicted = (arrays[f"{name}_{x}"] for x in ("t", "curves", "predicted"))
        texts = {"experiment": "trained", "theory": "predicted"}
        plotting.mode_curves(ax, t[1:], curves[1:], predicted[1:], **texts)
        ax.set(xlabel="effective time $t$", ylabel=r"eigenvalues of $C$", ylim=(-0.05, 1.35))
        ax.set(xscale="log", xlim=(t[1], t[-1]), title=f"width {arrays['widths'][width]}")
    bottom[0].legend(loc="upper left", ncols=2)
    scales, measured, first_order = arrays["closed_form"].T
    bottom[2].plot(scales, measured, "o", color=plotting.CATEGORIES[2], label="Eq. 42")
    bottom[2].plot(scales, first_order, **plotting.THEORY, label="what it leaves out")
    bottom[2].set(xscale="log", yscale="log", xlabel=r"init scale $\alpha$")
    bottom[2].set(ylabel="distance from gradient flow", title="closed form, infinite width")
    bottom[2].legend(loc="lower right")
    plotting.label_panels([*top, *bottom])
    return fig


def _legend(ax) -> tuple[list[Any], list[str]]:
    """The entries of an axis with error bars shown as markers only."""
    handles, labels = ax.get_legend_handles_labels()
    return [getattr(handle, "lines", [handle])[0] for handle in handles], labels


def _plot_distances(ax, config, arrays, measures) -> None:
    widths = arrays["widths"]
    fitted = widths >= config.fit_from
    for p, name in enumerate(PARAMETERIZATIONS):
        color = plotting.CATEGORIES[p]
        for i in measures:
            values = arrays["distances"][p, :, :, i]
            ax.errorbar(
                widths * (1 + 0.08 * p),  # side by side
                values.mean(axis=1),
                values.std(axis=1, ddof=1) / values.shape[1] ** 0.5,
                fmt="os"[p],
                color=color,
                mfc="white" if i == 1 else color,
                markersize=4,
                linewidth=0.8,
                label=name if len(measures) == 1 else None,
            )
    values = arrays["distances"][:, fitted][..., measures]
    x = widths[fitted].astype(float)
    middle = np.exp(np.log(values).mean()) * np.exp(np.log(x).mean()) ** 0.5
    label = r"$\propto$ width$^{-1/2}$" if len(measures) == 1 else None
    ax.plot(x, middle * x**-0.5, **plotting.THEORY, label=label, zorder=5)


EXPERIMENT = Experiment(
    "width_sweep",
    __doc__ or "",
    {
        "cpu": Config(),
        "paper": Config(data="cifar10", widths=tuple(2**k for k in range(6, 17))),
    },
    run,
    plot,
    check,
)

if __name__ == "__main__":
    command(EXPERIMENT)
