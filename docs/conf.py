"""Settings of the site; `make docs` builds it into docs/_build, without network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import dinoforge  # noqa: E402 - from this checkout

project = "dinoforge"
author = "The dinoforge authors"
version = release = dinoforge.__version__

extensions = ["myst_parser", "site_pages"]
source_suffix = {".md": "markdown", ".py": "markdown"}  # notebooks are text; see `site_pages`
exclude_patterns = ["_build", "_ext", "conf.py"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nitpicky = True
toc_object_entries = False  # hundreds of keys
suppress_warnings = ["myst.header"]  # included files begin below their title
smartquotes = False  # `--` begins options
highlight_language = "none"

html_theme = "furo"
html_title = "dinoforge"
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_ext/static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "_ext/scorer.js")
