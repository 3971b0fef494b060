"""Read a pickle of plain values: containers, numbers, text and NumPy arrays of numbers.

A pickle is a program that may call anything. Here it finds only the few functions that build
arrays, replaced by functions of this module, so nothing in the file is executed. The ground truths
of Oxford and Paris are published as pickles only.
"""

import functools
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dinoforge.errors import UsageError, first_line
from dinoforge.files import read_regular

__all__ = ["read_plain_pickle"]

_NUMBERS = "biuf"  # kinds of dtypes: bool, signed, unsigned, float


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain values; text of Python 2 is read as Latin-1.

    Raises
    ------
    UsageError
        If the file is unreadable or damaged, or needs anything else, which is named.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        do = "give the root of the unpacked data set, complete"
        raise UsageError(what=first_line(error), where=str(path), do=do) from error
    try:
        return _plain(_PlainUnpickler(io.BytesIO(data), encoding="latin1").load())
    except Exception as error:
        # Damaged pickles raise UnpicklingError, EOFError, ValueError, KeyError and others.
        what = f"not a pickle of plain values: {first_line(error)}"
        raise UsageError(what=what, where=str(path), do="restore the published file") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        known = _BUILDERS.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        # A copy: a pickle may set attributes of what it gets.
        return functools.partial(known)


class _Dtype:
    """A dtype of numbers, complete after its state arrived."""

    def __init__(self, text: str, *_flags: object) -> None:
        self.value = np.dtype(text)
        if self.value.kind not in _NUMBERS:
            raise pickle.UnpicklingError(f"it has an array of {self.value}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in {"<", ">"}:
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array of numbers, complete after its state arrived."""

    value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _numbers(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _numbers(data: str | bytes, dtype: _Dtype) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.value).astype(dtype.value.newbyteorder("="))


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


_BUILDERS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": lambda *_args: _Array(),
    "numpy.core.multiarray.scalar": lambda dtype, data: _numbers(data, dtype)[0],
    "numpy.core.numeric._frombuffer": _from_buffer,
    "__builtin__.bytes": lambda: b"",  # how old protocols write empty data
    "_codecs.encode": lambda text, _encoding: text.encode("latin1"),
}


def _plain(value: Any) -> Any:
    """Replace the stand-ins of arrays in nested containers."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value
