"""Measures of networks of one width, at initialisation and after training."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslstep import kernel_pca, nn, train
from sslstep.experiment import Arrays, networks, prediction
from sslstep.measure import alignment
from sslstep.ntk import fluctuations

_modes = partial(kernel_pca.contrastive_modes, solver="dense")


class Setting(NamedTuple):
    """The settings, the data, their basis and covariance, and the limit, common to all networks."""

    config: Any
    x: jax.Array
    basis: jax.Array
    cov: jax.Array
    limit: prediction.Limit


def of_width(setting: Setting, width: int, key, advance: Callable[[], Any]) -> Iterator[Arrays]:
    """Yield measures of the networks of one width, before and after training."""
    config = setting.config
    model = nn.MLP(config.dim, width)
    functions = networks.functions(model.apply)
    limit = int(config.memory_gib * 2**30)
    expected = _predicted(setting, setting.limit.kernel)
    for s, key_draw in enumerate(jax.random.split(key, config.num_draws)):
        params = model.init(key_draw, setting.x[:1])
        # All draws have equal inputs.
        drawn, x = nn.change_basis(model, setting.basis, params, setting.x)
        ntk = partial(networks.exact_ntk, model, x=x, memory_limit=limit)
        kernels = [ntk(drawn, kind=kind) for kind in fluctuations.KINDS]
        trace = kernels[1]
        gammas = np.stack([_modes(kernel, config.num_modes).eigenvalues for kernel in kernels])
        deviation = gammas[:, : config.dim] / setting.limit.modes.eigenvalues - 1
        predicted = [_predicted(setting, kernel) for kernel in kernels]
        found: Arrays = {
            "distance": [_relative(kernel, setting.limit.kernel) for kernel in kernels],
            "initial_gammas": gammas,
            "deviation": np.sqrt(np.mean(deviation**2, axis=1)),
            "misalignment": [alignment.misalignment(each, expected) for each in predicted],
        }
        advance()
        if s < config.num_lazy:
            learned, (initial, num_steps), final = _train(setting, functions, drawn, x, lazy=True)
            moved = ntk(final, kind="trace")
            hidden = [ntk(each, kind="trace", only="hidden_1") for each in (drawn, final)]
            by_hidden = hidden[1] - hidden[0]
            parts = (by_hidden, moved - trace - by_hidden, moved - trace)
            run = prediction.descent(setting.limit, initial, [num_steps])
            (pull,) = run.coefficients
            (descended,) = run.embeddings(setting.limit.kernel, initial)
            num_units = config.num_units // 4
            theory = fluctuations.movement(setting.cov, pull, width, key_draw, num_units=num_units)
            found |= {
                "lazy_movement": [np.linalg.norm(p) / np.linalg.norm(trace) for p in parts],
                "lazy_theory": np.asarray(theory) / np.linalg.norm(setting.limit.kernel) ** 2,
                "lazy_misalignment": _misalignments(setting, learned, trace, moved),
                "lazy_floor": alignment.misalignment(descended, expected),
                "lazy_gammas": _modes(moved, config.num_modes).eigenvalues,
            }
            advance()
        if s < config.num_small:
            scale = (config.small_scale / width**0.5) ** 0.5  # α
            small = nn.scale_init(drawn, scale)
            learned, _, final = _train(setting, functions, small, x, lazy=False)
            begun, moved = scale**2 * trace, ntk(final, kind="trace")
            scalar = ntk(final, kind="scalar")
            found |= {
                "small_movement": _relative(moved, begun),
                "small_cosine": np.sum(moved * begun)
                / (np.linalg.norm(moved) * np.linalg.norm(begun)),
                "small_misalignment": _misalignments(setting, learned, begun, moved),
                "small_gammas": _modes(moved, config.num_modes).eigenvalues / scale**2,
                "small_scalar": _misalignments(setting, learned, scalar)[0],
            }
            advance()
        yield found


def _train(setting: Setting, functions, params, x, *, lazy: bool):
    """Train a network for 1.6 times the last step time that the infinite-width kernel predicts.

    Returns the final embeddings, a pair of initial embeddings and number of steps, and the final
    parameters.
    """
    config, limit = setting.config, setting.limit
    scale = jnp.float32(config.init_scale if lazy else 1.0)
    initial = functions.embed(params, x, params, scale).astype(float)
    if not lazy:
        # Small weights multiply the kernel by this ratio, κ / width^1/2 = α², and keep its modes.
        ratio = config.small_scale / params["params"]["output"]["kernel"].shape[0] ** 0.5
        modes = limit.modes._replace(
            eigenvalues=ratio * limit.modes.eigenvalues,
            coefficients=limit.modes.coefficients / ratio**0.5,
        )
        rate = config.small_step_size / (4 * modes.eigenvalues[0])
        limit = limit._replace(modes=modes, learning_rate=rate)
    num_steps = int(prediction.record_at(limit, initial)[-1])
    descent = train.full_batch_descent(
        functions.loss, params, limit.learning_rate, num_steps, args=(x, params, scale)
    )
    learned = functions.embed(descent.params, x, params, scale).astype(float)
    return learned, (initial, num_steps), descent.params


def _predicted(setting: Setting, kernel) -> jax.Array:
    """Return the embeddings of the training samples that a kernel predicts (Eq. 49)."""
    return kernel_pca.embed_training(_modes(kernel, setting.config.dim))


def _relative(kernel, reference) -> float:
    """Return the relative distance of a kernel from a reference, in Frobenius norm."""
    return float(np.linalg.norm(kernel - reference) / np.linalg.norm(reference))


def _misalignments(setting: Setting, learned, *kernels) -> list[float]:
    """Return the misalignments of learned embeddings and predictions by kernels and the limit."""
    kernels = (*kernels, setting.limit.kernel)
    return [float(alignment.misalignment(learned, _predicted(setting, k))) for k in kernels]
