"""Sphinx extension: puts the generated reference into its pages, and shows notebooks as pages.

A line ``<!-- generated: NAME -->`` in a page is replaced by that text of `reference_text`.
"""

import re
from collections.abc import Callable

import jupytext
from docutils import nodes
from reference_text import KEYS, TEXTS
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

__all__ = ["as_page", "fill_in", "setup"]


def fill_in(text: str) -> str:
    """Replace the lines that ask for a generated text."""
    return re.sub(
        r"^<!-- generated: (\S+) -->$", lambda line: TEXTS[line[1]](), text, flags=re.MULTILINE
    )


def as_page(notebook: str) -> str:
    """Turn a notebook in jupytext's percent format into Markdown; nothing is executed."""
    cells = jupytext.reads(notebook, fmt="py:percent").cells
    fences = {"code": "```python\n{}\n```", "markdown": "{}"}
    return "\n\n".join(fences[cell.cell_type].format(cell.source) for cell in cells)


def _read_source(_app: Sphinx, docname: str, content: list[str]) -> None:
    content[0] = (as_page if docname.startswith("notebooks/nb_") else fill_in)(content[0])


def _signature(kind: str) -> Callable[[BuildEnvironment, str, addnodes.desc_signature], str]:
    described = KEYS[kind]()

    def parse(_env: BuildEnvironment, name: str, signature: addnodes.desc_signature) -> str:
        help_ = described[name]
        signature += addnodes.desc_name(name, name)
        signature += addnodes.desc_annotation("", f": {help_.type}")
        if help_.default not in {"required", "???"}:
            signature += addnodes.desc_annotation("", f" = {help_.default or repr('')}")
        else:
            signature += nodes.emphasis("", " required")
        return name

    return parse


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the kinds of keys, and how sources are read."""
    for kind in KEYS:
        label = kind.replace("-", " ")
        app.add_object_type(kind, kind, f"single: %s ({label})", _signature(kind), objname=label)
    app.connect("source-read", _read_source)
    return {"parallel_read_safe": True}
