"""How neural_tangents gets imported: whatever it needs for that is gone afterwards."""

import subprocess
import sys
import types

import jax
import jax.experimental
import jax.extend.core
import pytest

from sslstep.ntk import _neural_tangents


def succeed(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_nothing_is_left_in_jax_and_no_tensorflow():
    """Importing `infinite` imports none of it; loading it leaves JAX as it was."""
    assert succeed("""
import sys, types, jax, jax.core, jax.extend.core, jax.interpreters.ad
def state():
    # Submodules of JAX become attributes of it when they are imported, by whomever.
    names = {(m, k, id(v)) for m in (jax, jax.core, jax.extend.core, jax.interpreters.ad)
             for k, v in vars(m).items() if not isinstance(v, types.ModuleType)}
    return names, str(jax.config.values)
before = state()
from sslstep.ntk import _neural_tangents, infinite
infinite.mlp()
print("neural_tangents" in sys.modules)
nt = _neural_tangents.load_neural_tangents()
print(state() == before, "jax.util" in sys.modules, hasattr(jax, "util"))
again = _neural_tangents.load_neural_tangents()
print(nt is again is sys.modules["neural_tangents"], hasattr(nt.stax, "Relu"))
print("tensorflow" in sys.modules, "neural_tangents.experimental" in sys.modules)
""").split("\n") == ["False", "True False False", "True True", "False False"]


@pytest.mark.slow
def test_a_failed_import_by_the_user_does_no_harm():
    """It does not import unaided: once it does, most of the module under test is not needed."""
    unaided, *said = succeed("""
import sys, jax.numpy as jnp
try:
    import neural_tangents
    print("unaided")
except Exception:
    print("fails")
    print(any(name.startswith("neural_tangents.") for name in sys.modules))
from sslstep.ntk import infinite
print(infinite.mlp()(jnp.ones((1, 2))))
""").split("\n")
    assert unaided == "fails", "neural_tangents imports unaided now: delete the shims"
    assert said == ["True", "[[4.]]"]


@pytest.fixture
def unloaded(monkeypatch):
    """An interpreter that has not imported neural_tangents; what it had returns afterwards."""
    for name in [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)
    _neural_tangents.load_neural_tangents.cache_clear()
    before = set(vars(jax.core))
    yield
    assert set(vars(jax.core)) == before  # what was lent before a failure is taken back too
    assert "jax.util" not in sys.modules
    _neural_tangents.load_neural_tangents.cache_clear()


def test_the_users_own_import_is_used(unloaded, monkeypatch):
    own = types.ModuleType("neural_tangents")
    monkeypatch.setitem(sys.modules, "neural_tangents", own)
    assert _neural_tangents.load_neural_tangents() is own


def hidden(module: types.ModuleType, missing: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{k: v for k, v in vars(module).items() if k != missing})


def test_a_jax_that_does_not_fit_is_named(unloaded, monkeypatch):
    """As of a JAX that has also dropped what we lend."""
    monkeypatch.setattr(jax.extend, "core", hidden(jax.extend.core, "Literal"))
    version = jax.__version__.replace(".", r"\.")
    with pytest.raises(ImportError, match=rf"neural_tangents 0\..*JAX {version}.*Literal"):
        _neural_tangents.load_neural_tangents()


def test_an_import_that_fails_half_way_leaves_nothing(unloaded, monkeypatch):
    # So that its import of this module fails, whether or not something has imported it before.
    monkeypatch.setitem(sys.modules, "jax.experimental.ode", None)
    monkeypatch.delattr(jax.experimental, "ode", raising=False)
    with pytest.raises(ImportError, match=r"does not import on JAX.*jax\.experimental\.ode"):
        _neural_tangents.load_neural_tangents()
    assert not any(name.startswith("neural_tangents") for name in sys.modules)
