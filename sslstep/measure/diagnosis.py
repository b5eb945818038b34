r"""Diagnosis of a training run from its spectra: which dimensions are learned, rising, waiting."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from sslstep import _check
from sslstep.dynamics import vicreg_plateau
from sslstep.measure import spectrum, steps

__all__ = ["Diagnosis", "NextStep", "Rest", "diagnose"]

# A learned dimension has collapsed if its eigenvalue is below this fraction of its level.
_LEFT = 0.1
# A waiting eigenvalue grows if its slope is this many standard errors above zero.
_SIGNIFICANT = 3
# The largest number of rows of the table in a diagnosis's text.
_MOST_ROWS = 20


class Rest(NamedTuple):
    """A time interval in which no dimension rises.

    Attributes:
        num_learned: number of dimensions learned before the interval.
        start: start of the interval.
        stop: end of the interval.
        expected: theory's loss in the interval; NaN if theory gives no level.
        measured: median of the recorded loss in the interval; NaN if no loss is given.
        agrees: whether ``measured`` and ``expected`` differ by at most a quarter of the distance
            from ``expected`` to the nearer neighbouring level.
    """

    num_learned: int
    start: float
    stop: float
    expected: float
    measured: float
    agrees: bool


class NextStep(NamedTuple):
    """The dimension that is learned next.

    Attributes:
        dimension: index of the dimension, from 0.
        rate: exponential growth rate of its eigenvalue while small, per unit of time.
        time: predicted time at which its eigenvalue reaches half its level.
    """

    dimension: int
    rate: float
    time: float


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The findings of :func:`diagnose` on the d dimensions of a run; ``str`` gives a report.

    Attributes:
        learned: mask of dimensions whose eigenvalue has reached half its level at some record,
            shape ``(d,)``.
        from_start: mask of dimensions at half their level or above at the first record, shape
            ``(d,)``.
        alone: mask of dimensions learned while no other dimension rises, shape ``(d,)``.
        collapsed: mask of dimensions whose eigenvalue has fallen below a tenth, as
            :func:`diagnose` defines it, shape ``(d,)``.
        rising: mask of dimensions that were never learned and whose last eigenvalue is at least a
            tenth of the level, shape ``(d,)``.
        rises: begin, middle and end of each dimension's rise.
        sharpness: time of each rise divided by its duration, shape ``(d,)``; see
            :func:`sslstep.measure.spectrum.step_sharpness`.
        plateau: level of each eigenvalue, shape ``(d,)``; ``inf`` where none is known.
        rests: the time intervals in which no dimension rises.
        simultaneity: result of :func:`sslstep.measure.steps.simultaneity_test`; None if fewer than
            two dimensions rise from begin to end.
        next_step: the next dimension to be learned; None if no step is in sight.
        span: first and last time.
    """

    learned: Bool[np.ndarray, " d"]
    from_start: Bool[np.ndarray, " d"]
    alone: Bool[np.ndarray, " d"]
    collapsed: Bool[np.ndarray, " d"]
    rising: Bool[np.ndarray, " d"]
    rises: steps.Rises
    sharpness: Float[np.ndarray, " d"]
    plateau: Float[np.ndarray, " d"]
    rests: tuple[Rest, ...]
    simultaneity: steps.Significance | None
    next_step: NextStep | None
    span: tuple[float, float]

    @property
    def waiting(self) -> Bool[np.ndarray, " d"]:
        """Mask of the dimensions that have not been learned, shape ``(d,)``."""
        return ~self.learned

    def __str__(self) -> str:
        return "\n".join([*self._of_learned(), *self._of_the_rest()])

    def _of_learned(self) -> list[str]:
        """Return the lines of the report on learned dimensions."""
        dim, num = len(self.learned), int(self.learned.sum())
        lines = [f"Records from t = {self.span[0]:g} to {self.span[1]:g}; d = {dim}.", ""]
        if not num:
            return [*lines, "Learned: none."]
        start = int(self.from_start.sum())
        lines += [
            f"Learned: {num} of {dim}{f', {start} of them from the start' if start else ''}.",
            f"{'dimension':>11}{'at':>10}{'from':>10}{'to':>10}{'sharpness':>11}  alone",
        ]
        begin, middle, end = (np.asarray(part) for part in self.rises)
        for j in np.flatnonzero(self.learned)[:_MOST_ROWS]:
            lines.append(
                f"{j + 1:>11}{middle[j]:>10.4g}{begin[j]:>10.4g}{end[j]:>10.4g}"
                f"{self.sharpness[j]:>11.3g}  {'yes' if self.alone[j] else 'no'}"
            )
        if num > _MOST_ROWS:
            lines.append(f"{'...':>11}")
        if num > 1:
            lines.append(f"One at a time: {int(self.alone.sum())} of {num} rise alone.")
        if self.simultaneity is not None:
            p = self.simultaneity.p_value
            not_ = "" if p < 0.01 else "not "
            lines.append(f"That all rise at one time is {not_}rejected (p = {p:.2g}).")
        return lines

    def _of_the_rest(self) -> list[str]:
        """Return the lines on other dimensions, the loss and the next step."""
        lines = [
            f"Rising: {_named(self.rising)}.",
            f"Waiting: {_named(self.waiting & ~self.rising)}.",
            f"Collapsed: {_named(self.collapsed)}.",
        ]
        for rest in self.rests:
            if np.isfinite(rest.expected) and np.isfinite(rest.measured):
                lines.append(
                    f"Loss with {rest.num_learned} learned (t = {rest.start:.4g} to "
                    f"{rest.stop:.4g}): {rest.measured:.4g}, in theory {rest.expected:.4g}: "
                    f"{'as expected' if rest.agrees else 'not as expected'}."
                )
        if self.next_step is None:
            lines.append(
                f"Next step: {'none in sight' if self.waiting.any() else 'all are learned'}."
            )
        else:
            j, rate, time = self.next_step
            lines.append(
                f"Next step: dimension {j + 1} at about t = {time:.4g}, if its eigenvalue goes on "
                f"growing at the rate {rate:.3g}."
            )
        return lines


