"""A ResNet of PyTorch, trained, recorded and diagnosed as the documentation has it."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from sslstep import diagnose, measure, train
from sslstep.measure import spectrum


def test_a_resnet_of_pytorch(tmp_path, plain_blocks, monkeypatch):
    """The same numbers as from NumPy and JAX, of the same embeddings."""
    torch = pytest.importorskip("torch")
    (code,) = plain_blocks("howto/watch.md")
    seen = []
    record = train.Recorder.record

    def kept(self, step, z, z_prime, *, h, h_prime):
        seen.append([part.numpy().copy() for part in (z, z_prime, h, h_prime)])
        return record(self, step, z, z_prime, h=h, h_prime=h_prime)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.Recorder, "record", kept)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exec(code, {})
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 31
    case = diagnose.of_run("runs/torch", method="barlow_twins")
    for name, ours, theirs in (
        ("correlation", lambda z, p, *_: spectrum.correlation_eigenvalues(z, p), correlation),
        (
            "covariance",
            lambda z, p, *_: spectrum.covariance_eigenvalues(jnp.concatenate([z, p])),
            lambda z, p, *_: covariance(z, p),
        ),
        (
            "hidden",
            lambda *parts: spectrum.covariance_eigenvalues(jnp.concatenate(parts[2:])),
            lambda *parts: covariance(*parts[2:]),
        ),
    ):
        for function, kind in ((ours, np.float32), (theirs, float)):
            found = np.array([function(*(part.astype(kind) for part in parts)) for parts in seen])
            # Eigenvalues are good to some eps of the largest: 2e-6 is 17 of float32.
            largest = found[:, :1]
            np.testing.assert_allclose(case.records[name] / largest, found / largest, atol=2e-6)
        if name == "correlation":
            eigenvalues = found
    # Dimensions are learned one at a time, as theory has it, and the diagnosis is that of float64.
    found = case.diagnosis
    direct = measure.diagnose(np.arange(0, 151, 5), eigenvalues, method="barlow_twins")
    assert found.learned.sum() >= 2
    assert found.alone[found.learned].all()
    for name in ("learned", "alone", "collapsed", "rising"):
        np.testing.assert_array_equal(getattr(found, name), getattr(direct, name))
    np.testing.assert_allclose(found.rises.middle, direct.rises.middle, rtol=1e-4)
    assert found.next_step.time == pytest.approx(direct.next_step.time, rel=1e-2)
    assert [rest.agrees for rest in found.rests][:2] == [True, True]
    assert os.path.exists("runs/torch/metrics.jsonl")


def correlation(z, z_prime, *_):
    c = z.T @ z_prime / len(z)
    return np.linalg.eigvalsh((c + c.T) / 2)[::-1]


def covariance(*views):
    return np.linalg.eigvalsh(np.cov(np.concatenate(views).T, bias=True))[::-1]
