r"""Linear probes: linear maps fitted from an embedding to labels, and their accuracy.

Each function that fits a probe returns a :class:`Probe`:

- :func:`ridge` solves ridge regression in closed form by one factorisation. :func:`loo_error`
  computes its leave-one-out error from one factorisation too. :func:`accuracy_along` evaluates the
  probe along a training run whose embedding only rescales fixed directions (Eqs. 24 and 40), by
  one factorisation of the features for all times.
- :func:`logistic` minimises the multinomial logistic loss by L-BFGS.
- :func:`sgd` and :func:`linear_evaluation` follow the publications' :class:`Protocol`: a fixed
  number of epochs of stochastic gradient descent, on fixed features or on a frozen network's
  features of random crops.

:func:`linear_evaluation` and :func:`embed_images` take images and use :mod:`sslstep.data`; the
other functions take features.
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
