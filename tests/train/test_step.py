"""The step: its gradient, microbatches, order of images; records, and the choice of α."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training
from flax import linen

from sslstep import data, losses, nn, optim, train
from sslstep.measure import spectrum


def test_one_step_is_descent_along_the_gradient(x64):
    state, images = training.state(), training.images(16)
    new, metrics = jax.jit(training.make_step(rate=0.1))(state, images)
    keys = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(state.key, 0), place))(
        jnp.arange(16)
    )
    x, x_prime = training.VIEWS(keys, images)

    def objective(params):
        stats, pair = state.batch_stats, []
        for view in (x, x_prime):
            variables = {"params": params, "batch_stats": stats}
            (_, z), updated = training.NETWORK.apply(
                variables, view, train=True, mutable=["batch_stats"]
            )
            stats = updated["batch_stats"]
            pair.append(z)
        return training.LOSS(*pair), stats

    differentiated = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, stats), grads = differentiated(state.params)
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, optax.tree.norm(grads), rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    for ours, theirs in zip(jax.tree.leaves(new.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(new.batch_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert int(new.step) == 1


class WithoutBatchNorm:
    """An MLP in the form of an encoder."""

    mlp = nn.MLP(dim=3, width=16, depth=1)

    def init(self, key, x, train):
        return self.mlp.init(key, x.reshape(len(x), -1))

    def apply(self, variables, x, train, mutable=()):
        z = self.mlp.apply(variables, x.reshape(len(x), -1))
        return (z, z), {}


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda z: (z, {}), r"\(\(2, 3\), \{\}\)"),
        (lambda z: (z, z), r"\(\(2, 3\), \(2, 3\)\)"),
        (lambda z: z, r"\(2, 3\)"),
        (lambda z: ((z, z), None), r"\(\(\(2, 3\), \(2, 3\)\), None\)"),
    ],
)
def test_what_a_network_returns_is_checked(returned, got):
    """The embeddings of two images would otherwise be taken for (h, z)."""

    class Wrong(WithoutBatchNorm):
        def apply(self, *args, **kwargs):
            return returned(super().apply(*args, **kwargs)[0][1])

    state = training.state(network=Wrong())
    with pytest.raises(ValueError, match=rf"must return \(\(h, z\), updated\).*got {got}"):
        training.make_step(network=Wrong())(state, training.images(2))


def test_a_flax_module_that_returns_embeddings_alone():
    class Alone(linen.Module):
        @linen.compact
        def __call__(self, x, *, train):
            return linen.Dense(3)(x.reshape(len(x), -1))

    state = training.state(network=Alone())
    wanted = r"__call__ must return \(h, z\), hidden representations and embeddings, got \(2, 3\)"
    with pytest.raises(ValueError, match=wanted):
        training.make_step(network=Alone())(state, training.images(2))


def test_a_record_in_evaluation_mode_checks_too():
    class Wrong(WithoutBatchNorm):
        def apply(self, variables, x, train, mutable=()):
            (h, z), updated = super().apply(variables, x, train)
            return ((h, z), updated) if mutable else z

    network, views = (
        Wrong(),
        training.VIEWS(jax.random.split(jax.random.key(1), 4), training.images(4)),
    )
    record = train.make_record(network, *views, batch_size=2, train=False)
    with pytest.raises(ValueError, match=r"must return \(h, z\), got \(2, 3\)"):
        record(training.state(network=network))


def test_a_network_may_return_lists():
    class Lists(WithoutBatchNorm):
        def apply(self, *args, **kwargs):
            outputs, updated = super().apply(*args, **kwargs)
            return [list(outputs), updated]

    state, images = training.state(network=Lists()), training.images(8)
    ours, theirs = (
        training.make_step(network=network)(state, images)[1].loss
        for network in (Lists(), WithoutBatchNorm())
    )
    assert float(ours) == float(theirs)


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg, losses.simclr])
def test_microbatches_have_the_whole_batch_s_gradient(loss):
    """Also where the loss is not a sum over samples, and with networks that are not flax's."""
    network, images = WithoutBatchNorm(), training.images(16)
    x = jnp.zeros((1, training.SIZE, training.SIZE, 3))
    state = train.init_state(jax.random.key(0), network, optax.sgd(0.1), x)
    whole, *several = (
        jax.jit(train.make_step(network, loss, optax.sgd(0.1), training.VIEWS, num_microbatches=n))(
            state, images
        )
        for n in (1, 2, 8)
    )
    for in_parts in several:
        np.testing.assert_allclose(in_parts[1].loss, whole[1].loss, rtol=1e-5)
        for ours, theirs in zip(
            jax.tree.leaves(in_parts[0].params), jax.tree.leaves(whole[0].params), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_microbatches_must_divide_the_batch():
    step = training.make_step(num_microbatches=3)
    with pytest.raises(ValueError, match=r"num_microbatches = 3 must divide .* got 16 images"):
        step(training.state(), training.images(16))
    with pytest.raises(ValueError, match="num_microbatches must be >= 1"):
        training.make_step(num_microbatches=0)


def test_joint_views_share_their_statistics():
    """Batch norm over both views sees their difference; over each it does not."""
    images = training.images(16)

    def shifted(keys, images):
        x, _ = training.VIEWS(keys, images)
        return x, 3 * x + 1

    losses_found = [
        jax.jit(
            train.make_step(
                training.NETWORK, training.LOSS, optax.sgd(0.1), shifted, joint_views=joint
            )
        )(training.state(), images)[1].loss
        for joint in (False, True)
    ]
    assert abs(float(losses_found[0] - losses_found[1])) > 1e-3


def test_every_epoch_is_a_permutation_and_any_part_is_the_same():
    key = jax.random.key(3)
    whole = train.batch_indices(key, 0, 20, batch_size=8, num_images=43)  # 5 batches an epoch
    assert whole.dtype == np.int32
    epochs = whole.reshape(4, 40)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 40
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    for first, num in ((0, 1), (3, 9), (19, 1)):
        part = train.batch_indices(key, first, num, batch_size=8, num_images=43)
        np.testing.assert_array_equal(part, whole[first : first + num])
    other = train.batch_indices(jax.random.key(4), 0, 20, batch_size=8, num_images=43)
    assert not np.array_equal(other, whole)


def test_records_are_the_spectra_of_the_embeddings():
    x, x_prime = training.VIEWS(jax.random.split(jax.random.key(1), 32), training.images(32))
    state = training.state()
    found = train.make_record(training.NETWORK, x, x_prime, batch_size=32)(state)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    outputs = [
        training.NETWORK.apply(variables, view, train=True, mutable=["batch_stats"])[0]
        for view in (x, x_prime)
    ]
    (h, z), (h_prime, z_prime) = outputs
    close = {"rtol": 1e-3, "atol": 1e-6}
    np.testing.assert_allclose(
        found["correlation"], spectrum.correlation_eigenvalues(z, z_prime), **close
    )
    both = jnp.concatenate([z, z_prime])
    np.testing.assert_allclose(found["covariance"], spectrum.covariance_eigenvalues(both), **close)
    both = jnp.concatenate([h, h_prime])
    np.testing.assert_allclose(found["hidden"], spectrum.covariance_eigenvalues(both), **close)
    assert int(found["learned"]) == int((found["correlation"] > 0.5).sum())
    record = train.make_record(training.NETWORK, x, x_prime, batch_size=32, normalise=True)
    standard = [
        (view - view.mean(0, keepdims=True)) / jnp.sqrt(view.var(0, keepdims=True) + 1e-5)
        for view in (z, z_prime)
    ]
    expected = spectrum.correlation_eigenvalues(*standard)
    np.testing.assert_allclose(record(state)["correlation"], expected, **close)
    with pytest.raises(ValueError, match="batch_size = 20 must divide the 32 pairs"):
        train.make_record(training.NETWORK, x, x_prime, batch_size=20)


def test_tiny_embeddings_are_recorded_as_the_loss_sees_them():
    class Tiny:
        init = None

        @staticmethod
        def apply(variables, x, train, mutable=None):
            return (x, 1e-5 * x), {}

    x = jax.random.normal(jax.random.key(0), (64, 3))
    x = (x - x.mean(0, keepdims=True)) / x.std(0, keepdims=True)
    record = train.make_record(Tiny, x, x, batch_size=64, normalise=True)
    found = record(training.state())
    loss = losses.barlow_twins(1e-5 * x, 1e-5 * x, off_diagonal=1.0, symmetrise=True)
    np.testing.assert_allclose(jnp.sum((found["correlation"] - 1) ** 2), loss, rtol=1e-5)
    np.testing.assert_allclose(found["correlation"], 1e-5, rtol=1)  # 1e-10 of 1e-5
    assert int(found["learned"]) == 0
    record = train.make_record(Tiny, x, x, batch_size=64, normalise=True, eps=0.0)
    assert int(record(training.state())["learned"]) == 3
    with pytest.raises(ValueError, match="eps must be >= 0"):
        train.make_record(Tiny, x, x, batch_size=64, normalise=True, eps=-1.0)


@pytest.mark.parametrize(("target", "measure"), [(1e-3, "correlation"), (1e-5, "covariance")])
def test_the_chosen_scale_gives_the_eigenvalue(target, measure, unchecked):
    views = data.two_views(
        jax.random.split(jax.random.key(1), 64), training.images(64), data.crop_views(8)
    )
    key, settings = jax.random.key(5), {"target": target, "measure": measure}
    scale = train.choose_init_scale(key, training.NETWORK, *views, **settings)
    state = train.init_state(key, training.NETWORK, optim.sgd(0.1), views[0], init_scale=scale)
    record = train.make_record(training.NETWORK, *views, batch_size=64)
    # α is good to 0.5%, and the eigenvalue is a power of it.
    np.testing.assert_allclose(record(state)[measure][0], target, rtol=0.1)
    with pytest.raises(ValueError, match="target = 1e-30 is not reached"):
        train.choose_init_scale(key, training.NETWORK, *views, target=1e-30)
    with pytest.raises(ValueError, match="measure must be one of 'correlation'"):
        train.choose_init_scale(key, training.NETWORK, *views, measure="hidden")


def test_choose_init_scale_of_a_part():
    """Of a linear last layer the eigenvalue goes as α²."""
    key, network = jax.random.key(0), WithoutBatchNorm()
    views = training.VIEWS(jax.random.split(jax.random.key(1), 64), training.images(64))
    of_output = {"where": lambda path: "output" in path}
    scale = train.choose_init_scale(key, network, *views, target=1e-3, **of_output)
    start = {"init_scale": scale, **of_output}
    state = train.init_state(key, network, optax.sgd(0.1), views[0], **start)
    record = train.make_record(network, *views, batch_size=64)
    assert float(record(state)["correlation"][0]) == pytest.approx(1e-3, rel=0.05)
    full = train.init_state(key, network, optax.sgd(0.1), views[0])
    assert float(record(full)["correlation"][0]) * scale**2 == pytest.approx(1e-3, rel=0.05)
    for name, layer in full.params.items():
        assert np.array_equal(state.params[name]["kernel"], layer["kernel"]) == (name != "output")


def test_choose_init_scale_at_simclr_s_target():
    """1e-6, of the covariance, of a head with biases and without batch norm (Appendix D.2)."""
    backbone = nn.ResNet(stage_sizes=(1,), width=4, stem="small_stride2")
    network = nn.Encoder(backbone, nn.simclr_head(3, (8,), variant="plain"))
    views = training.VIEWS(jax.random.split(jax.random.key(1), 64), training.images(64))
    key = jax.random.key(5)
    settings = {"target": 1e-6, "measure": "covariance"}
    scale = train.choose_init_scale(key, network, *views, **settings)
    state = train.init_state(key, network, optim.sgd(0.1), views[0], init_scale=scale)
    found = train.make_record(network, *views, batch_size=64)(state)["covariance"][0]
    np.testing.assert_allclose(found, 1e-6, rtol=0.1)


def test_choose_init_scale_wants_views_that_fit(unchecked):
    key, x = jax.random.key(0), jnp.zeros((6, 8, 8, 3))
    with pytest.raises(ValueError, match=r"x_prime of shape .* NaN"):
        train.choose_init_scale(key, training.NETWORK, x, x.at[0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"bounds must be the lower and the upper one, got \(1"):
        train.choose_init_scale(key, training.NETWORK, x, x, bounds=(1.0, 0.1))
    with pytest.raises(ValueError, match="must have one shape"):
        train.choose_init_scale(key, training.NETWORK, x, x[:4])
    with pytest.raises(ValueError, match="batch_size = 4 must divide the 6 pairs"):
        train.choose_init_scale(key, training.NETWORK, x, x, batch_size=4)


def test_images_may_be_several_arrays():
    """Views of each image that were made beforehand, say: as if they lay in one array."""
    first, second = training.images(16), training.images(16)[::-1].copy()
    network, sgd = WithoutBatchNorm(), optim.sgd(0.1)
    x = jnp.zeros((1, training.SIZE, training.SIZE, 3))
    start = train.init_state(jax.random.key(0), network, sgd, x)

    def cropped(pair):
        return tuple(view[:, :8, :8].astype(jnp.float32) / 255 for view in pair)

    def losses_of(views_fn, images, num_microbatches):
        step = train.make_step(
            network, training.LOSS, sgd, views_fn, num_microbatches=num_microbatches
        )
        compiled = train.compile_step(step, devices=jax.devices()[:1])
        return train.fit(compiled, start, images, num_steps=2, batch_size=8).metrics["loss"]

    one = losses_of(
        lambda keys, images: cropped((images[:, 0], images[:, 1])),
        np.stack([first, second], axis=1),
        1,
    )
    assert np.isfinite(one).all()
    for num in (1, 2):
        several = losses_of(
            lambda keys, images: cropped((images["first"], images["second"])),
            {"first": first, "second": second},
            num,
        )
        np.testing.assert_allclose(several, one, rtol=1e-6 if num == 1 else 1e-5)
