"""Alignments of a network's embeddings z (2n, d) with those that kernels (2n, 2n) predict."""

import jax
import numpy as np

from sslstep import kernel_pca
from sslstep.experiment import Arrays
from sslstep.measure.alignment import subspace_alignment


def predicted_by(kernel: np.ndarray, dim: int) -> np.ndarray:
    """Return the embeddings of the training samples that a kernel predicts (Eq. 49)."""
    return np.asarray(kernel_pca.embed_training(kernel_pca.contrastive_modes(kernel, dim)))


def of_kernel(z: np.ndarray, kernel: np.ndarray) -> jax.Array:
    """Return the alignment of embeddings with a kernel's prediction (Eq. 49)."""
    return subspace_alignment(z, predicted_by(kernel, z.shape[1]))


def of_learned(name: str, z: np.ndarray, predicted: np.ndarray, learned: int) -> Arrays:
    """Return three numbers that compare embeddings z (2n, d) with predicted embeddings (2n, d).

    The first is the alignment of all d directions. The second is the alignment of the k learned
    directions, the left singular vectors of z with the largest singular values, with the first k
    predicted ones. The third is the fraction of the gap from 1 in the d - k other directions. The
    last two are NaN for k = 0.
    """
    out: Arrays = {name: subspace_alignment(z, predicted)}
    out |= dict.fromkeys((f"{name}, learned", f"{name}, gap outside"), np.asarray(np.nan))
    if learned:
        directions = np.linalg.svd(z, full_matrices=False)[0]
        missed = 1 - np.sum((np.linalg.qr(predicted)[0].T @ directions) ** 2, axis=0)
        first = subspace_alignment(directions[:, :learned], predicted[:, :learned])
        out |= {f"{name}, learned": first}
        out |= {f"{name}, gap outside": missed[learned:].sum() / missed.sum()}
    return out


def held_out(kernel: np.ndarray, z: np.ndarray, num: int) -> Arrays:
    """Return the alignment on `num` held-out pairs of predictions from increasing numbers of pairs.

    The pairs are in random order, and the last ones are held out.
    """
    views, dim = np.arange(len(z)).reshape(2, -1), z.shape[1]
    most = views.shape[1] - num
    numbers = [n for n in most // 2 ** np.arange(8) if n >= 2 * dim][::-1]
    test = views[:, most:].ravel()
    values = []
    for n in numbers:
        train = views[:, :n].ravel()
        modes = kernel_pca.contrastive_modes(kernel[np.ix_(train, train)], dim)
        predicted = kernel_pca.embed(modes, kernel[np.ix_(test, train)])
        values.append(subspace_alignment(z[test], predicted))
    inside = of_kernel(z[test], kernel[np.ix_(test, test)])
    return {"numbers": np.array(numbers), "held out": np.array(values), "own pairs": inside}
