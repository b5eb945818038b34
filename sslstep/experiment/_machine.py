"""Description of the machine and software that make results: processor, devices, versions, commit.

Results carry this description, because a claim may hold on one processor and fail on another.
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

# Packages whose versions results carry.
PACKAGES = ("sslstep", "jax", "jaxlib", "flax", "optax", "neural-tangents", "numpy")
# Extras of sslstep whose packages compute results or read their images.
EXTRAS = ("images", "infinite", "tfds")
ROOT = Path(__file__).parents[2]
CPUINFO = Path("/proc/cpuinfo")


def host() -> str:
    """Return the name of the processor, its architecture, and the number of cores."""
    return f"{_cpu()}, {platform.machine()}, {os.cpu_count()} cores"


def _cpu() -> str:
    """Return the processor's model name and, if known, its family and model numbers.

    In virtual machines the name may be just "AMD EPYC"; the numbers distinguish generations.
    """
    info = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    pairs = [line.partition(":") for line in info.split("\n\n")[0].splitlines()]
    first = {key.strip(): value.strip() for key, _, value in pairs}  # of the first core
    name = first.get("model name") or platform.processor() or UNKNOWN
    numbers = [f"{key} {first[key]}" for key in ("cpu family", "model") if key in first]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def devices() -> str:
    """Return the names of JAX's devices; initialises JAX, which may reserve GPU memory."""
    return ", ".join(f"{d.device_kind} ({d.platform})" for d in jax.devices())


def short() -> str:
    """Return the versions of JAX and Python and the devices in one line."""
    return f"JAX {jax.__version__} on {devices()}, Python {platform.python_version()}"


def about() -> dict[str, str]:
    """Return the processor, JAX's devices, package versions and the commit, by name."""
    return {
        "device": devices(),
        "host": host(),
        "Python": platform.python_version(),
        **versions(*PACKAGES),
        "commit": commit(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Map the installed ones of some packages to their versions."""
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def required() -> list[str]:
    """Return the packages that results may depend on: sslstep's requirements, JAX's plugins."""
    names = {dist.name for dist in metadata.distributions()}
    found = sorted(name for name in names if name.startswith(("jax-", "libtpu", "nvidia-")))
    with suppress(metadata.PackageNotFoundError):  # sslstep is not installed
        for line in metadata.requires("sslstep") or []:
            extra = re.search(r'extra == "(\w+)"', line)
            if extra is None or extra[1] in EXTRAS:
                found.append(re.split(r"[^\w-]", line)[0])
    return found


def commit() -> str:
    """Return this checkout's commit and whether it has changes; "unknown" without git."""
    if not (ROOT / ".git").exists():  # git would report an enclosing repository
        return UNKNOWN
    found = output("git", "rev-parse", "--short", "HEAD")
    # Without locks, because another process may be using the checkout.
    status = ("git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return found if output(*status) in ("", UNKNOWN) else f"{found}, and changes"


def output(*command: str) -> str:
    """Return the output of a command run in this checkout; "unknown" if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()


if __name__ == "__main__":
    print(devices())
