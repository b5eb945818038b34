r"""Speed-ups of Appendix G's remedies, compared with obvious alternatives.

    make speedup    or    python -m experiments run speedup

The experiment compares ways of training, called arms. The references are Barlow Twins, trained as
in the paper, and VICReg, both by gradient descent. The obvious alternatives are Barlow Twins with
momentum, Adam or LARS, and whitened embeddings. The remedies are preconditioned gradients (Eq. 52),
sharpened, smoothed, quartic and hinge losses (G.2, G.3), and combinations of them. The problems are
a linear model, a network of one hidden layer and a ResNet from a small initialisation. The preset
`standard` compares the two best combinations with Adam, LARS and λ = 1 on a ResNet, from its
ordinary initialisation, with the publication's views, batch norm before the loss and, for Barlow
Twins itself, the publication's λ. Arms are tuned to an accuracy of the probe in place of learned
dimensions. It takes two hours on two cores.

Every arm is tuned with an equal number of trials from two seeds, over its learning rate and its own
parameter, if it has one. It is then trained from five other seeds. The results are steps and
seconds to each number of learned dimensions, steps and seconds to the final probe accuracy of tuned
Barlow Twins, final accuracies, and effective ranks, with 95% intervals of ratios; table.md holds
them. Two arms are trained at a time. An interrupted run continues with the unfinished arms.
"""

import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

import jax
from tqdm import tqdm

from experiments.beyond.speedup import tasks, tuning
from experiments.beyond.speedup.config import PAPER, STANDARD, Config, require_valid
from experiments.beyond.speedup.contenders import arms
from sslstep.experiment import Arrays, Experiment, training

# Names of the settings of the images and of the ResNet.
OF_IMAGES = ("backbone", "stem", "size", "num_probe", "num_labelled")


def run(config: Config, runs: training.Store) -> Arrays:
    """Tune, train and time every arm on every case; read stored results of finished arms."""
    require_valid(config)
    arrays: Arrays = {}
    for name in config.problems:
        for source in config.data if name == "resnet" else config.data[:1]:
            case = source if name == "resnet" else name
            found = _study(config, runs, case, getattr(config, name), source)
            arrays |= {f"{case}/{key}": value for key, value in found.items()}
    return arrays


def _study(config: Config, runs: training.Store, case: str, problem: Any, source: Any) -> Arrays:
    """Tune, train and time all arms on one case."""
    images = {"data": source, **{name: getattr(config, name) for name in OF_IMAGES}}
    built = tasks.build(problem, training.Config(data_dir=config.data_dir, **images))
    compared = arms(problem.recipe)
    settings = tuning.Settings(config.measure_every, config.num_records, config.hold, config.settle)
    described = {
        "settings": settings,
        "seeds": config.seeds,
        "tuning_seeds": config.tuning_seeds,
        "problem": problem,
        "images": case != "linear" and list(images.values()),
    }
    # Whitening leaves the linear model nothing to learn.
    names = [name for name in config.arms if (case, name) != ("linear", "whitening")]
    trainers = {name: tuning.Trainer(built, compared[name], problem, settings) for name in names}

    def train_arm(name: str, begin: Callable[[str], None]) -> Arrays:
        setting = compared[name].own
        own = getattr(config, setting) if setting else ()
        arm = trainers[name], config.seeds, config.tuning_seeds, own, begin
        make = partial(tuning.run_arm, *arm)
        described_arm = {**described, "arm": name, "own": own}
        return runs.kept(f"speedup-{case}-{name}", described_arm, tuning.__name__, make)

    with tqdm(total=len(names), desc=case, unit=" arms", disable=None) as bar:
        found = _side_by_side(train_arm, names, config.jobs, bar)
    arrays = {f"{name}/{key}": value for name in names for key, value in found[name].items()}
    chosen = {name: tuning.Candidate(*map(float, found[name]["chosen"])) for name in names}
    seconds = runs.kept(
        f"speedup-{case}-seconds",
        {
            **described,
            "rounds": config.rounds,
            "round_seconds": config.round_seconds,
            "chosen": chosen,
            "host": platform.node(),
        },
        tuning.__name__,
        lambda: tuning.step_seconds(
            {name: (trainers[name], chosen[name]) for name in names},
            config.tuning_seeds[0],
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
) -> dict[str, Arrays]:
    """Train arms in `jobs` threads and return their results by name.

    A small network leaves cores idle. After a failure or an interrupt, the other arms stop before
    their next run.
    """
    stopped = threading.Event()
    x64 = jax.config.read("jax_enable_x64")  # a context holds in its own thread only

    def begin(label: str) -> None:
        if stopped.is_set():
            raise CancelledError
        bar.set_postfix_str(label)

    def one(name: str) -> Arrays:
        try:
            begin(name)
            with jax.enable_x64(x64):
                return train_arm(name, begin)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        futures = {name: pool.submit(one, name) for name in names}
        try:
            for future in as_completed(futures.values()):
                future.result()  # the first failure, not the first arm's
                bar.update()
        finally:
            stopped.set()
    return {name: future.result() for name, future in futures.items()}


EXPERIMENT = Experiment(
    {"cpu": Config(), "paper": PAPER, "standard": STANDARD},
    run,
    trains=True,
    minutes=60,
    alone=True,
)
