"""Moments of pairs of crops, predicted and measured modes of samples, and Gaussian samples."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from sslstep import linear
from sslstep.experiment import Arrays

#: Number of ways in which views of different samples are paired, for the mean edge of the noise.
SHIFTS = 8


def moments(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Γ and Σ about the pairs' mean, and the mean."""
    parts = [
        (
            len(x) * np.asarray(linear.cross_correlation(x, x_prime), np.float64),
            len(x) * np.asarray(linear.second_moment(x, x_prime), np.float64),
            (x.sum(axis=0, dtype=np.float64) + x_prime.sum(axis=0, dtype=np.float64)) / 2,
            len(x),
        )
        for x, x_prime in pairs
    ]
    gamma, sigma, total, count = (sum(part) for part in zip(*parts, strict=True))
    mean = total / count
    return gamma / count - np.outer(mean, mean), sigma / count - np.outer(mean, mean), mean


def predicted(gamma: np.ndarray, sigma: np.ndarray, num: int, dim: int) -> Arrays:
    """Return the predicted eigenvalues, population C_jj and edge of the noise of `num` pairs."""
    noise = linear.sampled_modes(0 * gamma, sigma, num, 1)
    return {**linear.sampled_modes(gamma, sigma, num, dim)._asdict(), "edges": noise.eigenvalues[0]}


def root(covariance: np.ndarray) -> np.ndarray:
    """Return a square root of a covariance, float32."""
    values, vectors = np.linalg.eigh(covariance)
    found: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return found.astype(np.float32)


def gaussian(
    rng: np.random.Generator, roots: list[np.ndarray], num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return Gaussian pairs; `roots` are those of the covariances Σ ± Γ of (x ± x') / √2."""
    u, v = (rng.standard_normal((num, len(root)), np.float32) @ root.T for root in roots)
    return (u + v) / 2**0.5, (u - v) / 2**0.5


def measured(dim: int, pair: Any, gamma: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """Return eigenvalues, population C_jj and the noise's edge of one sample.

    The second result is the modes, scaled as they are when learned, as columns.
    """
    x, x_prime = pair
    top, vectors = (a[..., ::-1][..., :dim] for a in np.linalg.eigh(_cross(x, x_prime)))
    edges = [
        np.linalg.eigvalsh(_cross(x, np.roll(x_prime, shift, axis=0)))[-1]
        for shift in range(1, 1 + SHIFTS)
    ]
    found = {
        "eigenvalues": top,
        "correlations": np.einsum("aj,ab,bj->j", vectors, gamma, vectors) / top,
        "edges": np.mean(edges),
    }
    return found, vectors / np.sqrt(top)


def _cross(x: np.ndarray, x_prime: np.ndarray) -> np.ndarray:
    """Return the cross-correlation of two views, computed in float64."""
    with jax.enable_x64(True):
        return np.asarray(linear.cross_correlation(x, x_prime))
