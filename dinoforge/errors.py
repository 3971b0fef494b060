"""Errors that a person reads, and the exit codes that a scheduler reads.

DinoforgeError
├── UsageError    exit 2   the user can mend it: one line, what - where - what to do
├── Interrupted   exit 75  stopped with work left and nothing lost: start the same command again
├── RankLost      exit 76  another rank is gone, for whatever reason: start the same command again
└── RankStopped   exit 1   one of several ranks, because of another, which tells why and its code

Everything else that escapes is a defect of ours: traceback, exit 1.
Not for: bad samples. Those are counted by reason and kept in the ledger, never raised to the top.
"""

from collections.abc import Sequence
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
]


class DinoforgeError(Exception):
    """Base of the errors that end a command without a traceback."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, where, and what to do about it."""

    what: str
    where: str
    do: str

    def __str__(self) -> str:
        return f"{self.what} - {self.where} - {self.do}"


class UsageError(DinoforgeError):
    """What the user can mend; holds every fault found, not only the first.

    Parameters
    ----------
    what, where, do : str
        The single fault in three parts: lower case, no full stop.
    faults : sequence of Fault
        Several faults at once, instead of the three parts.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        *,
        what: str = "",
        where: str = "",
        do: str = "",
        faults: Sequence[Fault] = (),
    ) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults) or (Fault(what, where, do),)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[object, ...]:
        # Workers send errors to the driver by pickle, which would lose keyword-only arguments.
        return (_blank_usage_error, (), {"faults": self.faults, "args": self.args})


def cannot_write(place: object, error: OSError) -> UsageError:
    """Return the one way to say that the system refused to write at ``place``."""
    return UsageError(
        what=f"cannot write: {error.strerror or error}",
        where=str(place),
        do="free space there or choose another folder with out=FOLDER",
    )


def _blank_usage_error() -> UsageError:
    return UsageError.__new__(UsageError)


class Interrupted(DinoforgeError):  # noqa: N818 - it is not an error
    """The run stopped with work left (signal, time limit); the same command goes on from here."""

    exit_code: ClassVar[int] = 75


class RankLost(DinoforgeError):  # noqa: N818 - the error is on another rank
    """Another of several ranks is gone; the same command goes on from the newest checkpoint.

    Parameters
    ----------
    who : str
        "rank 3 of 16", and what ended it if that is known.
    """

    exit_code: ClassVar[int] = 76

    def __init__(self, who: str) -> None:
        super().__init__(
            f"{who} - the other ranks were ended - start the same command again: it goes on from "
            "the newest checkpoint"
        )


class RankStopped(DinoforgeError):  # noqa: N818 - the error is on another rank
    """One of several ranks ends because another one does, which tells why; prints nothing.

    Parameters
    ----------
    exit_code : int
        Of the rank that tells.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code  # type: ignore[misc]
