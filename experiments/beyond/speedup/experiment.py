r"""Speed-ups of Appendix G's remedies, compared with obvious alternatives.

    make speedup    or    python -m experiments run speedup

The experiment compares ways of training, called arms. The references are Barlow Twins, trained as
in the paper, and VICReg, both by gradient descent. The obvious alternatives are Barlow Twins with
momentum, Adam or LARS, and whitened embeddings. The remedies are preconditioned gradients (Eq. 52),
sharpened, smoothed, quartic and hinge losses (G.2, G.3), and combinations of them. The problems are
a linear model, a network of one hidden layer and a ResNet.

Every arm is tuned with an equal number of trials from two seeds, over its learning rate and its own
parameter, if it has one. It is then trained from five other seeds. The results are steps and
seconds to each number of learned dimensions, steps and seconds to the final probe accuracy of tuned
Barlow Twins, final accuracies, and effective ranks, with 95% intervals of ratios; table.md holds
them. Two arms are trained at a time. An interrupted run continues with the unfinished arms.
"""

import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
from tqdm import tqdm

from experiments.beyond.speedup import contenders, tasks, tuning
from experiments.beyond.speedup.contenders import ARMS
from experiments.beyond.speedup.tasks import MLP, Linear, ResNet, Search
from sslstep.experiment import Arrays, Experiment, training
from sslstep.experiment._require import require

# Rates a factor of four apart, from slow to unstable.
LINEAR = Linear(
    Search(
        descent=(0.04, 0.16, 0.64, 2.56),
        momentum=(0.01, 0.04, 0.16, 0.64),
        vicreg=(0.01, 0.04, 0.16, 0.64),
        adam=(0.008, 0.032, 0.128, 0.512),
        lars=(2.4, 9.6, 38.4, 153.6),
    ),
    target=8,
    init_scale=1e-2,
    num_steps=8000,
)


ONE_LAYER = MLP(
    Search(
        descent=(0.0005, 0.002, 0.008, 0.032),
        momentum=(0.0001, 0.0004, 0.0016, 0.0064),
        vicreg=(0.0003, 0.0012, 0.0048, 0.0192),
        adam=(0.0003, 0.0012, 0.0048, 0.0192),
        lars=(0.3, 1.2, 4.8, 19.2),
    ),
    target=4,
    num_steps=1200,
)


RESNET = ResNet(
    Search(
        descent=(0.005, 0.02, 0.08, 0.32),
        momentum=(0.001, 0.004, 0.016, 0.064),
        vicreg=(0.0006, 0.0024, 0.0096, 0.0384),
        adam=(0.0003, 0.0012, 0.0048, 0.0192),
        lars=(0.3, 1.2, 4.8, 19.2),
    ),
    num_steps=800,
)


@dataclass(frozen=True)
class Config:
    """Settings; each is one option of the command."""

    problems: tuple[tasks.Name, ...] = tasks.NAMES
    """Problems: the linear model, the network of one hidden layer, the ResNet."""
    arms: tuple[contenders.Name, ...] = tuple(ARMS)
    """Ways of training; the other arms are compared with plain."""
    data: tuple[Literal["photos", "cifar10", "stl10"], ...] = ("photos",)
    """Images of the ResNet, with one problem for each; the MLP uses the first."""
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
        RESNET.search,
        dim=64,
        target=48,
        batch_size=512,
        num_steps=20_000,
        hidden=(2048,),
    ),
    measure_every=20,
    num_records=40,
    settle=2000,
    jobs=1,
)


# Names of the settings of the images and of the ResNet.
OF_IMAGES = ("backbone", "stem", "size", "num_probe", "num_labelled")


