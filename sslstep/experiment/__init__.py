"""What an experiment is, and everything around it: command line, results, provenance, report.

An experiment is a folder with a module ``experiment`` that holds its docstring, its settings, the
function that computes its arrays, and the record :class:`Experiment`; a module ``figure`` with
``plot``; and a module ``claims`` with ``check``. A package of such folders becomes a program by
``sslstep.experiment.cli.start``.
"""

from sslstep import _extras
from sslstep.experiment._record import Arrays as Arrays
from sslstep.experiment._record import Experiment, find, load
from sslstep.experiment._record import log as log

_extras.require("tyro", by="sslstep.experiment", extra="experiments")

__all__ = ["Experiment", "find", "load"]
