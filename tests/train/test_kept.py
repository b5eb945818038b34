"""Work is not lost: strange folders, states, records and lines of files."""

import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from sslstep import train

FOLDERS = [
    "widths=[64,64]", "a[1", "a*b", "a?b", "{a,b}", "a#b", "a%20b", "a b", "é", "a\nb", "a\\b",
    "gs:/x", "x" * 250, "/".join(["y" * 200] * 6), "a'b\"", "tmp.orbax-checkpoint-tmp",
]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_checkpoint_in_any_folder_can_be_read(tmp_path, name):
    tree = {"w": jnp.arange(3.0)}
    train.Checkpoints(tmp_path / name).save(1, tree)
    step, found = train.Checkpoints(tmp_path / name).latest(tree)
    assert (step, found["w"].tolist()) == (1, [0.0, 1.0, 2.0])
    assert os.listdir(tmp_path / name) == ["1"]


def test_a_run_in_a_folder_of_brackets_goes_on(tmp_path, monkeypatch):
    tiny.fit(tmp_path / "widths=[64,64]", 20)
    longer = tiny.fit(tmp_path / "widths=[64,64]", 30)
    assert longer.metrics["step"].tolist() == list(range(1, 31))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny.fit("~/at home", 2)
    assert len(train.read_run("~/at home")[0]["step"]) == 2
    assert not (tmp_path / "~").exists()


def test_what_cannot_be_read_back_is_noticed_before_the_run(tmp_path, monkeypatch):
    """Nothing of the rehearsal stays, and nothing is renamed."""
    tiny.fit(tmp_path / "whole", 10)
    with monkeypatch.context() as patch:
        patch.setattr(train.Checkpoints, "_read", lambda *_: {}["gone"])
        with pytest.raises(
            train.CheckpointError, match=r"tried before the run was written to .*'gone'"
        ):
            tiny.fit(tmp_path / "run", 10)
        assert os.listdir(tmp_path / "run" / "checkpoints") == []
        with pytest.raises(train.CheckpointError, match=r"of step 3 was written .* cannot be read"):
            train.Checkpoints(tmp_path / "other").save(3, {"w": jnp.ones(2)})
        with pytest.raises(train.CheckpointError, match=r"none .* can be read: 10 \('gone'\)"):
            tiny.fit(tmp_path / "whole", 20)
    assert os.listdir(tmp_path / "whole" / "checkpoints") == ["10"]
    tiny.fit(tmp_path / "whole", 20)


def test_an_earlier_corrupt_checkpoint_is_not_replaced_by_a_later_one(tmp_path):
    checkpoints, tree = train.Checkpoints(tmp_path), {"w": jnp.ones(2)}
    checkpoints.save(1, tree)
    (tmp_path / "2.corrupt").mkdir()
    (tmp_path / "2").mkdir()
    with pytest.warns(train.CorruptCheckpointWarning, match=r"2\.2\.corrupt"):
        assert checkpoints.latest(tree)[0] == 1
    assert sorted(os.listdir(tmp_path)) == ["1", "2.2.corrupt", "2.corrupt"]


def test_arrays_without_entries_are_kept(tmp_path):
    network = tiny.Linear(none=jnp.zeros((0, 3)), other=jnp.zeros((2, 0)))
    optimizer = optax.sgd(1e-4, momentum=0.9)
    step, start = (
        make(network=network, optimizer=optimizer) for make in (tiny.compiled, tiny.state)
    )
    tiny.fit(tmp_path / "run", 12, step, start)
    found = tiny.fit(tmp_path / "run", 14, step, start).state
    assert found.params["other"].shape == (2, 0)
    tree = {"a": jnp.zeros((0,), jnp.bfloat16), "b": None}
    train.Checkpoints(tmp_path / "all").save(1, tree)
    alone = train.Checkpoints(tmp_path / "all").latest(tree)[1]["a"]
    assert (alone.shape, alone.dtype) == ((0,), jnp.bfloat16)


@pytest.mark.parametrize("dtype", ["int4", "float8_e4m3fn", "bfloat16", "bool", "complex64"])
def test_types_that_are_kept(tmp_path, dtype):
    tree = {"a": jnp.ones(3, dtype), "number": 3, "key": jax.random.key(1)}
    train.Checkpoints(tmp_path).save(1, tree)
    found = train.Checkpoints(tmp_path).latest(tree)[1]
    assert found["a"].dtype == jnp.dtype(dtype)
    assert bool((found["a"] == tree["a"]).all())


