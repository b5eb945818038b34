"""Images that experiments start from: a folder of one's own, and what is missing in it."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.fig1ab import experiment as fig1ab
from sslstep import data
from sslstep.experiment import _run, claims_table, image_data, load, results

LINEAR = ["--num-images", "20", "--crop", "5", "--dim", "2", "--num-steps", "50"]
LINEAR += ["--num-records", "20", "--scales", "1e-2", "1e-3"]
TINY = ["--methods", "barlow_twins", "--size", "8", "--num-probe", "32", "--num-records", "4"]
TINY += ["--num-snapshots", "0", "--num-labelled", "40"]
RECIPE = {"num-steps": "4", "dim": "4", "batch-size": "16", "hidden": "8"}


def recipe(prefix=""):
    return [word for k, v in RECIPE.items() for word in (f"--{prefix}barlow-twins.{k}", v)]


def write(folder, num, seed=0):
    """Images of noise, each with a mean of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(num):
        pixels = rng.integers(0, 256, (40, 48, 3)) * rng.uniform(0.2, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder without classes."""
    folder = tmp_path_factory.mktemp("own") / "images"
    write(folder, 40)
    return str(folder)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "animals"
    for seed, name in enumerate(("cats", "dogs")):
        write(folder / name, 25, seed)
    return str(folder)


def test_a_folder_without_classes_is_all_there_to_train_on(plain):
    images, labels, _ = image_data.choose(jax.random.key(0), plain, None, None)
    assert images.shape == (40, 32, 32, 3)
    assert (labels == -1).all()
    large = image_data.choose(jax.random.key(0), plain, 3, None, view=50).images
    assert large.shape == (3, 96, 96, 3)
    said = r"num_images = 41, but .* has 40 images for training: --num-images can be 40 at most"
    with pytest.raises(image_data.UnfitError, match=said):
        image_data.choose(jax.random.key(0), plain, 41, None)
    with pytest.raises(
        image_data.UnfitError, match=r" 60, .*: --num-images \+ --num-test can be 40 "
    ):
        image_data.split_pairs(jax.random.key(0), plain, 30, 30, None, 20)
    with pytest.raises(image_data.UnfitError, match="has no labelled images: that takes a folder"):
        image_data.labelled(plain, "train", None, 24)


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_data_that_are_missing_are_not_merely_unlabelled(tmp_path, name):
    with pytest.raises(data.DatasetNotFoundError):
        image_data.labelled(name, "train", str(tmp_path), 24)


def test_a_fifth_of_the_labelled_images_is_for_tests(classes):
    train, test = (image_data.labelled(classes, split, None, 24) for split in ("train", "test"))
    assert (len(train.images), len(test.images)) == (40, 10)
    assert set(train.labels) == set(test.labels[:10]) == {0, 1}
    assert len(np.unique(train.labels[:10])) == 2  # not class by class
    chosen = image_data.choose(jax.random.key(0), classes, None, None).images
    everything = {image.tobytes() for image in chosen}
    assert everything == {image.tobytes() for image in train.images}
    assert not everything & {image.tobytes() for image in test.images}


def test_a_folder_is_told_by_what_is_in_it(tmp_path, plain):
    assert image_data.identity("photos", 24) == "photos"
    name = image_data.identity(plain, 24)
    assert name.startswith("images-")
    assert "/" not in name
    write(tmp_path / "images", 3)
    assert image_data.identity(str(tmp_path / "images"), 24) != name


@pytest.mark.parametrize("name", ["imagenet", "./nowhere"])
def test_neither_a_name_nor_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="one of photos, cifar10, stl10, or a folder of images"):
        _run.main(load("experiments.fig1ab"), ["--data", name, "--out", str(tmp_path / "here")])


@pytest.mark.parametrize("name", image_data.NAMES)
def test_a_folder_of_a_data_sets_name_is_told_of(tmp_path, monkeypatch, recwarn, name):
    monkeypatch.chdir(tmp_path)
    image_data.require_used(fig1ab.Config(data=name))
    assert not recwarn.list
    write(tmp_path / name, 3)
    with pytest.warns(UserWarning, match=f"not the folder ./{name} .* give --data ./{name}"):
        image_data.require_used(fig1ab.Config(data=name))
    recwarn.clear()
    image_data.require_used(fig1ab.Config(data=f"./{name}"))
    if name != "photos":  # the prepared data themselves
        image_data.require_used(fig1ab.Config(data=name, data_dir="."))
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "classes"])
def test_networks_are_trained_with_probes_where_there_are_labels(tmp_path, request, kind):
    source = request.getfixturevalue(kind)
    args = [*TINY, *recipe(), "--seeds", "0", "--data", source]
    args += ["--runs", str(tmp_path / "runs")]
    assert _run.main(load("experiments.fig5"), [*args, "--out", str(tmp_path / "here")]) == 0
    arrays = results.load(tmp_path / "here").arrays
    assert ("barlow_twins/0/accuracy" in arrays) == (kind == "classes")
    said = (tmp_path / "here" / "log.txt").read_text()
    assert ("trained without probes" in said) == (kind == "plain")
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith(f"barlow_twins-{image_data.identity(source, 8)}-seed0-")


@pytest.mark.parametrize(
    ("experiment", "args", "why"),
    [
        (load("experiments.beyond.infinite_width"), [], "has no labelled images"),
        (
            load("experiments.fig7"),
            [*TINY, *recipe("small."), *recipe("standard.")],
            "no labelled images",
        ),
        (load("experiments.fig5"), TINY, "batch_size = 256 is larger than the data"),
        (load("experiments.fig1ab"), [], "num_images = 500, but"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_images_do_not_do_for_is_skipped_if_asked(
    tmp_path, monkeypatch, capsys, plain, experiment, args, why
):
    monkeypatch.chdir(tmp_path)
    args = [*args, "--data", plain]
    if experiment.name == "fig5":
        args[args.index("--num-probe") + 1] = "256"
    with pytest.raises(image_data.UnfitError, match=why):
        _run.main(experiment, args)
    assert _run.main(experiment, [*args, "--skip-unfit", "--strict"]) == 0
    assert claims_table.main() == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("not run: "))
    assert experiment.name in line
    assert why in line


@pytest.mark.slow
def test_a_skip_is_forgotten_when_results_come(tmp_path, plain):
    out = tmp_path / "here"
    args = ["--data", plain, "--out", str(out)]
    _run.main(load("experiments.fig1ab"), [*args, "--skip-unfit"])
    assert [path.name for path in out.iterdir()] == ["skipped.txt"]
    assert _run.main(load("experiments.fig1ab"), [*LINEAR, *args]) == 0
    assert results.load(out).config.data == plain
    assert not (out / "skipped.txt").exists()
    # Nor do results give way to it.
    _run.main(load("experiments.fig1ab"), [*args, "--skip-unfit"])
    assert json.loads((out / "config.json").read_text())["num_images"] == 20
    assert not (out / "skipped.txt").exists()


def test_changed_images_are_other_images(tmp_path, plain):
    """Also behind a link; of data sets those of the same name count, as does what is read alone."""
    folder = tmp_path / "linked"
    folder.mkdir()
    shutil.copytree(plain, tmp_path / "elsewhere")
    (folder / "one").symlink_to(tmp_path / "elsewhere")
    (folder / ".hidden").write_text("")
    files = image_data.files(str(folder), None)
    assert len(files) == len(list(Path(plain).glob("*.png")))
    os.utime(next((tmp_path / "elsewhere").glob("*.png")), (1, 1))
    assert image_data.files(str(folder), None) != files
    (tmp_path / "stl10" / "1.0.0").mkdir(parents=True)
    (tmp_path / "stl10" / "1.0.0" / "dataset_info.json").write_text("{}")
    assert image_data.files(["photos", "cifar10"], str(tmp_path)) == []
    (info,) = image_data.files("stl10", str(tmp_path))
    assert Path(info[0]).name == "dataset_info.json"
    assert image_data.files(str(tmp_path / "nothing"), None) == []
