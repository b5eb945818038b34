"""Networks on fewer inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import nn


@pytest.mark.parametrize(
    "settings",
    [
        {"parameterization": "ntk"},
        {"parameterization": "standard", "bias_std": "fan_in", "output_bias": True},
    ],
    ids=lambda settings: settings["parameterization"],
)
def test_a_network_in_the_span_of_its_samples_is_the_same_network(x64, settings):
    model = nn.MLP(3, 20, 2, dtype=jnp.float64, **settings)
    x = jax.random.normal(jax.random.key(0), (7, 30))
    params = model.init(jax.random.key(1), x)
    basis = nn.span_basis(x[:4], x[4:])
    smaller, first, rest = nn.change_basis(model, basis, params, x[:4], x[4:])
    assert first.shape == (4, 7)
    z = model.apply(smaller, jnp.concatenate([first, rest]))
    np.testing.assert_allclose(z, model.apply(params, x), rtol=1e-10, atol=1e-12)
