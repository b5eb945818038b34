"""Report which dimensions a recorded run has learned, and write a page with figures.

    python -m sslstep.diagnose FOLDER

:func:`sslstep.measure.diagnosis.diagnose` computes the report from the files of
:func:`sslstep.train.fit` or of a :class:`sslstep.train.Recorder`. The run may be finished or still
running.
"""

import argparse
import base64
import html
import io
import signal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sslstep import _terminal, train
from sslstep.measure.diagnosis import Diagnosis, diagnose

__all__ = ["Case", "of_run", "write_page"]

_SPECTRA = ("correlation", "covariance", "hidden")
_STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto}img{max-width:100%}"


class Case(NamedTuple):
    """A run and its diagnosis; ``str`` gives a report.

    Attributes:
        diagnosis: the diagnosis of the run.
        spectrum: name of the recorded spectrum on which the diagnosis is based.
        metrics: arrays with one row for each step, from :func:`sslstep.train.read_run`.
        records: arrays with one row for each record, from :func:`sslstep.train.read_run`.
        method: the method whose levels the diagnosis uses; None if there is none.
    """

    diagnosis: Diagnosis
    spectrum: str
    metrics: dict[str, np.ndarray]
    records: dict[str, np.ndarray]
    method: str | None = None

    def __str__(self) -> str:
        levels = (
            "theory's" if self.method else "each dimension's largest eigenvalue (no method given)"
        )
        return f"Spectrum: {self.spectrum}. Levels: {levels}.\n{self.diagnosis}"


def of_run(
    folder: str | Path,
    *,
    method: Literal["barlow_twins", "vicreg"] | None = None,
    spectrum: str | None = None,
) -> Case:
    """Diagnose a recorded run, with the step as time.

    The loss at a record is the median over the steps that are nearer to it than to other records.

    Args:
        folder: folder of the run's files.
        method: the method whose theory predicts the levels of eigenvalues and loss; None if there
            is none (:func:`sslstep.measure.diagnosis.diagnose`).
        spectrum: the recorded spectrum to use: ``"correlation"``, ``"covariance"`` or
            ``"hidden"``. None: the correlation for Barlow Twins, otherwise the covariance.

    Returns:
        :class:`Case`: the diagnosis, the name of the spectrum, the metrics and the records.

    Raises:
        FileNotFoundError: if the folder has no ``metrics.jsonl``.
        ValueError: if the run has no records, or no records of this spectrum.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from sslstep import diagnose, train
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with train.Recorder(folder) as recorder:
        ...         for step in range(9):
        ...             _ = recorder.record(step, z * [1e-3, 1e-3 * 3**step])
        ...     diagnose.of_run(folder).diagnosis.learned.tolist()
        [True, False]
    """
    metrics, records = train.read_run(folder)
    name = spectrum or ("correlation" if method == "barlow_twins" else "covariance")
    if name not in records:
        there = ", ".join(each for each in _SPECTRA if each in records) or "no spectra"
        raise ValueError(f"{folder} has no records of {name!r}: it has {there}.")
    steps = records["step"].astype(float)
    loss = None
    loss_steps, losses = _losses(metrics)
    if len(losses):
        edges = (steps[1:] + steps[:-1]) / 2
        near = np.searchsorted(edges, loss_steps)
        parts = [losses[near == i] for i in range(len(steps))]
        medians = np.array([np.median(part) if len(part) else np.nan for part in parts])
        known = np.isfinite(medians)
        loss = np.interp(steps, steps[known], medians[known])
    found = diagnose(steps, records[name], loss, method=method)
    return Case(found, name, metrics, records, method)


