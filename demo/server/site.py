"""All that the server holds: networks and indexes, pictures, workers, what the operator allows."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dinoforge.demo.server.decoding import Decoder
from dinoforge.demo.server.faces import FaceGate
from dinoforge.demo.server.features import Side
from dinoforge.demo.server.heads import Head
from dinoforge.demo.server.pictures import Pictures
from dinoforge.demo.server.problems import Problem
from dinoforge.demo.server.workers import Worker

__all__ = ["MAX_UPLOADS", "Decision", "Explain", "Site"]

MAX_UPLOADS = 8  # at once: each may hold 20 MB


class Decision(NamedTuple):
    """What a curation decided about an image, and why."""

    is_kept: bool
    sentences: list[str]
    group: list[dict[str, Any]]  # of duplicates, the kept one first: key, note
    pairs: list[dict[str, Any]]  # as stored, the most similar first: key, similarity, note
    policy: dict[str, Any]  # encoder of these similarities, threshold above which a pair is one


# From the facts of an image of the index; None if the curation does not know it.
Explain = Callable[[Mapping[str, Any]], Decision | None]


@dataclass(frozen=True)
class Site:
    """One running demo."""

    sides: tuple[Side, ...]  # one, or two to compare
    gate: FaceGate  # of uploads
    collection_gate: FaceGate  # of what is shown of the collection
    inference: Worker  # runs the networks
    explain: Explain | None = None
    heads: tuple[Head, ...] = ()  # of the first network
    compute: Worker = field(default_factory=lambda: Worker("views"))  # all other work
    decoder: Decoder = field(default_factory=Decoder)
    pictures: Pictures = field(default_factory=Pictures)
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UPLOADS))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def side(self, number: int) -> Side:
        """Return a model with its index.

        Raises
        ------
        Problem
            404, if the demo was started with one model only.
        """
        if number >= len(self.sides):
            raise Problem(404, "not_found", "no second model", "start the demo with --second MODEL")
        return self.sides[number]

    async def close(self) -> None:
        """End threads and processes."""
        await self.decoder.close()
        self.inference.close()
        self.compute.close()
