"""Training of networks: full-batch descent, and the trainer of self-supervised encoders.

:func:`make_step` returns one step as a pure function. :func:`compile_step` compiles it for one
device or several. :func:`fit` runs it and writes metrics, records and checkpoints to disk.
:class:`Recorder` writes the records of a training loop in another framework.
"""

from sslstep.simulate import DivergenceError
from sslstep.train._checkpoints import CheckpointError, Checkpoints, CorruptCheckpointWarning
from sslstep.train._compile import CompiledStep, compile_step
from sslstep.train._full_batch import Descent, full_batch_descent
from sslstep.train._init_scale import choose_init_scale
from sslstep.train._lock import InUseError
from sslstep.train._loop import Fit, Interrupted, fit
from sslstep.train._network import Network
from sslstep.train._objective import JointEmbedding, Objective, Reconstruction, SelfDistillation
from sslstep.train._order import batch_indices
from sslstep.train._record import make_record
from sslstep.train._recorder import Recorder
from sslstep.train._rows import read_run
from sslstep.train._step import Metrics, Step, TrainState, init_state, make_step
from sslstep.train._tensorboard import write_tensorboard

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "CompiledStep",
    "CorruptCheckpointWarning",
    "Descent",
    "DivergenceError",
    "Fit",
    "InUseError",
    "Interrupted",
    "JointEmbedding",
    "Metrics",
    "Network",
    "Objective",
    "Reconstruction",
    "Recorder",
    "SelfDistillation",
    "Step",
    "TrainState",
    "batch_indices",
    "choose_init_scale",
    "compile_step",
    "fit",
    "full_batch_descent",
    "init_state",
    "make_record",
    "make_step",
    "read_run",
    "write_tensorboard",
]
