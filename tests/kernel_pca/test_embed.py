"""Embeddings from modes: the loss they have, their norm, their dynamics, and what goes wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from sslstep import dynamics, gram, kernel_pca, linear, losses, simulate
from sslstep.kernel_pca import _machine
from sslstep.ntk import _neural_tangents, infinite


@pytest.fixture(scope="module")
def pairs():
    """Two views of 40 samples in 6 dimensions of different variance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)) / np.sqrt(np.arange(1, 7))
    return x, x + 0.2 * rng.standard_normal((40, 6))


def linear_kernel(x1, x2=None):
    return jnp.matmul(x1, (x1 if x2 is None else x2).T, precision="highest")


def gaussian_kernel(x1, x2=None):
    x2 = x1 if x2 is None else x2
    return jnp.exp(-jnp.sum((x1[:, None] - x2[None]) ** 2, axis=-1) / 2)


def both(pairs, dtype):
    return jnp.concatenate([jnp.asarray(view, dtype) for view in pairs])


def test_clause_b_is_the_printed_embedding(x64, pairs):
    """Eq. 24 with its inverse root, in float64 where it can be had; up to signs."""
    samples, points = both(pairs, jnp.float64), jnp.asarray(pairs[0][:7] + 1)
    kernel, k_test = np.asarray(gaussian_kernel(samples)), gaussian_kernel(points, samples)
    root = scipy.linalg.sqrtm(kernel).real
    swapped = np.roll(np.eye(80), 40, axis=0)
    gammas, b = np.linalg.eigh(root @ swapped @ root / 80)
    gammas, b = gammas[::-1][:4], b[:, ::-1][:, :4]
    printed = (gammas**-0.5 * b).T @ np.linalg.solve(root, np.asarray(k_test).T)
    found = kernel_pca.embed(kernel_pca.contrastive_modes(kernel, 4), k_test)
    np.testing.assert_allclose(np.abs(found), np.abs(printed.T), atol=1e-7)


@pytest.mark.parametrize("kernel_fn", [linear_kernel, gaussian_kernel])
def test_final_embeddings_have_zero_loss_and_the_least_norm(dtype, pairs, kernel_fn):
    """Clause (c): any other zero-loss solution is larger."""
    kernel = kernel_fn(both(pairs, dtype))
    modes = kernel_pca.contrastive_modes(kernel, 3)
    z, z_prime = jnp.split(kernel_pca.embed(modes, kernel), 2)
    atol = 1e-4 if dtype == jnp.float32 else 1e-9
    np.testing.assert_allclose(linear.cross_correlation(z, z_prime), np.eye(3), atol=atol)
    least = float(jnp.sum(kernel_pca.final_singular_values(modes) ** 2))
    c = np.asarray(modes.coefficients) * np.asarray(kernel_pca.final_singular_values(modes))
    norm = np.trace(c.T @ np.asarray(kernel) @ c)
    assert norm == pytest.approx(least, rel=1e3 * float(jnp.finfo(dtype).eps))
    # f = A ψ over the positive modes has C = A diag(γ) Aᵀ: zero loss is A = Q diag(γ)^{-1/2}, Q
    # with orthonormal rows. Any other rows than the first three cost more.
    if kernel_fn is linear_kernel:
        every = kernel_pca.contrastive_modes(kernel, 6).eigenvalues
        positive = np.asarray(every)[np.asarray(every) > 1e-4]
        for seed in range(20):
            shape = (len(positive), 3)
            q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal(shape))
            assert np.sum(q**2 / positive[:, None]) > least


