"""Keys and arguments that are paths: declared by their type, ``~`` replaced in one place.

A key is a path if its type is `PathText`, `OptionalPath`, `SourceText`, `OptionalSource` or
`EncoderSpec`:
`load_recipe` replaces ``~`` and ``~user`` at its start once. What a program passes on is absolute,
or begins with ``./``.
"""

import dataclasses
import os
import re
import shlex
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from dinoforge.config.ranges import Allowed, unwrap_type
from dinoforge.remote import is_url
from dinoforge.remote.urls import local_path

__all__ = [
    "EncoderSpec",
    "OptionalPath",
    "OptionalSource",
    "PathText",
    "SourceText",
    "expand_home",
    "expand_paths",
    "plain_path",
    "quote_path",
    "read_path",
    "read_source",
]

T = TypeVar("T")

_NO_BYTES = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # no name of a file holds these
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# NAME=checkpoint:FILE; a name has no colon.
_KINDS = r"checkpoint:|hf:|torchscript:|onnx:|stored:|phash:|timm:[^@]*@"
_FILE_SPEC = re.compile(rf"((?:[^:=]*=)?(?:{_KINDS}))(.*)", re.DOTALL)


def expand_home(path: str) -> str:
    """Replace ``~`` or ``~user`` at the start of a path, as the shell does."""
    return os.path.expanduser(path)  # noqa: PTH111 - keeps `./`, which marks a literal `~`


def plain_path(path: Path) -> str:
    """Return a path as text that is neither expanded nor read as an option."""
    return f"./{path}" if str(path).startswith(("~", "-")) else str(path)


def quote_path(path: Path) -> str:
    """Quote a path for a command that a person copies from a message."""
    return shlex.quote(plain_path(path))


def _is_path(path: str) -> bool:
    if _NO_BYTES.search(path) or _URL.match(path):
        return False
    return not path.startswith("~") or os.path.lexists(path)  # `~name` without such a user


def _file_of(spec: str) -> str:
    match = _FILE_SPEC.fullmatch(spec)
    return match[2] if match else ""


def _expand_spec(spec: str) -> str:
    match = _FILE_SPEC.fullmatch(spec)
    return match[1] + expand_home(match[2]) if match else spec


@dataclass(frozen=True)
class _PathRule(Allowed):
    """Which paths a key admits, and how ``~`` in it is replaced."""

    expand: Callable[[str], str]
    is_path: ClassVar[bool] = True


def _source(path: str) -> str:
    return local_path(expand_home(path))


_TEXT = "a path on this machine; for a name that begins with ~ write ./~"

# An empty one, such as $OUT of a shell that does not have it, would be the working folder.
PathText = Annotated[str, _PathRule(lambda path: path and _is_path(path), _TEXT, expand_home)]
OptionalPath = Annotated[str, _PathRule(_is_path, _TEXT, expand_home)]  # "": none
# Where images are: a path, or a URL that `url_fault` checks; ``file:///x`` becomes its path.
SourceText = Annotated[
    str,
    _PathRule(
        lambda path: path and (is_url(path) or _is_path(path)), f"a URL, or {_TEXT}", _source
    ),
]
OptionalSource = Annotated[  # "": none
    str, _PathRule(lambda path: is_url(path) or _is_path(path), f"a URL, or {_TEXT}", _source)
]
# An encoder, which may be a file: ``checkpoint:FILE``.
EncoderSpec = Annotated[
    str, _PathRule(lambda spec: _is_path(_file_of(spec)), f"an encoder, or {_TEXT}", _expand_spec)
]


def expand_paths(value: T, hint: Any = None) -> T:
    """Replace ``~`` in all paths of a config, or of a value whose declared type is ``hint``."""
    hint, rules = unwrap_type(hint)
    inner = typing.get_args(hint) or (None,)
    changed: Any = value
    if isinstance(value, str):
        for rule in rules:
            changed = rule.expand(changed) if isinstance(rule, _PathRule) else changed
    elif isinstance(value, list):
        changed = [expand_paths(part, inner[0]) for part in value]
    elif isinstance(value, dict):
        changed = {key: expand_paths(part, inner[-1]) for key, part in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value), include_extras=True)
        parts = {name: expand_paths(part, hints[name]) for name, part in vars(value).items()}
        changed = dataclasses.replace(value, **parts)
    return typing.cast("T", changed)


def read_source(path: str) -> str:
    """Return a path or URL as `load_recipe` reads that of images; raises like `read_path`."""
    return local_path(path) if is_url(path) else read_path(path)


def read_path(path: str) -> str:
    """Return a path as `load_recipe` reads that of a key; raises `ValueError` if it is none."""
    if not path or not _is_path(expanded := expand_home(path)):
        raise ValueError(f"give {_TEXT}, not {path!r}")
    return expanded
