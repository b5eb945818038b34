"""Packages that sslstep uses and does not install by default."""

from importlib.util import find_spec


def require(*packages: str, by: str, extra: str) -> None:
    """Raise an error that names the extra if one of the packages is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{by} needs {package}, which is not installed: pip install 'sslstep[{extra}]', or "
                f"in a checkout pip install '.[{extra}]'.",
                name=package,
            )
