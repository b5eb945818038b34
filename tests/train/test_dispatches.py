"""How many steps go to the devices at once, in which order, and with which random numbers."""

import jax
import numpy as np
import pytest
import tiny

from sslstep import data, train
from sslstep.train import _loop, _order


def test_a_few_programs_serve_every_remainder():
    step = tiny.compiled.__wrapped__()
    at = np.unique(np.geomspace(1, 400, 50).astype(int))
    record = {"record": lambda state: {"at": state.step}, "record_at": at}
    run = tiny.fit(None, 400, step, steps_per_dispatch=30, **record)
    assert run.records["at"].tolist() == at.tolist()
    assert step._compiled._cache_size() <= 6  # 30, 16, 8, 4, 2, 1


@pytest.mark.parametrize("most", [1, 7, 30, 64])
def test_an_interrupted_run_cuts_the_rest_as_it_would_have(most):
    for stop in range(1, 130):
        cuts = list(_loop._dispatches(0, [stop], most))
        assert sum(count for _, count in cuts) == stop
        for n, (first, _) in enumerate(cuts):
            assert list(_loop._dispatches(first, [stop], most)) == cuts[n:]


def test_an_epoch_is_drawn_once(monkeypatch):
    drawn = []
    generator = np.random.Philox

    def counted(seed):
        drawn.append(seed)
        return generator(seed)

    monkeypatch.setattr(np.random, "Philox", counted)
    _order._order.cache_clear()
    for first in range(12):  # 5 batches an epoch
        train.batch_indices(jax.random.key(3), first, 1, batch_size=8, num_images=43)
    assert len(drawn) == 3


def test_the_order_is_that_of_earlier_versions():
    """Runs that are documented saw these images."""
    found = train.batch_indices(jax.random.key(3), 4, 2, batch_size=4, num_images=10)
    seeds = (np.random.SeedSequence([0, 3, epoch]) for epoch in (2, 2))
    order = [np.random.Generator(np.random.Philox(seed)).permutation(10) for seed in seeds]
    np.testing.assert_array_equal(found, [order[0][:4], order[1][4:8]])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_an_image_s_views_do_not_depend_on_the_images_beside_it(impl):
    """Keys of other kinds draw for a whole batch from its first one."""
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0, impl=impl), 6)
    for augment in (
        lambda keys, images: data.two_views(keys, images, data.barlow_twins_views(8))[0],
        lambda keys, images: data.augment(keys, images, data.simclr_views(8).first),
    ):
        whole = augment(keys, images)
        alone = augment(keys[4:5], images[4:5])
        np.testing.assert_allclose(alone[0], whole[4], atol=1e-6)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_parts_of_a_batch_see_what_the_whole_sees(impl):
    """As devices do, which have a share each."""
    start = tiny.state(key=jax.random.key(0, impl=impl))
    whole, parts = (tiny.fit(None, 3, tiny.compiled(num_microbatches=num), start) for num in (1, 4))
    np.testing.assert_allclose(parts.metrics["loss"], whole.metrics["loss"], rtol=1e-5)
    other = tiny.fit(None, 3, start=tiny.state(key=jax.random.key(1, impl=impl)))
    assert not np.allclose(other.metrics["loss"], whole.metrics["loss"], rtol=1e-3)


def test_numbers_of_steps_may_be_numpy_s(tmp_path, unchecked):
    numbers = {"steps_per_dispatch": np.int32(4), "checkpoint_every": np.int64(5)}
    run = tiny.fit(tmp_path, np.int64(7), **numbers)
    np.testing.assert_allclose(run.metrics["loss"], tiny.fit(None, 7).metrics["loss"], rtol=1e-5)