def write_page(case: Case, path: str | Path) -> Path:
    """Write the diagnosis as one HTML file, with a figure of the spectrum, loss and other records.

    Args:
        case: the run and its diagnosis, from :func:`of_run`.
        path: path of the file.

    Returns:
        The path of the file.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from sslstep import diagnose, train
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with train.Recorder(folder) as recorder:
        ...         for step in range(3):
        ...             _ = recorder.record(step, z * 3**step)
        ...     page = diagnose.write_page(diagnose.of_run(folder), Path(folder, "page.html"))
        ...     page.read_text().count("<img")
        1
    """
    from sslstep import plotting

    with plotting.style():
        picture = _picture(_figure(case))
    path = Path(path).expanduser()
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><title>Diagnosis</title><style>{_STYLE}</style>'
        f"<h1>Diagnosis</h1><pre>{html.escape(str(case))}</pre>"
        f'<p><img src="data:image/png;base64,{picture}"></p>\n',
        encoding="utf-8",
    )
    return path


def _losses(metrics: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that have a loss, and their losses; other numbers may have other steps."""
    losses = np.asarray(metrics.get("loss", ()), float)
    known = np.isfinite(losses)
    return np.asarray(metrics.get("step", ()))[known], losses[known]


def _figure(case: Case) -> Any:
    """Draw one panel each for the spectrum, the loss and every other recorded number."""
    import matplotlib.pyplot as plt

    from sslstep import plotting

    found, records = case.diagnosis, case.records
    steps = records["step"]
    others = [n for n, v in records.items() if n != "step" and v.ndim == 1 and v.dtype != object]
    loss_steps, losses = _losses(case.metrics)
    has_loss = len(losses) > 0
    num = 1 + has_loss + len(others)
    rows = -(-num // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(6.8, 2.3 * rows), squeeze=False, sharex=True)
    panels = iter(axes.ravel())
    ax = next(panels)
    plotting.eigenvalue_curves(ax, steps, records[case.spectrum])
    ax.set_ylabel(f"eigenvalues, {case.spectrum}")
    plotting.mode_key([ax], records[case.spectrum].shape[1], label="eigenvalue, from the largest")
    marks = [ax]
    if has_loss:
        ax = next(panels)
        marks.append(ax)
        ax.plot(loss_steps, losses, color="0.3", linewidth=0.6)
        ax.set_ylabel("loss")
        levels = {rest.num_learned: rest.expected for rest in found.rests}
        for k, level in levels.items():
            if np.isfinite(level):
                name = "theory" if k == min(levels) else None
                ax.axhline(level, **{**plotting.THEORY, "linewidth": 0.6}, label=name)
    for name, ax in zip(others, panels, strict=False):
        ax.plot(steps, records[name], color=plotting.CATEGORIES[0])
        ax.set_ylabel(name)
    middle = np.asarray(found.rises.middle)[found.learned & ~found.from_start]
    for ax in marks:
        for time in middle:
            ax.axvline(time, color="0.5", linestyle=":", linewidth=0.6, zorder=0)
        if found.next_step is not None and found.next_step.time < 1.5 * found.span[1]:
            color = plotting.CATEGORIES[1]
            ax.axvline(found.next_step.time, color=color, linewidth=0.8, label="next step")
    if marks[-1].get_legend_handles_labels()[0]:
        marks[-1].legend()
    for ax in axes.ravel()[num:]:
        ax.set_visible(False)
    for ax in axes.ravel()[:num]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return fig


def _picture(fig: Any) -> str:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=150)
    plt.close(fig)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sslstep.diagnose", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", help="of the run, with its records.jsonl")
    parser.add_argument(
        "--method", choices=("barlow_twins", "vicreg"), help="whose levels theory knows"
    )
    parser.add_argument("--spectrum", choices=_SPECTRA, help="which recorded spectrum")
    parser.add_argument("--page", help="where to write (default: FOLDER/diagnosis.html)")
    options = parser.parse_args()
    try:
        case = of_run(options.folder, method=options.method, spectrum=options.spectrum)
        try:  # the page first: `| head` may end the command while it prints
            page = write_page(case, options.page or Path(options.folder) / "diagnosis.html")
        finally:
            print(case)
        print(page)
    except (OSError, ModuleNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    _terminal.accept_any_text()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it silently
    main()
