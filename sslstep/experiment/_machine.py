"""What results and timings were made by: processor, devices, and the version of this code.

Claims may hold on one processor and fail on another, so results say which it was.
"""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import jax

UNKNOWN = "unknown"

# Whose versions results tell.
PACKAGES = ("sslstep", "jax", "jaxlib", "flax", "optax", "neural-tangents", "numpy")
# Of sslstep, whose packages compute or read what results are made from.
EXTRAS = ("images", "infinite", "tfds")
ROOT = Path(__file__).parents[2]
CPUINFO = Path("/proc/cpuinfo")


def host() -> str:
    """The processor, and how many cores there are."""
    return f"{_cpu()}, {platform.machine()}, {os.cpu_count()} cores"


def _cpu() -> str:
    """In virtual machines a name may be no more than "AMD EPYC": numbers tell generations apart."""
    info = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    pairs = [line.partition(":") for line in info.split("\n\n")[0].splitlines()]
    first = {key.strip(): value.strip() for key, _, value in pairs}  # of the cores
    name = first.get("model name") or platform.processor() or UNKNOWN
    numbers = [f"{key} {first[key]}" for key in ("cpu family", "model") if key in first]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def devices() -> str:
    """JAX's; whoever asks takes hold of a GPU."""
    return ", ".join(f"{d.device_kind} ({d.platform})" for d in jax.devices())


def short() -> str:
    """In one line."""
    return f"JAX {jax.__version__} on {devices()}, Python {platform.python_version()}"


def about() -> dict[str, str]:
    """The processor, JAX's devices, versions and the commit: what results and runs carry."""
    return {
        "device": devices(),
        "host": host(),
        "Python": platform.python_version(),
        **versions(*PACKAGES),
        "commit": commit(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of packages, without those that are not installed."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def required() -> list[str]:
    """The packages that results may depend on: sslstep's own, and JAX's for accelerators."""
    names = {dist.name for dist in metadata.distributions()}
    found = sorted(name for name in names if name.startswith(("jax-", "libtpu", "nvidia-")))
    with suppress(metadata.PackageNotFoundError):  # a copy that is not installed
        for line in metadata.requires("sslstep") or []:
            extra = re.search(r'extra == "(\w+)"', line)
            if extra is None or extra[1] in EXTRAS:
                found.append(re.split(r"[^\w-]", line)[0])
    return found


def commit() -> str:
    """Of this checkout, and whether it has changes; unknown of a copy without git."""
    if not (ROOT / ".git").exists():  # git would name a repository around it
        return UNKNOWN
    found = output("git", "rev-parse", "--short", "HEAD")
    # Without locks, as somebody may be at work in the checkout.
    status = ("git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return found if output(*status) in ("", UNKNOWN) else f"{found}, and changes"


def output(*command: str) -> str:
    """What a command prints, started in this checkout; unknown if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()


if __name__ == "__main__":
    print(devices())
