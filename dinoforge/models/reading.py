"""Tensors out of weights files of any origin, without executing their code.

What is in a file decides how it is read, not its name.
"""

import contextlib
import errno
import logging
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dinoforge.errors import UsageError, printable

__all__ = ["read_names", "read_tensors"]

_log = logging.getLogger(__name__)

# Where training programs keep weights, in the order of preference.
# Averages over the training (timm, torchvision) come before its last weights, as a teacher does.
_KEYS = ("teacher", "state_dict_ema", "model_ema", "model", "state_dict", "student")

# Records that training programs save beside their weights. They are passed over, not made.
_RECORDS = re.compile(
    r"(argparse|pathlib(\._local)?|datetime|numpy(\.\w+)*|_codecs|types|enum|decimal|uuid|fractions)"
    r"\.\w+|collections\.(defaultdict|deque)"
    r"|builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|set|slice|str|tuple)"
)
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
_CONVERT = (
    "import sys, torch; "
    'f = lambda c: f(c.state_dict()) if hasattr(c, "state_dict") else c if torch.is_tensor(c) else '
    '{k: f(v) for k, v in c.items() if torch.is_tensor(v) or hasattr(v, "items") or '
    'hasattr(v, "state_dict")}; '
    'torch.save(f(torch.load(sys.argv[1], "cpu", weights_only=False)), sys.argv[2])'
)
_GIVE = "give a .safetensors or .pth file with the tensors of a ViT"
_BEGINNINGS = {
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "run git lfs pull"),
    b"<": ("a web page", "download the file itself"),
    b"\x89HDF\r\n": ("an HDF5 file", _GIVE),
    b"\x1f\x8b": ("compressed by gzip", "uncompress it"),
}


class _Record:
    """Stands for an object of a record: any arguments, no code."""

    def __new__(cls, *_args: object) -> "_Record":
        return super().__new__(cls)

    def __init__(self, *_args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# torch fills only plain dictionaries and lists.
_CONTAINERS: Mapping[str, Callable[..., object]] = {
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda *_: [],
}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a weights file without executing its code.

    Of a checkpoint, those under the first key of `_KEYS` that it has are returned, else all, with
    the keys that lead to them as prefixes. Metadata are those of safetensors; ``averaged`` names
    the key of an average that was preferred.

    Raises
    ------
    UsageError
        If the file is missing, is not a weights file, or has objects that only its code can make.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if head[8:9] == b"{":
                return _read_safetensors(file)
            _check_beginning(head, path)
            content = _read_pickle(file)
    except UsageError:
        raise
    except Exception as error:  # each library has its own errors for a bad file
        raise _explain(path, error) from error
    metadata: dict[str, str] = {}
    for key in _KEYS:
        inner = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and inner:
            content = inner
            if key == "student":
                _log.info("%s: the student's weights: there is no teacher", path)
            if key.endswith("_ema"):
                _log.info("%s: the averaged weights, %s", path, key)
                metadata = {"averaged": key}
    try:
        tensors = dict(_flatten(content)) if isinstance(content, Mapping) else {}
    except RecursionError as error:
        raise _unreadable(path, "a dictionary in it contains itself", _GIVE) from error
    if not tensors:
        keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else ""
        what = "the file has no state dict" + (f", only {keys}" if keys else "")
        raise UsageError(what=what, where=str(path), do="save model.state_dict()")
    return tensors, metadata


def read_names(path: Path) -> tuple[list[str], dict[str, str]]:
    """Read the names and metadata that `read_tensors` returns; of safetensors without tensors."""
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(OSError, SafetensorError), Path(path).open("rb") as file:
        if file.read(9)[8:] == b"{":
            with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as stored:
                return list(stored.keys()), dict(stored.metadata() or {})
    tensors, metadata = read_tensors(path)
    return list(tensors), metadata


def _check_beginning(head: bytes, path: Path) -> None:
    """Refuse what is neither a zip file nor a pickle, by its name if it is known."""
    if not head:
        raise _unreadable(path, "empty", _GIVE)
    for beginning, (what, do) in _BEGINNINGS.items():
        if head.startswith(beginning):
            raise _unreadable(path, what, do)
    if not head.startswith((b"PK", b"\x80")):
        raise _unreadable(path, f"it begins with {head[:16]!r}", _GIVE)


def _flatten(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")


def _read_safetensors(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    # The library reads no path that is not UTF-8.
    with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as tensors:
        names = list(tensors.keys())
        metadata = dict(tensors.metadata() or {})
        return {name: tensors.get_tensor(name) for name in names}, metadata


def _read_pickle(file: BinaryIO) -> Any:
    passed: list[Any] = []
    while True:
        file.seek(0)
        try:
            with torch.serialization.safe_globals(passed), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a file that cannot be read anyway
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            match = _REFUSED.search(str(error))
            name = match[1].rstrip(".") if match else ""
            name = name if "." in name else f"builtins.{name}"  # which torch leaves out
            if not _RECORDS.fullmatch(name) or any(name == known for _, known in passed):
                raise
            passed.append((_CONTAINERS.get(name, _Record), name))


def _explain(path: Path, error: Exception) -> UsageError:
    # In a file that is cut short, the reader of zip files seeks a place that is not there.
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
        return _unreadable(path, error.strerror.lower(), _GIVE)
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    command = shlex.join(["python", "-c", _CONVERT, str(path), f"{path.stem}-weights.pth"])
    convert = f"if you trust its author, convert it: {printable(command)}"
    if match := _REFUSED.search(text):
        return _unreadable(path, f"it has objects of the class {match[1].rstrip('.')}", convert)
    if "TorchScript" in text:
        return _unreadable(path, "a TorchScript program", "save the state_dict() of the model")
    if match := re.search(r"Unsupported operand|Can only|Trying to|Only persistent", text):
        what = _first_sentence(text[match.start() :])
        return _unreadable(path, f"it has more than tensors ({what})", convert)
    if re.search(r"data\.pkl|constants\.pkl|not in a subdirectory", text):
        return _unreadable(path, "a zip file, but none of torch", _GIVE)
    what = f"it is cut short or damaged ({_first_sentence(text) or 'no reason given'})"
    return _unreadable(path, what, "download or copy it again")


def _first_sentence(text: str) -> str:
    return re.split(r"[.;] |\n", text.strip(), maxsplit=1)[0].rstrip(".")


def _unreadable(path: Path, what: str, do: str) -> UsageError:
    return UsageError(what=f"weights unreadable: {what}", where=str(path), do=do)
