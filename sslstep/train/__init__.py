"""Training of networks."""

from sslstep.train._full_batch import Descent, full_batch_descent

__all__ = ["Descent", "full_batch_descent"]
