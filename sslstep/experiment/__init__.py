"""The record of an experiment, with its command line, results, provenance and report.

An experiment is a folder of up to three modules. ``experiment`` holds the docstring, the settings,
the function that computes the arrays, and the record :class:`Experiment`. ``figure`` holds
``plot``, and ``claims`` holds ``check``. ``sslstep.experiment.cli.start`` runs the command line of
a package of experiments.
"""

from sslstep import _extras
from sslstep.experiment._record import Arrays as Arrays
from sslstep.experiment._record import Experiment, find, load
from sslstep.experiment._record import log as log

_extras.require("tyro", by="sslstep.experiment", extra="experiments")

__all__ = ["Experiment", "find", "load"]
