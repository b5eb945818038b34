"""Claims of the experiment `infinite_width`: spectra, step times and accuracy."""

import numpy as np

from experiments.beyond.infinite_width.config import Config, dims
from sslstep import claims, dynamics
from sslstep.experiment import Arrays, prediction
from sslstep.measure import spectrum

# Largest difference of two accuracies that counts as agreement.
POINTS = 0.03


def check(config: Config, arrays: Arrays) -> list[claims.Claim]:
    """Claims on spectra and, if networks were trained, on step times and accuracy."""
    results = [
        claims.below(
            f"γ_j of K_Γ is at most that of K̃ / 2n, {name.upper()}: largest ratio",
            "Section 5.2",
            expected=1.0,
            measured=float((arrays[f"{name}_gammas"] / arrays[f"{name}_principal_gammas"]).max()),
            tolerance=1e-10,
        )
        for name in ("mlp", "cnn")
    ]
    if config.laziness:
        results += [*_check_networks(config, arrays), *_check_accuracy(config, arrays)]
    return results


def _check_networks(config, arrays) -> list[claims.Claim]:
    """Return the claims on learned modes, step times and accuracy along training."""
    results = [
        claims.above(
            f"network, a = {laziness:g}, width {config.width}: all d modes are learned, least "
            f"eigenvalue of C at the end",
            "Fig. 2",
            expected=1.0,
            measured=float(arrays[f"network_{laziness:g}_eigenvalues"][:, -1].min()),
            # Eigenvalues approach 1 as e^-8γt: the tolerance is e^-3, after the step.
            tolerance=0.05,
        )
        for laziness in config.laziness
    ]
    # The following claims are about the laziest networks.
    name = f"network_{config.laziness[-1]:g}"
    what = f"network, a = {config.laziness[-1]:g}, width {config.width}"
    deviation, allowed = _step_time_errors(config, arrays)
    results.append(
        claims.below(
            f"{what}: step times predicted at infinite width, largest relative error (of "
            f"{np.abs(deviation).max():.3f}), over what its finite width explains",
            "Section 5.1",
            measured=float((np.abs(deviation) / allowed).max()),
            tolerance=1.0,
        )
    )
    along = arrays["predicted_kernel_accuracy"] - arrays[f"{name}_accuracy"]
    return [
        *results,
        claims.over_seeds(
            f"{what}: accuracy along training, largest difference from the kernel's model from "
            f"the network's start",
            "Eq. 40",
            "<=",
            measured=np.abs(along).max(axis=1).tolist(),
            tolerance=2 * POINTS,  # the largest of many records
        ),
    ]


def _step_time_errors(config, arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return relative errors of the laziest networks' step times, and the errors that width allows.

    The allowed error has two terms. A hidden unit contributes to a mode's kernel at worst a product
    of two squared normals, of relative variance 8; the first term is two standard deviations of the
    mean over the width. At finite width the kernels of different outputs are not orthogonal, and
    the modes learned first add a part of size width^-1/2 to the other modes. The second term is the
    time by which this part shortens the growth of a mode that started smaller.
    """
    expected, eta = arrays["predicted_step_times"], float(arrays["learning_rate"])
    measured = network_step_times(arrays, config.laziness[-1])
    gammas = arrays["mlp_gammas"][: config.dim]
    growth = 8 * np.asarray(dynamics.effective_eigenvalue(gammas, eta)) * expected
    lifted = np.log1p(np.exp(growth) / config.width)
    return measured / expected - 1, 2 * (8 / config.width) ** 0.5 + lifted / growth


def network_step_times(arrays: Arrays, laziness: float) -> np.ndarray:
    """Return the step times of the networks with factor `laziness`, shape (seeds, d)."""
    curves = arrays[f"network_{laziness:g}_eigenvalues"]
    return np.stack([spectrum.step_times(arrays["t"], each) for each in curves])


def _check_accuracy(config, arrays) -> list[claims.Claim]:
    """Return the claims on final accuracy and on accuracy between steps."""
    at = list(dims(config))
    predicted = arrays["mlp_correct"].mean(axis=1)
    results = [
        claims.over_seeds(
            f"probe's accuracy at d = {config.dim}, predicted without training, and of the "
            f"network trained with a = {laziness:g}, on the same images",
            "Section 5.2, generalization",
            "=",
            expected=float(predicted[at.index(config.dim)]),
            measured=arrays[f"network_{laziness:g}_correct"].mean(axis=1).tolist(),
            tolerance=POINTS,
        )
        for laziness in config.laziness
    ]
    t, along = arrays["t"], arrays[f"network_{config.laziness[-1]:g}_accuracy"]
    # Step times of the laziest networks, mean over seeds.
    tau = network_step_times(arrays, config.laziness[-1]).mean(axis=0)
    between = prediction.plateaus(tau, arrays["mlp_gammas"][: config.dim])
    return results + [
        claims.over_seeds(
            f"the lazy network's accuracy between steps {learned} and {learned + 1} is "
            f"that of the first {learned} dimension(s)",
            "Eq. 40",
            "=",
            expected=float(predicted[at.index(learned)]),
            measured=[float(np.interp(middle, t, row)) for row in along],
            tolerance=POINTS,
        )
        for learned, middle in between
        if learned in at
    ]
