"""Sphinx settings of the documentation site: `make docs` builds it without a network and fails on a broken link."""

from __future__ import annotations

project = "cps4_monai"
author = "The cps4_monai developers"
copyright = "2026, The cps4_monai developers"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "cps4_monai"
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 4
nitpicky = True