def test_linear_kernel_is_the_top_spectral_solution(dtype, pairs):
    samples = both(pairs, dtype)
    modes = kernel_pca.contrastive_modes(linear_kernel(samples), 3)
    gamma = linear.cross_correlation(*jnp.split(samples, 2))
    weights = linear.top_spectral(linear.modes(gamma), 3)
    points = jnp.asarray(np.random.default_rng(1).standard_normal((5, 6)), dtype)
    found = kernel_pca.embed(modes, linear_kernel(points, samples))
    rtol = 1e-3 if dtype == jnp.float32 else 1e-8
    np.testing.assert_allclose(jnp.abs(found), jnp.abs(points @ weights.T), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("modes_of", [kernel_pca.contrastive_modes, kernel_pca.principal_modes])
def test_training_embeddings_need_no_kernel(dtype, pairs, modes_of):
    """Eq. 49."""
    kernel = gaussian_kernel(both(pairs, dtype))
    modes = modes_of(kernel, 4)
    found, wanted = kernel_pca.embed_training(modes), kernel_pca.embed(modes, kernel)
    np.testing.assert_allclose(found, wanted, atol=1e-4 if dtype == jnp.float32 else 1e-9)


def test_dynamics_are_those_of_a_trained_linear_model(x64, pairs):
    """Eqs. 40 and 42: rotation and all, at every time, on training and on new points."""
    samples = both(pairs, jnp.float64)
    x, x_prime = jnp.split(samples, 2)
    weights = linear.init_weights(jax.random.key(3), 3, 6, 1e-6, jnp.float64)
    gamma = linear.cross_correlation(x, x_prime)
    tau = linear.critical_time(linear.modes(gamma).eigenvalues[:3], 1e-6)
    times = jnp.linspace(0, 1.3, 9) * tau[-1]
    trained = simulate.gradient_flow(weights, gamma, times)
    predict_fn = kernel_pca.gradient_flow_ssl(
        linear_kernel, x, x_prime, 3, initial=samples @ weights.T
    )
    points = samples[:5] * 2 - 1
    for inputs, given in ((samples, None), (points, points)):
        measured = jnp.einsum("nm,tdm->tnd", inputs, trained.weights)
        predicted = predict_fn(times, given)
        # Result 4.6: the error of the aligned start vanishes with α, here 1e-6.
        bound = 20 * 1e-6 ** float(linear.alignment_exponent(linear.modes(gamma).eigenvalues, 3))
        assert float(jnp.abs(predicted - measured).max()) < bound
        assert float(jnp.abs(measured[-1]).max()) > 0.5
    np.testing.assert_allclose(predict_fn(jnp.inf), predict_fn(), atol=1e-9)


def test_predict_fn_sweeps_time_without_compiling(pairs):
    x, x_prime = (jnp.asarray(view, jnp.float32) for view in pairs)
    predict_fn = kernel_pca.gradient_flow_ssl(gaussian_kernel, x, x_prime, 2, init_scale=1e-3)
    compiled = jax.jit(predict_fn)
    shapes = {compiled(jnp.float32(t)).shape for t in (0.0, 1.0, 30.0)}
    assert shapes == {(80, 2)}
    assert compiled._cache_size() == 1
    assert predict_fn(jnp.zeros((3, 2)), x[:4]).shape == (3, 2, 4, 2)
    # At the start, the typical singular values of Eq. 21 times orthonormal functions.
    small = predict_fn(0.0)
    assert 0 < float(jnp.abs(small).max()) < 0.1
    with_x_test = jax.jit(lambda t: predict_fn(t, x[:4]))(jnp.float32(1.0))
    np.testing.assert_allclose(with_x_test, predict_fn(1.0)[:4], atol=1e-3)


def test_not_storing_the_kernel_changes_nothing(x64, pairs):
    x, x_prime = (jnp.asarray(view) for view in pairs)
    stored, not_stored = (
        kernel_pca.gradient_flow_ssl(
            gaussian_kernel, x, x_prime, 3, store_kernel=store, batch_size=32
        )
        for store in (True, False)
    )
    np.testing.assert_allclose(jnp.abs(stored()), jnp.abs(not_stored()), atol=1e-5)


def test_kernel_functions_of_neural_tangents(x64, pairs):
    stax = _neural_tangents.load_neural_tangents().stax
    _, _, kernel_fn = stax.serial(stax.Dense(1, W_std=2**0.5), stax.Relu(), stax.Dense(1, 2**0.5))
    x, x_prime = (jnp.asarray(view) for view in pairs)
    found = kernel_pca.gradient_flow_ssl(kernel_fn, x, x_prime, 2)(None, x[:3])
    wanted = kernel_pca.gradient_flow_ssl(infinite.mlp(1), x, x_prime, 2)(None, x[:3])
    np.testing.assert_allclose(jnp.abs(found), jnp.abs(wanted), atol=1e-6)


def test_two_towers(x64, pairs):
    x, x_prime = jnp.asarray(pairs[0]), jnp.asarray(pairs[1][:, :4])  # views of two kinds
    towers = gram.TwoTowers(gaussian_kernel, linear_kernel)
    predict_fn = kernel_pca.gradient_flow_ssl(towers, x, x_prime, 2)
    z, z_prime = jnp.split(predict_fn(), 2)
    np.testing.assert_allclose(linear.cross_correlation(z, z_prime), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(predict_fn(None, x[:3], view=0), z[:3], atol=1e-5)
    np.testing.assert_allclose(predict_fn(None, x_prime[:3], view=1), z_prime[:3], atol=1e-5)
    with pytest.raises(ValueError, match="two towers, view must be 0"):
        predict_fn(None, x[:3])


def test_modes_keep_their_precision(x64, pairs):
    """float64 modes, with a kernel, embeddings or values of float32: as with the same numbers."""
    kernel = gaussian_kernel(both(pairs, jnp.float64))
    modes = kernel_pca.contrastive_modes(kernel, 3)
    values, rotation = jnp.array([1.0, 0.3, 0.1]), jnp.eye(3)
    short, same = kernel[:9].astype(jnp.float32), kernel[:9].astype(jnp.float32).astype(float)
    start = jax.random.normal(jax.random.key(0), (80, 3), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        for given in ((), (values,), (values, rotation), (values.astype(jnp.float32), rotation)):
            found, wanted = (kernel_pca.embed(modes, k, *given) for k in (short, same))
            assert found.dtype == jnp.float64
            np.testing.assert_array_equal(found, wanted)
        found, wanted = (kernel_pca.align(z, modes) for z in (start, start.astype(float)))
    np.testing.assert_array_equal(found.singular_values, wanted.singular_values)
    np.testing.assert_array_equal(found.rotation, wanted.rotation)


def test_learned_kernel_forgets_the_rotation(x64, pairs):
    kernel = gaussian_kernel(both(pairs, jnp.float64))
    modes = kernel_pca.contrastive_modes(kernel, 3)
    values = kernel_pca.final_singular_values(modes) / 2
    rotation, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (3, 3)))
    z = kernel_pca.embed(modes, kernel[:9], values, rotation)
    z_all = kernel_pca.embed(modes, kernel, values, rotation)
    np.testing.assert_allclose(
        kernel_pca.learned_kernel(modes, kernel[:9], kernel, values), z @ z_all.T, atol=1e-12
    )
    assert np.linalg.matrix_rank(kernel_pca.learned_kernel(modes, kernel)) == 3


def test_gradients_reach_the_kernel(x64, pairs):
    """A function of the embeddings, differentiated through the dense solver."""
    samples = both(pairs, jnp.float64)

    def spread(width):
        kernel = jnp.exp(
            -jnp.sum((samples[:, None] - samples[None]) ** 2, axis=-1) / (2 * width**2)
        )
        modes = kernel_pca.contrastive_modes(kernel, 2, solver="dense")
        return jnp.sum(kernel_pca.embed(modes, kernel) ** 2)

    slope = jax.grad(spread)(1.5)
    difference = (spread(1.5 + 1e-5) - spread(1.5 - 1e-5)) / 2e-5
    assert float(slope) == pytest.approx(float(difference), rel=1e-5)


@pytest.fixture
def modes():
    return kernel_pca.contrastive_modes(jnp.eye(8) + 1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: kernel_pca.embed(m, jnp.ones((3, 7))), r"\(n_test, 8\), one column for each"),
        (lambda m: kernel_pca.embed(m, jnp.ones(8)), r"k_test_train must be a matrix"),
        (lambda m: kernel_pca.embed(m, jnp.full((1, 8), jnp.nan)), "k_test_train .* NaN"),
        (lambda m: kernel_pca.embed(m, jnp.ones((1, 8)), jnp.full(2, jnp.nan)), "singular_values"),
        (lambda m: kernel_pca.embed(m, jnp.ones((1, 8)), None, jnp.full((2, 2), jnp.inf)), "rotat"),
        (lambda m: kernel_pca.embed(m, jnp.ones((1, 8)), jnp.ones(3)), "k at most 2"),
        (lambda m: kernel_pca.embed(m, jnp.ones((1, 8)), None, jnp.eye(3)), r"shape \(2, 2\)"),
        (lambda m: kernel_pca.align(jnp.full((8, 2), jnp.nan), m), "initial .* NaN"),
        (
            lambda m: kernel_pca.learned_kernel(m, jnp.ones((3, 8)), None, jnp.ones((2, 2))),
            r"of one time, of shape \(k,\), got shape \(2, 2\)",
        ),
        (lambda m: kernel_pca.align(jnp.ones((7, 2)), m), r"initial must have shape \(8, d\)"),
        (lambda m: kernel_pca.align(jnp.ones((8, 3)), m), "d at most 2, the number of modes"),
    ],
)
def test_wrong_shapes(unchecked, modes, call, message):
    with pytest.raises(ValueError, match=message):
        call(modes)


