"""Settings of the documentation site: `make docs` builds it, warnings are errors."""

import sys
from pathlib import Path

import ghostify

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "ghostify"
author = "the authors of ghostify"
release = version = ghostify.__version__.partition("+")[0]

extensions = [
    "myst_parser",  # the pages are Markdown
    "sphinx.ext.autodoc",  # the reference, from the docstrings
    "sphinx.ext.napoleon",  # which have Google's sections
    "sphinx.ext.doctest",  # their examples and those of the pages run
    "verbs",  # the command line, from its own help: _ext/verbs.py
    "schemes",  # plots by the reader's scheme, light or dark
    "sphinx_copybutton",  # a button that copies a command
]

smartquotes = False  # two dashes are an option

html_theme = "furo"
html_title = f"ghostify {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the changelog is ordered by what changed, not by depth

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 60
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]

# Names that a docstring's module has, and a reader of the reference is told of.
doctest_global_setup = """
import torch
from torch import nn
from ghostify import *
from ghostify.changes import *
from ghostify.jobs.evaluate import Score
from ghostify.measure.latency import summarise
"""
trim_doctest_flags = True

linkcheck_timeout = 20
linkcheck_retries = 2