def diagnose(
    times: Real[ArrayLike, " T"],
    eigenvalues: Float[ArrayLike, "T d"],
    loss: Float[ArrayLike, " T"] | None = None,
    *,
    method: Literal["barlow_twins", "vicreg"] | None = None,
    plateau: Real[ArrayLike, "*d"] | None = None,
    levels: Float[ArrayLike, " levels"] | None = None,
    rates: Float[ArrayLike, " d"] | None = None,
    high: float = 0.7,
) -> Diagnosis:
    r"""Diagnose a run: which dimensions are learned, when and how sharply, which wait or collapsed.

    Each of the d dimensions has an eigenvalue λ and a level P, the value that λ has once the
    dimension is learned. ``plateau`` or ``method`` gives P. Otherwise P is the largest recorded
    value of the eigenvalue, if it has grown by the rule of
    :func:`sslstep.measure.steps.grown_levels`, or the median of these levels.

    - *Learned*: λ has reached P / 2 at some record.
    - *Collapsed*: the dimension was learned, and its last λ is below a tenth of P and below a tenth
      of the level of the last dimension learned (VICReg's eigenvalues fall as more dimensions are
      learned). If no dimension is learned, all count as collapsed once the largest eigenvalue is
      below a tenth of its largest value.
    - *Rests*: time intervals without a rise. The median loss of each is compared with ``levels``.
    - *The next step*: the largest waiting eigenvalue, if it is below P / 2. It is extrapolated from
      the last time :math:`t_T` along a logistic curve of rate r to its half-rise time:

      .. math:: t_{1/2} = t_T + \frac1r \ln\frac{P - \lambda(t_T)}{\lambda(t_T)}

      ``rates`` gives r. Otherwise r is the slope of :math:`\ln (\lambda / (P - \lambda))` over two
      or more records since the last rise. No next step is in sight if r is not positive, if a slope
      over three or more records is not above three standard errors, or if P is unknown.

    If any dimension has collapsed, neither rests nor a next step are reported.

    Args:
        times: times of the T records, increasing, in any unit, shape ``(T,)``.
        eigenvalues: eigenvalues at each record, in descending order, shape ``(T, d)``: of the
            cross-correlation C for Barlow Twins, of the covariance for other losses, as
            :class:`sslstep.train.Recorder` records them.
        loss: training loss at each record, shape ``(T,)``; None leaves the measured loss of rests
            NaN.
        method: a loss with known levels. ``"barlow_twins"`` (Eq. 1): eigenvalues 1, losses d - k
            with k dimensions learned. ``"vicreg"`` with the publication's weights: see
            :func:`sslstep.dynamics.vicreg_plateau`. None: any other loss.
        plateau: P, a scalar or shape ``(d,)``; replaces the levels of ``method``.
        levels: loss while k = 0...d dimensions are learned, shape ``(d + 1,)``; replaces the losses
            of ``method``. :func:`sslstep.kernel_pca.plateaus` computes it for any loss.
        rates: r of each dimension from a kernel, per unit of ``times``, shape ``(d,)``: 8γ for the
            simplified Barlow Twins loss, with γ from :func:`sslstep.kernel_pca.contrastive_modes`;
            2ρ for any loss, with ρ from :func:`sslstep.kernel_pca.growth_modes`.
        high: fraction of P at which a rise ends, above 1/2; a rise begins at P / 10. Learned
            eigenvalues of a run on images differ from their level by up to a fifth.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or an argument is out of range.

    Example:
        >>> import numpy as np
        >>> from sslstep import measure
        >>> times = np.linspace(0.0, 50.0, 101)
        >>> curves = 1 / (1 + np.exp(np.array([10.0, 30.0, 60.0]) - times[:, None]))
        >>> print(measure.diagnose(times, curves, 3 - curves.sum(axis=1), method="barlow_twins"))
        Records from t = 0 to 50; d = 3.
        <BLANKLINE>
        Learned: 2 of 3.
          dimension        at      from        to  sharpness  alone
                  1        10     7.778     10.86       3.25  yes
                  2        30     27.78     30.86       9.74  yes
        One at a time: 2 of 2 rise alone.
        That all rise at one time is rejected (p = 4.4e-06).
        Rising: none.
        Waiting: 3.
        Collapsed: none.
        Loss with 0 learned (t = 0 to 7.778): 2.998, in theory 3: as expected.
        Loss with 1 learned (t = 10.86 to 27.78): 2, in theory 2: as expected.
        Loss with 2 learned (t = 30.86 to 50): 1, in theory 1: as expected.
        Next step: dimension 3 at about t = 60, if its eigenvalue goes on growing at the rate 1.
    """
    _, dim = _check.require_matrix("eigenvalues", eigenvalues, "(T, d)")
    _check.require_finite("eigenvalues", eigenvalues)
    values = np.asarray(eigenvalues, float)
    _check.require_vector("times", times, "(T,)")
    clock = np.asarray(times, float)
    for name, given, shape, what in (
        ("loss", loss, clock.shape, ""),
        ("rates", rates, (dim,), ""),
        ("levels", levels, (dim + 1,), f", of k = 0...{dim}"),
    ):
        if given is not None:
            _check.require_shape(name, given, shape, what)
            _check.require_finite(name, np.asarray(given, float))
    if method is not None:
        _check.require_one_of("method", method, ("barlow_twins", "vicreg"))
    known, losses = _theory(method, dim)
    level = steps.grown_levels(values) if known is None else known
    if plateau is not None:
        _check.require_within("plateau", plateau, above=0.0)
        level = np.broadcast_to(np.asarray(plateau, float), (dim,))
    if levels is not None:
        losses = np.asarray(levels, float)

    relative = values / level
    with jax.enable_x64(True):  # float32 would round large times
        found = steps.rises(clock, relative, high=high)
        sharpness = np.array(spectrum.step_sharpness(clock, relative, high=high))
    rises = steps.Rises(*map(np.array, found))
    learned = np.isfinite(rises.middle)
    num = int(learned.sum())
    rising = ~learned & (relative[-1] >= 0.1)
    lowest = np.minimum(level, level[max(num - 1, 0)])
    collapsed = learned & (values[-1] < _LEFT * lowest)
    if not num:
        collapsed |= values[-1, 0] < _LEFT * values[:, 0].max() and values[:, 0].max() > 0
    rose = np.isfinite(rises.end) & (rises.end > rises.begin)
    test = None
    if rose.sum() > 1:
        test = steps.simultaneity_test(steps.Rises(*(part[rose] for part in rises)))
    rests = [] if collapsed.any() else _rests(clock, rises, losses, loss)
    return Diagnosis(
        learned=learned,
        from_start=relative[0] >= 0.5,
        alone=steps.isolated(rises),
        collapsed=collapsed,
        rising=rising,
        rises=rises,
        sharpness=sharpness,
        plateau=np.array(level),
        rests=tuple(rests),
        simultaneity=test,
        next_step=None if collapsed.any() else _next_step(clock, relative, rises, rates),
        span=(float(clock[0]), float(clock[-1])),
    )


