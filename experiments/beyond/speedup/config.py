"""Settings of the experiment `speedup`."""

from dataclasses import dataclass
from typing import Literal

from experiments.beyond.speedup import contenders, tasks
from experiments.beyond.speedup.tasks import MLP, Linear, ResNet, Search, Standard
from sslstep.experiment._require import require, require_list


def _from(**slowest: float) -> Search:
    """Return a search of four rates for each arm, a factor of four apart, from the slowest on."""
    return Search(**{arm: tuple(rate * 4**k for k in range(4)) for arm, rate in slowest.items()})


LINEAR = Linear(
    _from(descent=0.04, spectral=0.04, momentum=0.01, vicreg=0.01, adam=0.008, lars=2.4),
    target=8,
    init_scale=1e-2,
    num_steps=8000,
)

ONE_LAYER = MLP(
    _from(descent=0.0005, spectral=0.0005, momentum=0.0001, vicreg=0.0003, adam=0.0003, lars=0.3),
    target=4,
    num_steps=1200,
)

RESNET = ResNet(
    _from(descent=0.005, spectral=0.005, momentum=0.001, vicreg=0.0006, adam=0.0003, lars=0.3),
    num_steps=800,
)

ORDINARY = Standard(
    _from(descent=0.01, spectral=0.0008, momentum=0.001, vicreg=0.01, adam=0.00025, lars=0.4),
    dim=64,
    init_scale=1.0,
    num_steps=1500,
    hidden=(256,),
)


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    problems: tuple[tasks.Name, ...] = ("linear", "mlp", "resnet")
    """Problems: the linear model, the network of one hidden layer, the ResNet, and the ResNet from
    its ordinary initialisation."""
    arms: tuple[contenders.Name, ...] = tuple(n for n in contenders.ARMS if n != "unweighted")
    """Ways of training; the other arms are compared with plain. From a small initialisation
    unweighted is plain."""
    data: tuple[Literal["photos", "cifar10", "stl10"], ...] = ("photos",)
    """Images of the ResNet, with one problem for each; the others use the first."""
    data_dir: str | None = None
    """Folder of prepared TFDS data, for cifar10 and stl10. Default: TFDS's own folder."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of images, views and initial parameters."""
    tuning_seeds: tuple[int, ...] = (1000, 1001)
    """Seeds on which arms are tuned; disjoint from seeds."""
    alphas: tuple[float, float, float] = (0.1, 0.3, 0.03)
    """Values of the preconditioner's α, relative to the largest eigenvalue. The first is tried with
    every learning rate, the others with the best rate."""
    softenings: tuple[float, float, float] = (1e-2, 1e-1, 1e-3)
    """Values of the sharpened loss's δ."""
    leaks: tuple[float, float, float] = (0.1, 0.3, 0.01)
    """Values of the smoothed losses' ε."""
    widths: tuple[float, float, float] = (0.1, 0.3, 0.03)
    """Values of the hinge loss's half width."""
    linear: Linear = LINEAR
    """The linear model."""
    mlp: MLP = ONE_LAYER
    """The network of one hidden layer."""
    resnet: ResNet = RESNET
    """The ResNet."""
    standard: Standard = ORDINARY
    """The ResNet from its ordinary initialisation."""
    backbone: Literal["small", "resnet18", "resnet50"] = "small"
    """Backbone of the ResNet; small: width 8, three stages of one basic block."""
    stem: Literal["imagenet", "small", "small_stride2"] = "small_stride2"
    """First layers: 7x7 with stride 2 and pooling; 3x3; 3x3 with stride 2."""
    size: int = 16
    """Side of the views in pixels."""
    num_probe: int = 256
    """Number of fixed pairs on which spectra are measured."""
    num_labelled: int = 1024
    """Labelled images of each split, for linear probes of hidden representations."""
    measure_every: int = 5
    """Steps between spectra."""
    num_records: int = 14
    """Number of times a probe is trained along a run."""
    hold: int = 5
    """Number of successive spectra for which a dimension must stay learned to count."""
    settle: int = 200
    """Number of steps for which a tuning run must hold the target after reaching it."""
    rounds: int = 7
    """Number of rounds in which the steps of all arms are timed."""
    round_seconds: float = 0.3
    """Approximate duration of a round for one arm."""
    jobs: int = 2
    """Arms that are tuned and trained at a time. No result depends on it; timing is sequential."""


PAPER = Config(
    data=("cifar10", "stl10"),
    backbone="resnet18",
    stem="small",
    size=32,
    num_probe=2048,
    num_labelled=5000,
    mlp=MLP(ONE_LAYER.search, dim=64, target=48, batch_size=512, num_steps=10_000, width=2048),
    resnet=ResNet(
        RESNET.search, dim=64, target=48, batch_size=512, num_steps=20_000, hidden=(2048,)
    ),
    measure_every=20,
    num_records=40,
    settle=2000,
    jobs=1,
)

STANDARD = Config(
    problems=("standard",),
    arms=("plain", "unweighted", "adam", "lars", "sharpened_smoothed", "combined"),
    seeds=(5, 6, 7, 8, 9),  # settings were found on others
    size=24,
    num_labelled=2000,
    num_records=24,
)


def require_valid(config: Config) -> None:
    """Raise ValueError if a setting is invalid."""
    for name in ("problems", "arms", "data", "seeds", "tuning_seeds"):
        require_list(name, getattr(config, name))
    if "plain" not in config.arms:
        raise ValueError("arms must include plain, with which the others are compared.")
    if set(config.tuning_seeds) & set(config.seeds):
        raise ValueError(
            f"tuning_seeds must not be among seeds, got {config.tuning_seeds} and {config.seeds}."
        )
    never_negative = dict.fromkeys(("num_labelled", "settle"), 0)
    counts = dict.fromkeys(("measure_every", "hold", "rounds", "jobs"), 1)
    own = ("alphas", "softenings", "leaks", "widths")
    require(config, at_least={**never_negative, **counts, "num_records": 3}, positive=own)
    for name in own:
        require_list(name, getattr(config, name), least=3)
    for name in config.problems:
        problem = getattr(config, name)
        if config.num_probe < 4 * problem.dim:
            raise ValueError(
                f"num_probe = {config.num_probe} must be at least 4 {name}.dim = {4 * problem.dim}."
            )
        if not 1 <= problem.target <= problem.dim:
            raise ValueError(
                f"{name}.target = {problem.target} must lie within 1...{name}.dim = {problem.dim}."
            )
        if problem.num_steps % config.measure_every or problem.num_steps < 1:
            raise ValueError(
                f"{name}.num_steps = {problem.num_steps} must be a multiple of measure_every = "
                f"{config.measure_every}."
            )
        fraction = () if problem.accuracy is None else ("accuracy",)
        require(problem, at_least={"averaged": 1}, fraction=fraction, of=f"{name}.")
        rates = vars(problem.search)
        require(problem.search, positive=rates, of=f"{name}.search.")
        if len({len(part) for part in rates.values()}) != 1:
            raise ValueError(f"{name}.search must have as many learning rates for each arm.")
    if ("whitening" in config.arms or "standard" in config.problems) and not config.num_labelled:
        raise ValueError(
            "num_labelled must be >= 1: whitening and the problem `standard` are judged by probes."
        )