@pytest.mark.parametrize("leaf", ["words", object(), np.zeros(2, jax.dtypes.float0)])
def test_types_that_are_not_kept_are_refused_before_the_run(tmp_path, leaf):
    start = tiny.state()._replace(opt_state={"odd": leaf})
    with pytest.raises(TypeError, match="opt_state/odd of the tree must be an array of numbers"):
        tiny.fit(tmp_path / "run", 4, start=start)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_records_may_change_along_the_run(tmp_path):
    """Also where a run goes on with another function; missing numbers are NaN."""

    def go(num_steps, record):
        return tiny.fit(tmp_path, num_steps, record=record, record_at=[num_steps - 1, num_steps])

    go(4, lambda state: {"a": 1.0, "v": jnp.ones(2)})
    with pytest.warns(UserWarning, match="after step 5 than after step 4: v is of shape.*b is new"):
        go(6, lambda state: {"a": 2.0, "b": state.step, "v": jnp.ones(3)})
    with pytest.warns(UserWarning, match="a is missing, v is of shape"):
        found = go(8, lambda state: {"b": 9, "v": 0.0}).records
    again = train.read_run(tmp_path)[1]
    assert found["step"].tolist() == again["step"].tolist() == [3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(again["a"], [1, 1, 2, 2, np.nan, np.nan])
    np.testing.assert_array_equal(again["b"], [np.nan, np.nan, 5, 6, 9, 9])
    assert [np.shape(value) for value in again["v"]] == [(2,), (2,), (3,), (3,), (), ()]
    rows = [{"step": n, "v": [1.0] * n} for n in (1, 2)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.testing.assert_array_equal(train.read_run(tmp_path)[1]["v"], [[1, np.nan], [1, 1]])


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (None, "record must return a dictionary of arrays or numbers, got None"),
        ({"a": "word"}, "got a = 'word'"),
        ({"a": 1j}, "got a = 1j"),
        ({"a": [[1.0], [1.0, 2.0]]}, "got a = "),
        ({1: 2.0}, "must name its entries by strings, got 1"),
    ],
)
def test_a_record_that_cannot_be_written_loses_no_training(tmp_path, measured, message):
    with pytest.raises(TypeError, match=message):
        tiny.fit(tmp_path, 9, record=lambda state: measured, record_at=[7])
    assert train.Checkpoints(tmp_path / "checkpoints").steps() == [7]
    run = tiny.fit(tmp_path, 9, record=lambda state: {"at": state.step}, record_at=[7, 9])
    assert run.metrics["step"].tolist() == list(range(1, 10))
    assert run.records["at"].tolist() == [7, 9]  # what failed is made up for


@pytest.mark.parametrize(
    "damage", [b"\n", b"garbage\n", b"\0\0\0\n", b"\xff\n", b'{"step": 4, "lo\n']
)
def test_damage_within_metrics_deletes_nothing(tmp_path, damage):
    tiny.fit(tmp_path, 20)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], damage, *lines[3:]]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*lines that cannot be read")
        run = tiny.fit(tmp_path, 21)
        assert run.metrics["step"].tolist() == list(range(1, 22))
        assert train.read_run(tmp_path)[0]["step"].tolist() == list(range(1, 22))
    assert path.read_bytes().splitlines(keepends=True)[:21] == [*lines[:3], damage, *lines[3:]]
    if damage.strip():
        with pytest.warns(UserWarning, match=r"cannot be read, .*: 1, the first of them line 4\."):
            train.read_run(tmp_path)


def test_a_line_that_was_lost_is_missed_and_one_without_an_end_is_read(tmp_path):
    tiny.fit(tmp_path, 20)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], *lines[4:]]).rstrip())  # as some editors save it
    with pytest.warns(UserWarning, match="lacks the metrics of step 4, which"):
        run = tiny.fit(tmp_path, 21)
    assert run.metrics["step"].tolist() == [1, 2, 3, *range(5, 22)]


def test_lines_of_two_runs_are_told_apart_by_their_steps(tmp_path):
    """As two runs at once once left them."""
    tiny.fit(tmp_path, 10)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    late = [line.replace(b'"step": 9', b'"step": 11') for line in lines[8:9]]
    path.write_bytes(b"".join([*lines[:5], *late, *lines[2:]]))
    assert tiny.fit(tmp_path, 12).metrics["step"].tolist() == list(range(1, 13))
