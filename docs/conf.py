"""Sphinx's settings; `sphinx-build -W -b html docs build/docs` makes the site and fails on a dead reference."""

project = "Sunflower"
author = "the Sunflower contributors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = "Sunflower"
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nitpicky = True
linkcheck_ignore = [r"https?://(HOST|head|localhost)\b.*"]
