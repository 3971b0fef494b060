"""Member names of WebDataset tars: key, extension, which member is the image."""

from collections.abc import Iterable
from dataclasses import dataclass

from dinoforge.images import IMAGE_SUFFIXES

__all__ = ["MemberName", "image_extension", "readable", "split_member_name"]

_RANK = {suffix: rank for rank, suffix in enumerate(IMAGE_SUFFIXES)}


@dataclass(frozen=True)
class MemberName:
    """``folder/stem`` and everything after the first dot of the base name, in lower case."""

    key: str
    extension: str
    is_safe: bool  # False: an absolute name, or one with `..`


def split_member_name(name: str) -> MemberName | None:
    """Split at the first dot of the base name; None without a key or an extension.

    Empty, ``.`` and ``..`` parts of the folder are dropped, so that a key never leaves the
    folder that something named by it is written to.
    """
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return None
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    is_safe = not name.startswith("/") and ".." not in folder.split("/")
    return MemberName("/".join([*parts, stem]), extension.lower(), is_safe)


def image_extension(extensions: Iterable[str]) -> str | None:
    """Choose the image among the members of one sample; None if there is none.

    Plain extensions go before dotted ones (``jpg`` before ``seg.png``), then by the order of
    `IMAGE_SUFFIXES`, which puts photographs' formats first.
    """
    candidates = [
        (extension.count("."), _RANK[extension.rpartition(".")[2]], extension)
        for extension in extensions
        if extension.rpartition(".")[2] in _RANK
    ]
    return min(candidates)[2] if candidates else None


def readable(name: bytes) -> str:
    r"""Decode a file or member name; bytes that are no UTF-8 become ``\xNN``."""
    return name.decode("utf-8", "backslashreplace")
