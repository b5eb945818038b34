"""Sphinx configuration: every example is run, and nothing is fetched."""

import os
import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

# For the kernels that run the pages' examples: this environment's Python, on CPU.
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "sslstep"
author = "the sslstep authors"
project_copyright = author
release = metadata.version("sslstep")

extensions = [
    "myst_nb",
    "sphinx-mathjax-offline",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "api_is_complete",
    "experiment_pages",
    "signatures_as_written",
]
exclude_patterns = ["_build", "benchmarks_report.md", "recorded"]  # parts of other pages
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = "sslstep"
# Code of 97 columns fits its box on a desktop.
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600

# Docstrings are reStructuredText in Google's layout; their maths is :math: and .. math::.
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the signature has them
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88

# A reference that leads nowhere is an error, except to other projects' types: their documentation
# would have to be fetched.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", name)
    for name in (
        r"(collections|diffrax|flax|jax|jaxlib|jaxtyping|jnp|linen|matplotlib|np|numpy|optax|os|pathlib|types)\..*",
        r"Array|ArrayLike|Bool|DTypeLike|Float|Int|Integer|Key|Num|PyTree|Real|Shaped|UInt8|UInt32",
        # Aliases.
        r"Activation|Arrays|Kernel|(gram\.)?KernelFn|Method|Metric|Model|Padding|Parallel|Parameterization|Pool",
        r"Any|Callable|Iterable|Iterator|Literal|Mapping|NamedTuple|Path|Sequence|SupportsIndex|TracebackType|Variables|ndarray",
    )
]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    # It copies files at the end, and does not say that several pages may be read at once.
    app.extensions["sphinx-mathjax-offline"].parallel_read_safe = True