def test_wrong_calls(unchecked):
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="give initial or init_scale, not both"):
        kernel_pca.gradient_flow_ssl(
            gaussian_kernel, x, x, 2, initial=jnp.ones((8, 2)), init_scale=1e-3
        )

    def never(x1, x2=None):
        raise AssertionError("the kernel was computed before the arguments were looked at")

    for message, dim, options in (
        (
            r"initial must have shape \(8, 2\), \(2n, dim\), got \(8, 3\)",
            2,
            {"initial": jnp.ones((8, 3))},
        ),
        (r"initial must have shape \(8, 2\)", 2, {"initial": jnp.ones((7, 2))}),
        ("init_scale must be >= 0", 2, {"init_scale": -1.0}),
        ("dim must be between 1 and n = 4, got 5", 5, {}),
        ("solver must be one of", 2, {"solver": "cg"}),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_pca.gradient_flow_ssl(never, x, x, dim, **options)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    predict_fn = kernel_pca.gradient_flow_ssl(gaussian_kernel, x, x, 2)
    with pytest.raises(ValueError, match="at a time t need initial or init_scale"):
        predict_fn(1.0)
    predict_fn = kernel_pca.gradient_flow_ssl(gaussian_kernel, x, x, 2, init_scale=1e-3)
    with pytest.raises(ValueError, match=r"t, of shape \(3, 2\), looks like samples"):
        predict_fn(jnp.ones((3, 2)))
    assert predict_fn(jnp.ones((3, 4))).shape == (3, 4, 8, 2)
    modes = kernel_pca.contrastive_modes(gram.pairs(gaussian_kernel, x, x), 2)
    with pytest.raises(TypeError, match="modes must be KernelModes"):
        kernel_pca.embed(jnp.ones((8, 8)), modes)
    with pytest.raises(TypeError, match="modes must be KernelModes"):
        kernel_pca.align(modes, jnp.ones((8, 8)))
    with pytest.raises(TypeError, match="modes must be KernelModes"):
        kernel_pca.embed_training(jnp.ones((8, 8)))
    with pytest.raises(TypeError, match=r"dim must be an integer, got 2\.0"):
        kernel_pca.gradient_flow_ssl(gaussian_kernel, x, x, 2.0)


def test_predictions_approach_the_exact_flow_as_the_start_shrinks(x64, pairs):
    """At t = 0 they are the aligned start, not `initial`: off by its size, which vanishes."""
    kernel = gaussian_kernel(both(pairs, jnp.float64))
    direction = kernel @ jax.random.normal(jax.random.key(4), (80, 2)) / 80
    distances = []
    for alpha in (1e-2, 1e-4, 1e-6):
        initial = alpha * direction
        predict_fn = kernel_pca.gradient_flow_ssl(
            gaussian_kernel, jnp.asarray(pairs[0]), jnp.asarray(pairs[1]), 2, initial=initial
        )
        modes = kernel_pca.contrastive_modes(kernel, 2)
        start = kernel_pca.align(initial, modes).singular_values
        times = jnp.linspace(0, 1.5, 25) * dynamics.step_time(modes.eigenvalues, start).max()
        exact = kernel_pca.flow(kernel, losses.simplified_barlow_twins, initial, times)
        np.testing.assert_array_equal(exact[0], initial)
        off = jnp.abs(predict_fn(times) - exact).max(axis=(1, 2))
        assert 0 < float(off[0]) < 2 * float(jnp.abs(initial).max())
        distances.append(float(off.max()))
    assert distances[0] > 2 * distances[1] > 4 * distances[2]
    assert distances[2] < 1e-2


@pytest.mark.parametrize("loss_fn", [losses.simplified_barlow_twins, losses.vicreg])
def test_a_kernel_machine_is_a_model_linear_in_its_features(x64, pairs, loss_fn):
    """Descent of its weights, by automatic differentiation, on training and on new points."""
    samples = both(pairs, jnp.float64)
    points = samples[:5] * 2 - 1
    weights = 0.3 * jax.random.normal(jax.random.key(0), (6, 3))
    frozen = 0.1 * jax.random.normal(jax.random.key(1), (85, 3))  # what the kernel cannot change
    start, start_test = jnp.split(jnp.concatenate([samples, points]) @ weights + frozen, [80])
    eta = 1e-2 if loss_fn is losses.vicreg else 1e-3
    run = kernel_pca.gradient_descent(
        linear_kernel(samples), loss_fn, start, eta, 60, record_at=[0, 7, 60]
    )

    def loss(weights):
        return loss_fn(*jnp.split(samples @ weights + frozen[:80], 2))

    wanted = {}
    for step in range(61):
        wanted[step] = weights
        weights = weights - eta * jax.grad(loss)(weights)
    for points_, first, rest in ((samples, start, frozen[:80]), (points, start_test, frozen[80:])):
        found = run.embeddings(linear_kernel(points_, samples), first)
        for at, z in zip((0, 7, 60), found, strict=True):
            np.testing.assert_allclose(z, points_ @ wanted[at] + rest, atol=1e-10)
    np.testing.assert_allclose(run.loss, [loss(wanted[at]) for at in (0, 7, 60)], rtol=1e-10)
    np.testing.assert_allclose(run.times, eta * np.array([0, 7, 60]), rtol=1e-12)
    if loss_fn is losses.simplified_barlow_twins:  # descent of small steps is the flow
        flow = kernel_pca.flow(linear_kernel(samples), loss_fn, start, run.times)
        z = run.embeddings(linear_kernel(samples), start)
        assert 0 < float(jnp.abs(flow - z).max()) < 0.05 * float(jnp.abs(z[-1] - z[0]).max())


def test_what_a_kernel_machine_refuses(unchecked):
    kernel, start, loss_fn = jnp.eye(6), jnp.ones((6, 2)), losses.simplified_barlow_twins
    for message, arguments in (
        (r"initial must have shape \(6, d\), a row for each row", (kernel, loss_fn, start[:5])),
        ("kernel must be symmetric", (jnp.triu(jnp.ones((6, 6))), loss_fn, start)),
        ("initial .* NaN", (kernel, loss_fn, start * jnp.nan)),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_pca.gradient_descent(*arguments, 0.1, 10)
        with pytest.raises(ValueError, match=message):
            kernel_pca.flow(*arguments, jnp.ones(1))
    with pytest.raises(ValueError, match="n samples in num_views = 4 views, got 6 rows"):
        kernel_pca.flow(kernel, loss_fn, start, jnp.ones(1), num_views=4)
    with pytest.raises(simulate.DivergenceError, match="no longer finite at step 100"):
        kernel_pca.gradient_descent(kernel, loss_fn, start, 1e3, 100, record_every=100)


def test_another_tolerance_compiles_nothing(count_compilations):
    kernel, start = jnp.eye(4), 0.1 * jnp.ones((4, 1))

    def flow(tolerance):
        kernel_pca.flow(kernel, losses.simplified_barlow_twins, start, jnp.ones(1), rtol=tolerance)

    assert count_compilations(flow, [1e-4, 1e-5]) == 0


def test_sweeping_the_learning_rate_of_a_kernel_machine_compiles_nothing():
    start, sizes = jax.random.normal(jax.random.key(0), (6, 2)), []
    descend: Any = _machine._descend
    for eta in (0.1, 0.2, 0.3):
        kernel_pca.gradient_descent(jnp.eye(6), losses.simplified_barlow_twins, start, eta, 3)
        sizes.append(descend._cache_size())
    assert len(set(sizes)) == 1
