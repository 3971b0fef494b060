"""Errors for people to read, and exit codes for schedulers to read.

DinoforgeError
├── UsageError    exit 2   the user can fix it: one line, what - where - what to do
├── Interrupted   exit 75  stopped before the end, nothing is lost: start the same command again
├── RankLost      exit 76  another rank is gone, cause unknown: start the same command again
└── RankStopped   exit 1   stopped because of another rank, which reports why; its exit code

Any other exception is a bug: traceback, exit 1.
Not for: bad samples. Those are counted by reason and recorded in the ledger, never raised.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "DinoforgeError",
    "Fault",
    "Interrupted",
    "RankLost",
    "RankStopped",
    "UsageError",
    "cannot_write",
    "damaged",
    "first_line",
    "printable",
    "some_of",
]

# Colors, and objects by their address, as in `file <_io.BytesIO object at 0x7f...>`.
_NOISE = re.compile(r"\x1b\[[0-9;]*m| ?<[^<>]* at 0x[0-9a-f]+>")


def first_line(error: BaseException) -> str:
    """Return the first line of an error of another library: plain text, without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = _NOISE.sub("", str(error)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def printable(text: str) -> str:
    r"""Make text fit one line of a terminal: ``\n`` for a line break, ``\xNN`` for other bytes."""
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def some_of(values: Iterable[object], limit: int = 4) -> str:
    """List the first values for a message: ``a, b, c, d, ...``."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")


class DinoforgeError(Exception):
    """Base of the errors that end a command without a traceback."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, where, and what to do about it: lower case, no full stop."""

    what: str
    where: str
    do: str

    def __str__(self) -> str:
        return printable(f"{self.what} - {self.where} - {self.do}")


class UsageError(DinoforgeError):
    """Something that the user can fix: a fault in three parts, or several ``faults`` at once."""

    exit_code: ClassVar[int] = 2

    def __init__(
        self, *, what: str = "", where: str = "", do: str = "", faults: Sequence[Fault] = ()
    ) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults) or (Fault(what, where, do),)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes pickle errors, which by default loses keyword-only arguments.
        return functools.partial(UsageError, faults=self.faults), ()


def cannot_write(place: object, error: OSError) -> UsageError:
    """Return the error for a failed write to ``place``."""
    return UsageError(
        what=f"cannot write: {error.strerror or error}",
        where=str(place),
        do="free space there or choose another folder",
    )


def damaged(place: object, error: Exception, *, kind: str = "file") -> UsageError:
    """Return the error for a file of a run that cannot be read."""
    do = "rerun the command that wrote it"
    return UsageError(what=f"{kind} unreadable: {first_line(error)}", where=str(place), do=do)


class Interrupted(DinoforgeError):  # noqa: N818 - it is not an error
    """A signal or a time limit stopped the run; the same command resumes it."""

    exit_code: ClassVar[int] = 75


class RankLost(DinoforgeError):  # noqa: N818 - the error is on another rank
    """Another rank is gone; the same command resumes from the newest checkpoint.

    ``who`` is "rank 3 of 16", and what ended it if that is known.
    """

    exit_code: ClassVar[int] = 76

    def __init__(self, who: str) -> None:
        super().__init__(
            f"{who} - the other ranks were stopped - start the same command again to resume from "
            "the newest checkpoint"
        )


class RankStopped(DinoforgeError):  # noqa: N818 - the error is on another rank
    """A rank stops because of another one, which reports why; exits with its code, silently."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code  # type: ignore[misc]
