"""Embed the images behind some paths with one encoder, for ``dinoforge embed``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dinoforge.config.ranges import Device
from dinoforge.encoders.encoder import Encoder
from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError
from dinoforge.files import write_array
from dinoforge.images import DecodePolicy, Undecodable
from dinoforge.progress import Progress
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import name_undecodable, write_problems
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import LISTING_SCHEMA
from dinoforge.tables import write_table

__all__ = ["EmbedConfig", "EmbeddingSummary", "embed_images"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What ``dinoforge embed`` checks as a recipe is checked."""

    device: Device = "cpu"
    decode: DecodePolicy = field(default_factory=DecodePolicy)


# One row per input image; ``row`` is its row in the array of vectors, -1: undecodable.
ROWS_SCHEMA = pa.schema([("row", pa.int64()), *LISTING_SCHEMA, ("problem", pa.string())])


@dataclass(frozen=True)
class EmbeddingSummary:
    """Paths and counts of the vectors."""

    embeddings: str  # path of the .npy: float32 [num_rows, dim]
    rows: str  # path of the .parquet
    num_rows: int
    num_embedded: int
    num_bad: int
    dim: int
    encoder: str
    fingerprint: str  # of weights, transform and decoder
    sources: dict[str, Any]  # see `Account`


def embed_images(
    paths: Sequence[str],
    *,
    encoder: str,
    out: Path,
    batch_size: int = 64,
    device: str = "cpu",
    decode: DecodePolicy | None = None,
) -> EmbeddingSummary:
    """Embed every image behind ``paths`` (`discover_files`) that decodes.

    ``out`` gets ``embeddings.npy`` (unit rows, except for ``pixels_raw``) and ``rows.parquet``.
    ``batch_size`` counts the images per call of the encoder; see `make_encoder` for the rest.

    Raises
    ------
    UsageError
        For bad paths, encoder or device, or if no image can be decoded.
    """
    if batch_size < 1:
        raise UsageError(what=f"batch size {batch_size}", where="--batch-size", do="give 1 or more")
    images = open_images(paths, cache=out / "cache", policy=decode)
    network = make_encoder(encoder, device=device)
    problems: list[str | None] = [None] * len(images)
    parts = list(_vectors(images, network, batch_size, problems))
    account = images.account(undecodable=sum(problem is not None for problem in problems))
    record_facts(out, sources=account.as_json())
    account.log()
    reasons = {at: problem for at, problem in enumerate(problems) if problem is not None}
    write_problems(out, [*images.problems, *name_undecodable(images.table, reasons)])
    if not parts:
        raise UsageError(
            what=f"none of the {len(images)} images can be decoded ({problems[0]})",
            where=", ".join(paths),
            do="check that the paths contain images",
        )
    vectors = np.concatenate(parts)
    good = np.array([problem is None for problem in problems])
    rows = np.where(good, np.cumsum(good) - 1, -1)
    table = images.table.append_column("row", pa.array(rows))
    table = table.append_column("problem", pa.array(problems, pa.string()))
    write_array(out / "embeddings.npy", vectors)
    notes = {"encoder": network.name, "fingerprint": network.fingerprint}
    write_table(out / "rows.parquet", table, ROWS_SCHEMA, metadata=notes)
    return EmbeddingSummary(
        embeddings=str(out / "embeddings.npy"),
        rows=str(out / "rows.parquet"),
        num_rows=len(vectors),
        num_embedded=len(vectors),
        num_bad=len(images) - len(vectors),
        dim=vectors.shape[1],
        encoder=network.name,
        fingerprint=network.fingerprint,
        sources=account.as_json(),
    )


def _vectors(
    images: ImageSet, encoder: Encoder, batch_size: int, problems: list[str | None]
) -> Iterator[np.ndarray]:
    """Yield the vectors of decodable images; store why the others are not in ``problems``."""
    with Progress(len(images), unit="images", label="embed") as progress:
        for start in range(0, len(images), batch_size):
            batch = []
            for index in range(start, min(start + batch_size, len(images))):
                try:
                    batch.append(images.decode(index))
                except Undecodable as bad:
                    problems[index] = str(bad)
            if batch:
                yield encoder.encode(batch)
            progress.advance(min(batch_size, len(images) - start))
