"""Random features of the NTK: their error and how it falls; the kernel's size with error bars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import linear, nn
from sslstep.ntk import empirical

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def network():
    """A network of two hidden layers and three outputs, and samples."""
    model, x = nn.MLP(3, 48, 2), jax.random.normal(KEY, (60, 5))
    return model.apply, jax.jit(model.init)(jax.random.key(1), x), x


@pytest.mark.parametrize("kind", ["scalar", "trace"])
def test_the_error_is_the_one_stated_and_falls_as_the_root(network, kind):
    exact = np.asarray(empirical.ntk(*network, kind=kind), np.float64)
    own = exact.diagonal()
    errors = {}
    for dim in (64, 256, 1024):
        stated = (own[:, None] * own[None, :] + exact**2) / dim
        ratios = []
        for seed in range(4):
            features = empirical.sketch(
                *network, dim, key=jax.random.key(seed), kind=kind, batch_size=17
            )
            off = np.asarray(features @ features.T, np.float64) - exact
            ratios.append((off**2).sum() / stated.sum())
        # At most 1; below it by the parameters that share no bucket with others.
        errors[dim] = np.mean(ratios)
        assert 0.3 < errors[dim] < 1.5
    # The ratio to p^-1/2 stays: a law p^-1/4 or p^-1 would move it by 4.
    assert 0.5 < errors[1024] / errors[64] < 2


def test_modes_of_the_features_are_those_of_the_kernel(network):
    apply_fn, params, x = network
    exact = np.asarray(empirical.ntk(apply_fn, params, x), np.float64)
    features = empirical.sketch(apply_fn, params, np.asarray(x), 1024, key=KEY)
    gamma = linear.cross_correlation(*jnp.split(features, 2))
    values, vectors = np.linalg.eigh(exact)
    root = (vectors * np.maximum(values, 0) ** 0.5) @ vectors.T
    wanted = np.linalg.eigvalsh(np.roll(root, 30, axis=1) @ root / 60)[::-1][:2]
    np.testing.assert_allclose(linear.modes(gamma, 2).eigenvalues, wanted, rtol=0.3)


def test_blocks_do_not_matter_and_keys_do(network):
    one = empirical.sketch(*network, 32, key=KEY, batch_size=60)
    other = empirical.sketch(*network, 32, key=KEY, batch_size=7)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(one).max()))
    assert not np.allclose(one, empirical.sketch(*network, 32, key=jax.random.key(3)))


def test_moments_within_their_errors(network):
    kernel = np.asarray(empirical.ntk(*network), np.float64)
    trace, frobenius = kernel.trace(), np.linalg.norm(kernel)
    wanted = np.array([trace, frobenius, (trace / frobenius) ** 2])
    scores = []
    for seed in range(40):
        found = empirical.moments(
            lambda v: jnp.asarray(kernel, v.dtype) @ v, 60, 32, key=jax.random.key(seed)
        )
        value, error = np.reshape(found, (3, 2)).T
        scores.append((value - wanted) / error)
    # Of 40 with 31 degrees of freedom each; error bars half or twice as long would show.
    assert np.all(np.abs(np.mean(scores, axis=0)) < 0.7)
    assert np.all((np.std(scores, axis=0) > 0.6) & (np.std(scores, axis=0) < 1.7))
    of_network = empirical.moments(empirical.operator(*network), 60, key=KEY)
    assert abs(of_network.trace - trace) < 5 * of_network.trace_error


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_bad_input(network, changed, message):
    with pytest.raises(ValueError, match=message):
        empirical.sketch(*network, **{"dim": 8, "key": KEY, **changed})
    with pytest.raises(ValueError, match="num_vectors must be >= 2"):
        empirical.moments(lambda v: v, 3, 1, key=KEY)
