r"""Linear probes: how well labels are read off an embedding linearly.

Three kinds, all a :class:`Probe`:

- :func:`ridge` in closed form. On n samples it costs one factorisation, its leave-one-out error
  (:func:`loo_error`) costs nothing more, and along a training run whose embedding only rescales
  fixed directions (Eqs. 24 and 40) the samples are read once for all times
  (:func:`accuracy_along`).
- :func:`logistic`, multinomial logistic regression to its minimum, by L-BFGS.
- :func:`sgd` and :func:`linear_evaluation`, the publications' :class:`Protocol`: so many epochs
  of stochastic gradient descent, on fixed features, or on random crops of the images in front of a
  frozen network.

The last reads images, through :mod:`sslstep.data`, on which nothing else in here depends.
"""

from sslstep.measure.probe._evaluation import embed_images, linear_evaluation
from sslstep.measure.probe._logistic import logistic
from sslstep.measure.probe._probe import Probe, accuracy, predict, standard_error
from sslstep.measure.probe._ridge import accuracy_along, loo_error, ridge
from sslstep.measure.probe._sgd import Protocol, sgd

__all__ = [
    "Probe",
    "Protocol",
    "accuracy",
    "accuracy_along",
    "embed_images",
    "linear_evaluation",
    "logistic",
    "loo_error",
    "predict",
    "ridge",
    "sgd",
    "standard_error",
]
