"""The embedded photographs."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from sslstep import data
from sslstep.data import _patches

ROOT = Path(__file__).parents[2]
SPLITS_AND_SIZES = [(split, size) for split in ("train", "test") for size in (32, 96)]
each_set = pytest.mark.parametrize(("split", "size"), SPLITS_AND_SIZES)


@pytest.fixture(scope="module", autouse=True)
def cut_once() -> Iterator[None]:
    """Each set of patches is cut once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_patches, "cut", cache(_patches.cut))
        yield


@pytest.fixture(scope="module")
def patches() -> dict[tuple[str, int], list[_patches.Patch]]:
    return {(split, size): _patches.cut(split, size) for split, size in SPLITS_AND_SIZES}


@pytest.fixture(scope="module")
def datasets() -> dict[tuple[str, int], data.Dataset]:
    return {(split, size): data.photos(split, size) for split, size in SPLITS_AND_SIZES}


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    return [_patches.read(photograph) for photograph in _patches.PHOTOGRAPHS]


@each_set
def test_shapes_and_types(
    split: str, size: int, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size == 96:
        monkeypatch.setattr(_patches, "cut", _patches.cut.__wrapped__)
    dataset = data.photos(split, size)
    n = len(dataset.images)
    assert dataset.images.shape == (n, size, size, 3)
    assert dataset.images.dtype == np.uint8
    assert dataset.images.flags.c_contiguous
    assert dataset.labels.shape == (n,)
    assert dataset.labels.dtype == np.int32
    assert len(set(dataset.label_names)) == 10
    # A stand-in for CIFAR-10 needs thousands, one for STL-10 hundreds.
    assert (
        n
        >= {("train", 32): 2000, ("test", 32): 500, ("train", 96): 500, ("test", 96): 100}[
            split, size
        ]
    )


@each_set
def test_every_photograph_gives_equally_many(split: str, size: int, datasets: dict) -> None:
    labels = datasets[split, size].labels
    counts = np.bincount(labels, minlength=10)
    assert (counts == len(labels) // 10).all()


@each_set
def test_images_and_labels_are_those_of_the_patches(
    split: str, size: int, datasets: dict, patches: dict
) -> None:
    images, labels, _ = datasets[split, size]
    for image, label, patch in zip(images, labels, patches[split, size], strict=True):
        assert label == patch.label
        assert (image == patch.pixels).all()


@each_set
def test_a_patch_is_the_average_of_its_window(
    split: str, size: int, pixels: list[np.ndarray], patches: dict
) -> None:
    for patch in patches[split, size][::7]:
        side = patch.scale * size
        window = pixels[patch.label][patch.top : patch.top + side, patch.left : patch.left + side]
        blocks = window.reshape(size, patch.scale, size, patch.scale, 3)
        np.testing.assert_array_equal(patch.pixels, np.floor(blocks.mean((1, 3)) + 0.5))


def test_no_pixel_is_in_both_splits(pixels: list[np.ndarray], patches: dict) -> None:
    # Over all sizes together: a model trained at one size may be tested at the other.
    for label, photograph in enumerate(pixels):
        seen = {split: np.zeros(photograph.shape[:2], bool) for split in ("train", "test")}
        for (split, size), each in patches.items():
            for patch in each:
                if patch.label == label:
                    side = patch.scale * size
                    window = np.s_[patch.top : patch.top + side, patch.left : patch.left + side]
                    assert seen[split][window].shape == (side, side)  # within the photograph
                    seen[split][window] = True
        assert not (seen["train"] & seen["test"]).any()
        assert seen["train"].any()
        assert seen["test"].any()


@each_set
def test_no_window_is_taken_twice(split: str, size: int, patches: dict) -> None:
    places = [patch[:4] for patch in patches[split, size]]
    assert len(set(places)) == len(places)


@each_set
def test_no_patch_is_nearly_constant(split: str, size: int, datasets: dict) -> None:
    images = datasets[split, size].images.astype(float)
    assert images.var((1, 2)).mean(-1).min() >= 8**2


def test_nearly_constant_windows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    photograph[:, 24:] = 40 + photograph[:, 24:] % 16  # of deviation 4.6
    found = list(_patches._patches_of(0, photograph, "train", 32))
    assert found
    assert {patch.left for patch in found} == {0, 16}


def test_deviation_is_that_of_each_window() -> None:
    rng = np.random.default_rng(0)
    spread = np.linspace(4, 24, 50).astype(int)[None, :, None]
    photograph = (128 + rng.integers(-spread, spread + 1, (40, 50, 3))).astype(np.uint8)
    kept = _patches._varied(photograph, 10)
    assert kept.any()
    assert not kept.all()
    for row, column in np.ndindex(kept.shape):
        window = photograph[row : row + 10, column : column + 10].astype(float)
        # Exact in float64: the sums are small integers.
        assert kept[row, column] == (window.var((0, 1)).mean() >= _patches.MIN_DEVIATION**2)


@pytest.mark.slow
def test_same_in_another_process_without_the_packages_that_carry_them(datasets: dict) -> None:
    code = """
import hashlib, random, sys, numpy as np
random.seed(3); np.random.seed(5)
from sslstep import data
print(hashlib.sha256(data.photos("test", 96).images.tobytes()).hexdigest())
print(*{module.split(".")[0] for module in sys.modules})
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = hashlib.sha256(datasets["test", 96].images.tobytes()).hexdigest()
    found, *loaded = run.stdout.split()
    assert found == here
    unwanted = {"skimage", "sklearn", "scipy", "pooch", "tensorflow_datasets", "tensorflow"}
    assert "PIL" in loaded
    assert not unwanted & set(loaded)


@pytest.mark.parametrize("n", [100, 500, 1000])
def test_first_patches_are_a_fair_sample(n: int, patches: dict) -> None:
    everything = patches["train", 32]
    for attribute in ("label", "scale"):
        population = Counter(getattr(patch, attribute) for patch in everything)
        sample = Counter(getattr(patch, attribute) for patch in everything[:n])
        for value, count in population.items():
            share = count / len(everything)
            left = (len(everything) - n) / (len(everything) - 1)
            deviation = np.sqrt(n * share * (1 - share) * left)  # hypergeometric
            assert abs(sample[value] - n * share) < 4 * deviation


def test_both_splits_have_the_same_scales(patches: dict) -> None:
    for size in (32, 96):
        scales = [
            {(patch.label, patch.scale) for patch in patches[split, size]}
            for split in ("train", "test")
        ]
        assert scales[0] == scales[1]


def test_modes_of_the_linear_experiment(datasets: dict) -> None:
    """500 pairs of 20×20 crops have ten modes to learn, spread as CIFAR-10's are."""
    key, key_crops = jax.random.split(jax.random.key(0))
    images = datasets["train", 32].images
    chosen = np.asarray(jax.random.permutation(key, len(images))[:500])
    crops = data.random_crop_pairs(key_crops, images[chosen], 20)
    x, x_prime = (np.asarray(data.flatten(view)) for view in crops)
    gamma_matrix = (x.T @ x_prime + x_prime.T @ x) / (2 * len(x))
    top = np.linalg.eigvalsh(gamma_matrix)[:-11:-1]
    # Of 500 CIFAR-10 images, rounded; other draws of 500 differ by a tenth, the last by a third.
    cifar10 = np.array([280, 5.5, 3.0, 2.2, 1.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert (np.abs(np.log(top / cifar10)) < np.log(3)).all()


def test_photograph_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _patches.PHOTOGRAPHS[0]._replace(path="data/no_such_photograph.png")
    monkeypatch.setattr(_patches, "PHOTOGRAPHS", (first, *_patches.PHOTOGRAPHS[1:]))
    monkeypatch.setattr(_patches, "cut", _patches.cut.__wrapped__)
    with pytest.raises(data.DatasetNotFoundError) as caught:
        data.photos()
    message = str(caught.value)
    assert "'astronaut'" in message
    assert "no_such_photograph.png is missing" in message
    assert message.endswith("pip install --force-reinstall 'scikit-image<0.27' scikit-learn")


def test_unknown_split_or_size() -> None:
    with pytest.raises(
        ValueError, match="split of photos must be one of 'train', 'test', got 'all'"
    ):
        data.photos("all")
    with pytest.raises(ValueError, match="size of photos must be one of 32, 96, got 64"):
        data.photos("train", 64)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("[:100]", np.s_[:100]),
        ("[100:250]", np.s_[100:250]),
        ("[-20:]", np.s_[-20:]),
        ("[:-20]", np.s_[:-20]),
        ("[50%:]", np.s_[405:]),
        ("[-10%:]", np.s_[-81:]),
        ("[:1%]", np.s_[:8]),
        ("[:]", np.s_[:]),
    ],
)
def test_parts_of_a_split(part: str, expected: slice, datasets: dict) -> None:
    images, labels, _ = data.load("photos", f"train{part}", size=96)
    np.testing.assert_array_equal(images, datasets["train", 96].images[expected])
    np.testing.assert_array_equal(labels, datasets["train", 96].labels[expected])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[:900]", r"split 'train\[:900\]' of photos goes beyond its 810 images"),
        ("train[5:5]", "selects no images"),
        ("train[two]", r"must have the form 'train', 'train\[:10\]'"),
        ("train[3]", r"must have the form .* got 'train\[3\]'"),
        ("train[", "must have the form"),
        ("all[:3]", "split of photos must be one of"),
    ],
)
def test_parts_that_are_none(split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.photos(split, 96)


@pytest.mark.parametrize("size", [None, 32, 96])
def test_load_finds_them(size: int | None, datasets: dict) -> None:
    loaded = data.load("photos", "test", size=size, data_dir="/nowhere")
    np.testing.assert_array_equal(loaded.images, datasets["test", size or 32].images)