def _theory(method: str | None, dim: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return theory's d eigenvalue levels, and d + 1 losses with k = 0...d learned.

    VICReg has the publication's weights. Without a method both results are None.
    """
    if method == "barlow_twins":
        return np.ones(dim), dim - np.arange(dim + 1.0)
    if method == "vicreg":
        found = vicreg_plateau(np.arange(dim + 1), dim)
        return np.asarray(found.eigenvalue, float)[1:], np.asarray(found.loss, float)
    return None, None


def _rests(
    times: np.ndarray, rises: steps.Rises, levels: np.ndarray | None, loss: ArrayLike | None
) -> list[Rest]:
    """Return the rests, intervals without a rise: before the first, between, and after the last."""
    begin, middle, end = (np.asarray(part) for part in rises)
    learned = np.isfinite(middle)
    first, last = begin.min(), end[learned].max(initial=times[0])
    found = [(0, times[0], min(first, times[-1]))] if first > times[0] else []
    found += steps.pauses(steps.Rises(begin, begin, end))  # a rise ends a pause at its begin
    if learned.any() and np.isfinite(last) and not np.isfinite(begin[~learned]).any():
        found.append((int(learned.sum()), last, times[-1]))
    rests = []
    for num, start, stop in found:
        expected = np.nan if levels is None else float(levels[num])
        inside = (times >= start) & (times <= stop)
        measured = np.nan
        if loss is not None and inside.any():
            measured = float(np.median(np.asarray(loss, float)[inside]))
        apart = 0.0 if levels is None else np.abs(np.diff(levels))[max(num - 1, 0) : num + 1].min()
        agrees = bool(abs(measured - expected) <= apart / 4)
        rests.append(Rest(num, float(start), float(stop), expected, measured, agrees))
    return rests


def _next_step(
    times: np.ndarray, relative: np.ndarray, rises: steps.Rises, rates: ArrayLike | None
) -> NextStep | None:
    """Extrapolate the first waiting dimension along a logistic curve; None without growth."""
    waiting = ~np.isfinite(rises.middle)
    if not waiting.any():
        return None
    j = int(np.argmax(waiting))
    now = relative[-1, j]
    if not 0 < now < 0.5:
        return None
    to_go = np.log(1 / now - 1)
    if rates is not None:
        rate = float(np.asarray(rates, float)[j])
        return NextStep(j, rate, float(times[-1] + to_go / rate)) if rate > 0 else None
    since = np.max(rises.end[~waiting], initial=times[0])
    used = (times >= since) & (relative[:, j] > 0)
    if used.sum() < 2:
        return None
    logits = np.log(relative[used, j] / (1 - relative[used, j]))
    line = scipy.stats.linregress(times[used], logits)
    if line.slope <= _SIGNIFICANT * line.stderr or line.slope <= 0:
        return None
    return NextStep(j, float(line.slope), float(times[-1] + to_go / line.slope))


def _named(which: np.ndarray) -> str:
    """Format the dimensions of a mask by their numbers from 1, such as "2, 5 to 9"."""
    numbers = np.flatnonzero(which) + 1
    if not len(numbers):
        return "none"
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
