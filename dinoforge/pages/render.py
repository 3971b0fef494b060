"""Fill templates: autoescaped, strict about missing values, one self-contained file."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from dinoforge.pages import formatting

__all__ = ["render"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(template: str, *, folder: Path | None = None, **values: Any) -> str:
    """Render ``template`` to text.

    Parameters
    ----------
    template : str
        File name, looked up in ``folder`` first, then among the templates of this package.
    folder : Path, optional
        Templates of the caller; they may extend ``page.html`` and import ``pictures.html``.
    **values
        Variables of the template; a missing one raises ``jinja2.UndefinedError``.
    """
    return _environment(folder).get_template(template).render(**values)


@cache
def _environment(folder: Path | None) -> jinja2.Environment:
    folders = [str(f) for f in (folder, _TEMPLATES) if f is not None]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in formatting.__all__:
        environment.filters[name] = getattr(formatting, name)
    return environment
