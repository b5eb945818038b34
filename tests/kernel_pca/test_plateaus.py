"""Levels of plateaus, against closed forms and the flow's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from sslstep import kernel_pca, linear, losses


def features(n=30, m=5, noise=0.3):
    rng = np.random.default_rng(0)
    common = rng.standard_normal((n, m)) * np.geomspace(2, 0.7, m)
    return [common + noise * rng.standard_normal((n, m)) for _ in range(2)]


def test_closed_forms(x64):
    x, x_prime = features()
    both = np.concatenate([x, x_prime])
    simple = kernel_pca.plateaus(both @ both.T, losses.simplified_barlow_twins, 3)
    np.testing.assert_allclose(simple, [3, 2, 1, 0], atol=1e-6)
    gamma, sigma = linear.cross_correlation(x, x_prime), linear.second_moment(x, x_prime)
    mu = np.asarray(linear.pencil_modes(gamma, sigma, 3).eigenvalues)
    loss = partial(losses.spectral_contrastive, negatives="all")
    found = kernel_pca.plateaus(both @ both.T, loss, 3)
    np.testing.assert_allclose(found, -np.concatenate([[0], np.cumsum(mu**2)]), atol=1e-6)


def test_vicreg_at_other_weights(x64):
    """Views that agree, one dimension in two coordinates of standard deviations a and b."""
    x = np.random.default_rng(1).standard_normal((20, 3))
    both = np.concatenate([x, x])
    loss = partial(losses.vicreg, invariance=1.0, variance=2.0, covariance=1.0)
    found = kernel_pca.plateaus(both @ both.T, loss, 2)
    a, b = np.meshgrid(*2 * [np.linspace(0, 1.1, 2201)])
    hinges = sum(np.maximum(0, 1 - np.sqrt(s**2 + 1e-4)) for s in (a, b)) / 2
    lowest = (2 * hinges + 2 * (a * b) ** 2).min()
    assert lowest < 0.99 - 0.05  # they share it, as k coordinates of variance 1 would not
    np.testing.assert_allclose(found, [2 * 0.99, lowest, 0], rtol=1e-4, atol=1e-6)


def test_kinks_against_a_program_without_any(x64):
    """VICReg's hinges as 2 d slack variables with smooth constraints, minimised by SLSQP."""
    rng = np.random.default_rng(0)
    m, d = 4, 3
    x = rng.standard_normal((16, m))
    views = np.stack([x, x + 0.5 * rng.standard_normal((16, m))])

    def parts(variables, k):
        w, slack = variables[: -2 * d], variables[-2 * d :]
        z = views @ (w[: m * k].reshape(m, k) @ w[m * k :].reshape(k, d))
        return z - z.mean(axis=1, keepdims=True), z[0] - z[1], slack.reshape(2, d)

    def objective(variables, k):
        centred, apart, slack = parts(variables, k)
        squared = (jnp.einsum("vni,vnj->vij", centred, centred) / 15) ** 2
        off_diagonal = squared.sum() - jnp.trace(squared.sum(axis=0))
        return 25 * jnp.mean(apart**2) + 25 * slack.mean() + off_diagonal / d

    @partial(jax.jit, static_argnums=1)
    def excess(variables, k):
        centred, _, slack = parts(variables, k)
        return (slack - 1 + jnp.sqrt(jnp.sum(centred**2, axis=1) / 15 + 1e-4)).ravel()

    graded = jax.jit(jax.value_and_grad(objective), static_argnums=1)
    slope = jax.jit(jax.jacobian(excess), static_argnums=1)
    lowest = []
    for k in (2, 3):
        weights = m * k + k * d
        constraint = {"type": "ineq", "fun": excess, "jac": slope, "args": (k,)}
        found = [
            minimize(
                graded,
                np.append(0.5 * rng.standard_normal(weights), np.ones(2 * d)),
                args=(k,),
                jac=True,
                method="SLSQP",
                bounds=[(None, None)] * weights + [(0, None)] * 2 * d,
                constraints=constraint,
                options={"maxiter": 1000, "ftol": 1e-12},
            ).fun
            for _ in range(3)
        ]
        lowest.append(min(found))
    both = np.concatenate(views)
    np.testing.assert_allclose(
        kernel_pca.plateaus(both @ both.T, losses.vicreg, d)[2:], lowest, rtol=1e-4
    )


def test_a_kernel_of_lower_rank_than_d(x64):
    """Two directions for three dimensions: no matrix of weights has a lower loss than the third."""
    views = np.random.default_rng(0).standard_normal((2, 6, 2))
    both = np.concatenate([views[0], 0.7 * views[0] + 0.7 * views[1]])
    loss = partial(losses.vicreg, invariance=2.0, eps=1e-2)
    found = kernel_pca.plateaus(both @ both.T, loss, 3, max_iterations=200)
    assert found[2] == found[3] < found[1]

    @jax.jit
    @jax.value_and_grad
    def of_weights(weights):
        z = both @ weights.reshape(2, 3)
        return loss(z[:6], z[6:])

    starts = np.random.default_rng(1).standard_normal((20, 6))
    ends = [minimize(of_weights, start, jac=True, method="L-BFGS-B").fun for start in starts]
    assert found[3] < min(ends) * 1.01


@pytest.mark.parametrize("num_learned", [1, 2])
def test_they_are_where_the_flow_rests(x64, num_learned):
    """InfoNCE: embeddings of so many dimensions alone, at the end of their flow."""
    both = np.concatenate(features())
    loss = partial(losses.info_nce, normalise=False, temperature=1.0)
    levels = kernel_pca.plateaus(both @ both.T, loss, 2)
    weights = 1e-3 * np.random.default_rng(2).standard_normal((5, num_learned))
    run = kernel_pca.stepwise_flow(both @ both.T, loss, both @ weights, np.array([0.0, 1000.0]))
    np.testing.assert_allclose(run.loss[-1], levels[num_learned], rtol=1e-3)
    assert (np.diff(levels) < 0).all()


def test_another_kernel_compiles_nothing(count_compilations):
    x = np.random.default_rng(0).standard_normal((8, 2))

    def levels(scale):
        kernel_pca.plateaus(scale * x @ x.T, losses.simplified_barlow_twins, 1)

    assert count_compilations(levels, [1.0, 2.0]) == 0


def test_bad_arguments(unchecked):
    with pytest.raises(ValueError, match="dim must be between 1 and n = 6"):
        kernel_pca.plateaus(jnp.eye(12), losses.simplified_barlow_twins, 7)
    with pytest.raises(ValueError, match="loss_fn must be finite for embeddings of zeros, got nan"):
        kernel_pca.plateaus(jnp.eye(12), lambda z, w: jnp.sum(z) / jnp.sum(w), 2)
