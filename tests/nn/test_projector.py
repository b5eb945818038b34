"""Projectors against the same written in NumPy, and encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import nn


def by_numpy(projector, variables, h, train):
    """One layer after the other."""
    params, stats = variables["params"], variables["batch_stats"] if projector.batch_norm else {}

    def linear(z, name):
        layer = params[name]
        return z @ np.asarray(layer["kernel"]) + np.asarray(layer.get("bias", 0.0))

    def norm(z, name):
        mean, var = (z.mean(0), z.var(0)) if train else (stats[name]["mean"], stats[name]["var"])
        z = (z - np.asarray(mean)) / np.sqrt(np.asarray(var) + 1e-5)
        return z * np.asarray(params[name]["scale"]) + np.asarray(params[name].get("bias", 0.0))

    z = h
    for layer in range(1, len(projector.hidden) + 1):
        z = linear(z, f"hidden_{layer}")
        z = np.maximum(norm(z, f"bn_{layer}") if projector.batch_norm else z, 0)
    z = linear(z, "output")
    return norm(z, "output_bn") if projector.output_batch_norm else z


def moved(variables, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + rng.uniform(0, 0.5, leaf.shape), leaf.dtype),
        variables,
    )


HEADS = {
    "barlow_twins": (nn.barlow_twins_head, {}, {"hidden_1/kernel", "bn_1/scale", "bn_1/bias"}),
    "vicreg": (
        nn.vicreg_head,
        {},
        {"hidden_1/kernel", "hidden_1/bias", "bn_1/scale", "bn_1/bias"},
    ),
    "simclr": (
        nn.simclr_head,
        {},
        {"hidden_1/kernel", "bn_1/scale", "bn_1/bias", "output_bn/scale"},
    ),
    "simclr_plain": (
        nn.simclr_head,
        {"variant": "plain"},
        {"hidden_1/kernel", "hidden_1/bias", "output/bias"},
    ),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("train", [True, False])
def test_heads_are_their_definition(x64, head, train):
    make, settings, names = HEADS[head]
    projector = make(5, (7,), **settings, dtype=jnp.float64)
    for seed in range(3):
        h = np.random.default_rng(seed).normal(size=(12, 6))
        variables = projector.init(jax.random.key(seed), jnp.asarray(h), train=False)
        leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
        paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
        assert paths == names | {"output/kernel"}
        variables = moved(variables, seed)
        z = projector.apply(variables, jnp.asarray(h), train=train)
        np.testing.assert_allclose(z, by_numpy(projector, variables, h, train), atol=1e-12)


def test_several_hidden_layers_or_none(x64):
    h = np.random.default_rng(0).normal(size=(12, 6))
    for hidden in ((), (7, 3)):
        projector = nn.Projector(4, hidden, dtype=jnp.float64)
        variables = dict(projector.init(jax.random.key(0), jnp.asarray(h), train=False))
        variables.setdefault("batch_stats", {})
        z = projector.apply(variables, jnp.asarray(h), train=True)
        np.testing.assert_allclose(z, by_numpy(projector, variables, h, True), atol=1e-12)


def test_initial_weights_are_uniform():
    projector = nn.vicreg_head(200, (400,))
    params = projector.init(jax.random.key(0), jnp.ones((2, 100)), train=False)["params"]
    for layer, fan_in in (("hidden_1", 100), ("output", 400)):
        for value in params[layer].values():
            bound = fan_in**-0.5
            assert 0.98 * bound < np.abs(value).max() <= bound
            error = 5 / np.sqrt(value.size)
            np.testing.assert_allclose(np.std(value), bound / np.sqrt(3), rtol=error)


def test_encoder_is_its_parts():
    backbone = nn.ResNet((1, 1), width=4, stem="small")
    projector = nn.barlow_twins_head(3, (6,))
    encoder = nn.Encoder(backbone, projector)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    variables = encoder.init(jax.random.key(0), images, train=False)
    for collection in ("params", "batch_stats"):
        assert set(variables[collection]) == {"backbone", "projector"}
    parts = [{c: variables[c][name] for c in variables} for name in ("backbone", "projector")]
    for train in (True, False):
        h, z = encoder.apply(variables, images, train=train)
        np.testing.assert_allclose(h, backbone.apply(parts[0], images, train=train), rtol=1e-6)
        wanted = projector.apply(parts[1], h, train=train)
        np.testing.assert_allclose(z, wanted, rtol=1e-5, atol=1e-6)
    halved = nn.scale_init(variables["params"], 0.5, where=lambda path: "projector/output" in path)
    _, z_halved = encoder.apply({**variables, "params": halved}, images, train=False)
    np.testing.assert_allclose(z_halved, z / 2, rtol=1e-6)


def test_bfloat16():
    h = jax.random.normal(jax.random.key(1), (16, 32))
    projector, half = (nn.barlow_twins_head(8, (16,), dtype=d) for d in (jnp.float32, jnp.bfloat16))
    variables = projector.init(jax.random.key(0), h, train=False)
    z, z_half = (p.apply(variables, h, train=False) for p in (projector, half))
    assert z_half.dtype == jnp.float32
    error = float(jnp.linalg.norm(z_half - z) / jnp.linalg.norm(z))
    assert 1e-4 < error < 2 * float(jnp.finfo(jnp.bfloat16).eps)


@pytest.mark.parametrize("model", [nn.Projector, nn.MLP])
def test_gradients_by_biases_are_not_summed_in_bfloat16(model):
    """Each of 8192 samples' contributions is rounded, and so is their sum, but no partial sum."""
    shape = {"hidden": ()} if model is nn.Projector else {"width": 4, "bias_std": 1.0}
    half = model(8, **shape, output_bias=True, dtype=jnp.bfloat16)
    w = jax.random.normal(jax.random.key(1), (8192, 8)).astype(jnp.bfloat16)
    training = {"train": True} if model is nn.Projector else {}
    params = half.init(jax.random.key(0), jnp.ones((1, 4)), **training)

    def weighted(params):
        z = half.apply(params, jnp.ones((8192, 4)), **training)
        return jnp.sum(w.astype(jnp.float32) * z.astype(jnp.float32))

    found = jax.jit(jax.grad(weighted))(params)["params"]["output"]["bias"]
    exact = np.asarray(w, np.float64).sum(0)
    error = np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)
    assert error <= float(jnp.finfo(jnp.bfloat16).eps) / 2


def test_dimensions_come_in_the_order_of_the_heads(unchecked):
    assert nn.Projector(3, (4,)) == nn.barlow_twins_head(3, (4,))
    with pytest.raises(ValueError, match="dim must be one number, before hidden"):
        nn.Projector((4,), 3)


def test_wrong_arguments(unchecked):
    with pytest.raises(ValueError, match="dim"):
        nn.Projector(0, (4,))
    with pytest.raises(ValueError, match="hidden"):
        nn.Projector(3, (4, 0))
    with pytest.raises(ValueError, match="'torch'"):
        nn.simclr_head(variant="torch")
    with pytest.raises(ValueError, match="h must be a matrix"):
        nn.Projector(3, (4,)).init(jax.random.key(0), jnp.ones(3), train=False)
