"""Fill templates: autoescaped unless Markdown, strict about missing values, one file each."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from dinoforge.errors import printable
from dinoforge.pages.formatting import (
    bytes_size,
    count,
    counted,
    duration,
    percent,
    points,
    significant,
)

__all__ = ["render"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(template: str, *, folder: Path | None = None, **values: Any) -> str:
    """Render a template, looked up in ``folder`` first, then among those of this package.

    Templates in ``folder`` may extend ``page.html`` and import ``pictures.html``. ``values`` are
    their variables; a missing one raises ``jinja2.UndefinedError``.
    """
    page = _environment(folder).get_template(template).render(**values)
    # Names of files may have bytes that are not UTF-8.
    return _SURROGATE.sub(lambda match: printable(match[0]), page)


@cache
def _environment(folder: Path | None) -> jinja2.Environment:
    folders = [str(f) for f in (folder, _TEMPLATES) if f is not None]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=jinja2.select_autoescape(disabled_extensions=("md",), default=True),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (bytes_size, count, counted, duration, percent, points, significant)
    environment.filters |= {function.__name__: function for function in filters}
    return environment