def cases(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Yield the name, the settings and the source of images of each case."""
    for name in config.problems:
        for source in config.data if name == "resnet" else config.data[:1]:
            yield (source if name == "resnet" else name), getattr(config, name), source


def run(config: Config, runs: training.Store) -> Arrays:
    """Tune, train and time every arm on every case; read stored results of finished arms."""
    _require_valid(config)
    arrays: Arrays = {}
    for case, problem, source in cases(config):
        found = _study(config, runs, case, problem, source)
        arrays |= {f"{case}/{name}": value for name, value in found.items()}
    return arrays


def _study(config: Config, runs: training.Store, case: str, problem: Any, source: str) -> Arrays:
    """Tune, train and time all arms on one case."""
    built = _build(case, problem, _images_of(config, source))
    measures = tuning.make_measures(built)
    settings = tuning.Settings(config.measure_every, config.num_records, config.hold, config.settle)
    described = {
        "settings": settings,
        "seeds": config.seeds,
        "tuning_seeds": config.tuning_seeds,
        "problem": problem,
        "images": case != "linear" and [source, *(getattr(config, name) for name in OF_IMAGES)],
    }

    def train_arm(name: str, begin: Callable[[str], None]) -> Arrays:
        arm = ARMS[name]
        own = getattr(config, arm.own) if arm.own else ()
        make = partial(
            tuning.run_arm,
            *(built, measures, arm, problem, config.seeds, config.tuning_seeds, own, settings),
            begin,
        )
        described_arm = {**described, "arm": name, "own": own}
        return runs.kept(f"speedup-{case}-{name}", described_arm, tuning.__name__, make)

    names = [name for name in config.arms if _applies(case, name)]
    arrays: Arrays = {}
    chosen: dict[str, tuple[contenders.Arm, tuning.Candidate]] = {}
    with tqdm(total=len(names), desc=case, unit=" arms", disable=None) as bar:
        for name, found in _side_by_side(train_arm, names, config.jobs, bar):
            arrays |= {f"{name}/{key}": value for key, value in found.items()}
            candidate = tuning.Candidate(*map(float, found["chosen"]))
            chosen[name] = (ARMS[name], candidate)
            bar.update()
    steps = {name: candidate for name, (_, candidate) in chosen.items()}
    seconds = runs.kept(
        f"speedup-{case}-seconds",
        {**described, "rounds": config.rounds, "chosen": steps, "host": platform.node()},
        tuning.__name__,
        partial(
            tuning.step_seconds,
            *(built, chosen, problem, config.tuning_seeds[0]),
            rounds=config.rounds,
            seconds=config.round_seconds,
        ),
    )
    return arrays | {f"{name}/seconds": value for name, value in seconds.items()}


def _side_by_side(
    train_arm: Callable[[str, Callable[[str], None]], Arrays],
    names: Sequence[str],
    jobs: int,
    bar: "tqdm[Any]",
) -> Iterator[tuple[str, Arrays]]:
    """Train arms in `jobs` threads and yield their names and results in order.

    A small network leaves cores idle. After a failure or an interrupt, the other arms stop before
    their next run.
    """
    stopped = threading.Event()
    x64 = jax.config.read("jax_enable_x64")  # a context holds in its own thread only

    def begin(label: str) -> None:
        if stopped.is_set():
            raise CancelledError
        bar.set_postfix_str(label)

    def one(name: str) -> tuple[str, Arrays]:
        try:
            begin(name)
            with jax.enable_x64(x64):
                return name, train_arm(name, begin)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, name) for name in names]
        try:
            for future in as_completed(futures):
                future.result()  # the first failure, not the first arm's
        finally:
            stopped.set()
    yield from (future.result() for future in futures)


def _applies(case: str, arm: str) -> bool:
    """Return whether an arm suits a case: whitening leaves the linear model nothing to learn."""
    return case != "linear" or arm != "whitening"


def _images_of(config: Config, source: Any) -> training.Config:
    """Return settings of :class:`training.Config` for one source of images."""
    return training.Config(
        data=source,
        data_dir=config.data_dir,
        **{name: getattr(config, name) for name in OF_IMAGES},
    )


def _build(case: str, problem: Any, images: training.Config) -> tasks.Built:
    """Build the problem of a case."""
    if case == "linear":
        return tasks.build_linear(problem)
    return tasks.build_images(problem, images)


def _require_valid(config: Config) -> None:
    """Raise ValueError if a setting is invalid."""
    for name in ("problems", "arms", "data", "seeds", "tuning_seeds"):
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} must be one or more, each once, got {values}.")
    if "plain" not in config.arms:
        raise ValueError("arms must include plain, with which the others are compared.")
    if set(config.tuning_seeds) & set(config.seeds):
        raise ValueError(
            f"tuning_seeds must not be among seeds, got {config.tuning_seeds} and {config.seeds}."
        )
    never_negative = dict.fromkeys(("num_labelled", "settle"), 0)
    counts = dict.fromkeys(("measure_every", "hold", "rounds", "jobs"), 1)
    require(config, at_least={**never_negative, **counts, "num_records": 3})
    for name in ("alphas", "softenings", "leaks", "widths"):
        if len(set(getattr(config, name))) != 3 or min(getattr(config, name)) <= 0:
            raise ValueError(
                f"{name} must be three numbers above 0, as many as other arms have more rates, got "
                f"{getattr(config, name)}."
            )
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
        rates = list(vars(problem.search).values())
        if len({len(part) for part in rates}) != 1 or not rates[0] or min(map(min, rates)) <= 0:
            raise ValueError(
                f"{name}.search must have as many learning rates for each arm, all above 0."
            )
    if "whitening" in config.arms and not config.num_labelled:
        raise ValueError("num_labelled must be >= 1: of whitened embeddings only probes tell.")


EXPERIMENT = Experiment({"cpu": Config(), "paper": PAPER}, run, trains=True, minutes=60, alone=True)
