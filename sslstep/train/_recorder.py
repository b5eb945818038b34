"""Records spectra and metrics of a training loop in any framework."""

import contextlib
import functools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Real

from sslstep import _check, nn
from sslstep.simulate import DivergenceError
from sslstep.train._identity import Identity
from sslstep.train._lock import held
from sslstep.train._record import Metric, measured, require_names
from sslstep.train._rows import JsonLines, as_arrays, read_rows

_KIND = "records of"


class Recorder:
    r"""Record a training loop in any framework, in files that :func:`read_run` reads.

    The loop passes the embeddings of a fixed batch to :meth:`record` at chosen steps. They may be
    NumPy arrays, JAX arrays, PyTorch tensors on any device, with or without a gradient, or any
    object with ``__array__`` or ``__dlpack__``. The recorder writes the spectra of
    :func:`make_record` to ``records.jsonl``, and the loop's own numbers (:meth:`log`) to
    ``metrics.jsonl``. Spectra are computed in float32, or in float64 if JAX has x64 enabled and the
    embeddings are float64.

    - If the process is killed, no line is lost: each call returns after it has handed its line to
      the operating system.
    - If the loop resumes, ``resume_at`` is the step of the loop's own checkpoint. Lines of later
      steps are removed, because the loop will write them again.
    - If a second process opens the folder, it raises :class:`InUseError`. The lock of a process
      ends when the process dies. If the loop has several processes, one of them records.

    Use it in a ``with`` statement, or call :meth:`close`.

    Args:
        folder: folder of the run's files; created if it does not exist.
        settings: the settings that determine the run, which JSON can represent. They are written to
            ``settings.json``; a later call with other settings raises ValueError.
        resume_at: number of steps after which the loop resumes; None for a new run, whose folder
            must not hold a run.
        normalise: whether to normalise each dimension of each view before C is computed; see
            :func:`make_record`.
        eps: ε ≥ 0 of this normalisation.
        threshold: the eigenvalue of C above which a dimension counts as learned.
        metrics: further quantities to record: a function of the :class:`sslstep.nn.Outputs` (h, z)
            of both views for each name. h is None if the loop gives none, and the second argument
            is None if the loop gives one view.

    Raises:
        ValueError: if the folder holds a run and ``resume_at`` is None, or another run; if a number
            is out of range; or if a metric has the name of another entry of the record.
        TypeError: if JSON cannot represent ``settings``.
        InUseError: if another process records in the folder.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from sslstep import train
        >>> rng = np.random.default_rng(0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with train.Recorder(folder, settings={"rate": 0.1}) as recorder:
        ...         for step in range(3):
        ...             z, z_prime = 0.5**step * rng.normal(size=(2, 100, 4))
        ...             _ = recorder.record(step, z, z_prime)
        ...             recorder.log(step + 1, loss=1.0)
        ...     metrics, records = train.read_run(folder)
        >>> metrics["loss"], records["covariance"].shape
        (array([1., 1., 1.]), (3, 4))
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        settings: Mapping[str, Any] | None = None,
        resume_at: int | None = None,
        normalise: bool = False,
        eps: Real[ArrayLike, ""] = 1e-5,
        threshold: Real[ArrayLike, ""] = 0.5,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        _check.require_within("eps", eps, at_least=0.0)
        require_names(metrics or {})
        if resume_at is not None:
            _check.require_within("resume_at", resume_at, at_least=0)
        self._folder = Path(os.path.expanduser(folder))
        self._identity = Identity(settings or {}, {})
        # Compiled once, because the loop records the same batch each time.
        options: Any = {"normalise": normalise, "eps": eps, "threshold": threshold}
        self._measure = jax.jit(functools.partial(measured, **options, metrics=metrics or {}))
        with contextlib.ExitStack() as stack:
            self._folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(self._folder / "lock", f"the run in {self._folder}"))
            self._seen = self._identity.require_same(self._folder)
            if self._seen and _KIND not in self._seen:
                raise ValueError(f"{self._folder} holds a run of train.fit: name another folder.")
            paths = {name: self._folder / f"{name}.jsonl" for name in ("metrics", "records")}
            steps = [row["step"] for path in paths.values() for row in read_rows(path)]
            if steps and resume_at is None:
                raise ValueError(
                    f"{self._folder} holds a run up to step {max(steps)}: name another folder, or "
                    f"give resume_at, the step from which the loop continues."
                )
            self._identity.write(self._folder, saved=False)
            start = -1 if resume_at is None else resume_at
            self._lines = {name: JsonLines(path, start) for name, path in paths.items()}
            for lines in self._lines.values():
                stack.callback(lines.close)
            self._last = dict.fromkeys(paths, max(start, 0))
            self._open = stack.pop_all()

    def log(self, step: SupportsIndex, **numbers: Any) -> None:
        """Write numbers of the loop, such as ``loss``, to ``metrics.jsonl``.

        Args:
            step: number of steps done, including the step that the numbers describe. Further
                numbers of the same step complete its row for :func:`read_run`.
            **numbers: real scalars by name.

        Raises:
            TypeError, ValueError: if a number is not a real scalar, or ``step`` is before the last
                logged step.
            DivergenceError: if a number is not finite; nothing is written.
        """
        row = {name: _array(name, value) for name, value in numbers.items()}
        for name, value in row.items():
            _check.require_scalar(name, value)
        self._write("metrics", operator.index(step), row)
        if not self._seen:
            self._describe(None)

    def record(
        self,
        step: SupportsIndex,
        z: Any,
        z_prime: Any = None,
        *,
        h: Any = None,
        h_prime: Any = None,
    ) -> dict[str, np.ndarray]:
        """Compute the spectra of the fixed batch, and write them to ``records.jsonl``.

        Args:
            step: number of steps done. A second record of the same step replaces the first for
                :func:`read_run`.
            z: embeddings of one view, shape ``(n, d)``.
            z_prime: embeddings of the other view of the same images, shape ``(n, d)``. Without them
                the record has no ``correlation`` and no ``learned``.
            h: hidden representations of the first view, shape ``(n, ...)``. Without them the record
                has no ``hidden``.
            h_prime: hidden representations of the other view; required with ``h`` and ``z_prime``.

        Returns:
            The record: an array for each name, as described in :func:`make_record`.

        Raises:
            TypeError, ValueError: if an argument is not an array of real numbers, arrays differ in
                kind from those of the first record, or ``step`` is before the last recorded step.
            DivergenceError: if a value is not finite; nothing is written.
        """
        step = operator.index(step)
        given = {"z": z, "z_prime": z_prime, "h": h, "h_prime": h_prime}
        arrays = {name: _array(name, value) for name, value in given.items() if value is not None}
        shapes = {name: list(arrays[name].shape) if name in arrays else None for name in given}
        self._require_batch(step, arrays, shapes)
        self._require_finite(step, arrays)
        flat: Any = {name: array.reshape(len(array), -1) for name, array in arrays.items()}
        first = nn.Outputs(flat.get("h"), flat["z"])
        second = None if z_prime is None else nn.Outputs(flat.get("h_prime"), flat["z_prime"])
        found = as_arrays(self._measure(first, second))
        self._write("records", step, found)
        if not self._seen.get(_KIND):
            self._describe(shapes)
        return found

    def _describe(self, shapes: Mapping[str, list[int] | None] | None) -> None:
        """Write `run.json`: the folder holds this recorder's run, with a batch of these shapes."""
        self._seen = self._identity.seen = {_KIND: shapes}
        self._identity.describe(self._folder)

    def close(self) -> None:
        """Wait until all lines are on the disk, and release the folder."""
        if self._lines:
            for lines in self._lines.values():
                lines.sync()
            self._lines = {}
            self._open.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_batch(
        self, step: int, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, list[int] | None]
    ) -> None:
        """Raise unless the arrays are two views of one batch and shaped as in the first record."""
        if "z" not in arrays:
            raise TypeError("z must be the embeddings, got None.")
        z, z_prime = arrays["z"], arrays.get("z_prime")
        _check.require_matrix("z", z, "(n, d)")
        if z_prime is not None:
            _check.require_one_shape("z and z_prime, views of the same images,", z, z_prime)
        if ("h_prime" in arrays) != ("h" in arrays and z_prime is not None):
            raise ValueError("h and h_prime must be given for each view, or for none.")
        for name in ("h", "h_prime"):
            if name in arrays and arrays[name].shape[:1] != z.shape[:1]:
                raise ValueError(
                    f"{name} must have a row for each of the {len(z)} rows of z, got shape "
                    f"{arrays[name].shape}."
                )
        known = self._seen.get(_KIND)
        for name, shape in shapes.items():
            before = known[name] if known else shape
            if shape != before:
                raise ValueError(
                    f"{name} must be of the fixed batch that the run in {self._folder} records, "
                    f"{'without' if before is None else f'of shape {tuple(before)}'}, got "
                    f"{'none' if shape is None else f'shape {tuple(shape)}'} at step {step}."
                )

    def _require_finite(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for name, array in values.items():
            if bad := int(np.sum(~np.isfinite(array))):
                raise DivergenceError(
                    f"{name} at step {step} holds {bad} value(s) that are NaN or infinite. The "
                    f"values of this step are not written to {self._folder}."
                )

    def _write(self, name: str, step: int, values: Mapping[str, np.ndarray]) -> None:
        if not self._lines:
            raise ValueError("the recorder is closed.")
        _check.require_within("step", step, at_least=self._last[name])
        self._require_finite(step, values)
        row = {"step": step} | {key: array.tolist() for key, array in values.items()}
        self._lines[name].write([row])
        self._last[name] = step


def _array(name: str, value: Any) -> np.ndarray:
    """Convert an array of any framework to a NumPy array of real numbers."""
    for method in ("detach", "cpu"):  # PyTorch: drop the gradient, copy to the host
        if hasattr(value, method):
            value = getattr(value, method)()
    try:
        array = np.asarray(value)
    except TypeError:  # a type that NumPy does not know, such as bfloat16
        array = np.asarray(jnp.from_dlpack(value))
    if not (jnp.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise TypeError(f"{name} must hold real numbers, got {value!r:.80} of dtype {array.dtype}.")
    return array
