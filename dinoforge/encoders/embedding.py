"""Embed the images behind some paths with one encoder, for ``dinoforge embed``."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.config.ranges import Device, Precision, Workers
from dinoforge.encoders.encoder import Encoder
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.stream import Rate, Work, describe_rates, encode_images, num_workers
from dinoforge.errors import UsageError
from dinoforge.files import (
    hash_json,
    path_of_text,
    read_object,
    write_array,
    write_atomic,
    write_json,
)
from dinoforge.images import DecodePolicy, Undecodable
from dinoforge.progress import Progress
from dinoforge.remote import is_url
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import name_undecodable, write_problems
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import LISTING_SCHEMA
from dinoforge.sources.outputs import mark_cache
from dinoforge.tables import read_table, write_table

__all__ = ["EmbedConfig", "EmbeddingSummary", "embed_images"]

_log = logging.getLogger(__name__)

_MADE = ("embeddings.npy", "rows.parquet")
_MARK = "embedded.json"
_PIECE = 4096  # images after which what is done is kept: a kill costs no more than these


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What ``dinoforge embed`` checks as a recipe is checked."""

    device: Device = "cpu"
    workers: Workers = "auto"
    precision: Precision = "float32"
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
    config: EmbedConfig | None = None,
) -> EmbeddingSummary:
    """Embed every image behind ``paths`` (`discover_files`) that decodes.

    ``out`` gets ``embeddings.npy`` (unit rows, except for ``pixels_raw``) and ``rows.parquet``.
    ``batch_size`` counts the images per call of the encoder; see `make_encoder` for the rest. A
    call that was interrupted is resumed behind its last 4,096 images or so; one that ended with the
    same images and settings is not repeated.

    Raises
    ------
    UsageError
        For bad paths, encoder or device, or if no image can be decoded.
    """
    if batch_size < 1:
        raise UsageError(what=f"batch size {batch_size}", where="--batch-size", do="give 1 or more")
    config = config or EmbedConfig()
    images = open_images(paths, cache=out / "cache", policy=config.decode)
    network = make_encoder(encoder, device=config.device, precision=config.precision)
    pieces = _Pieces(out, images, network, batch_size, config)
    problems = pieces.complete()
    speed = pieces.rate.as_json()
    account = images.account(undecodable=sum(problem is not None for problem in problems))
    record_facts(out, sources=account.as_json(), speed=speed)
    _log.info("%s", describe_rates([speed]) or "all embedded before")
    account.log()
    reasons = {at: problem for at, problem in enumerate(problems) if problem is not None}
    write_problems(out, [*images.problems, *name_undecodable(images.table, reasons)])
    good = np.array([problem is None for problem in problems])
    if not good.any():
        raise UsageError(
            what=f"none of the {len(images)} images can be decoded ({problems[0]})",
            where=", ".join(paths),
            do="check that the paths contain images",
        )
    rows = np.where(good, np.cumsum(good) - 1, -1)
    table = images.table.append_column("row", pa.array(rows))
    table = table.append_column("problem", pa.array(problems, pa.string()))
    num_rows = int(good.sum())
    pieces.join(num_rows)
    notes = {"encoder": network.name, "fingerprint": network.fingerprint}
    write_table(out / "rows.parquet", table, ROWS_SCHEMA, metadata=notes)
    pieces.finish()
    return EmbeddingSummary(
        embeddings=str(out / "embeddings.npy"),
        rows=str(out / "rows.parquet"),
        num_rows=num_rows,
        num_embedded=num_rows,
        num_bad=len(images) - num_rows,
        dim=network.dim,
        encoder=network.name,
        fingerprint=network.fingerprint,
        sources=account.as_json(),
    )


class _Pieces:
    """Vectors of some thousand images per file, kept until all are done.

    A piece is ``00012.json``, why images do not decode, then ``00012.npy``, which proves it.
    """

    def __init__(
        self, out: Path, images: ImageSet, encoder: Encoder, batch_size: int, config: EmbedConfig
    ) -> None:
        self._images, self._encoder = images, encoder
        self._batch_size, self._workers = batch_size, num_workers(config.workers)
        self.rate = Rate()
        size = -(-_PIECE // batch_size) * batch_size
        self._starts = range(0, len(images), size)
        kept = [encoder.fingerprint, config.device, batch_size, asdict(config.decode)]
        key = hash_json([*kept, _identity(images.table)])[:16]
        mark_cache(out / "cache")
        self._out = out
        self._mark = {"key": key}  # of a call that ended
        self._folder = out / "cache" / f"embedded-{key}"
        for other in (out / "cache").glob("embedded-*"):
            if other != self._folder:
                shutil.rmtree(other)
        self._folder.mkdir(exist_ok=True)

    def complete(self) -> list[str | None]:
        """Make the pieces that are missing; return why each image does not decode, or None."""
        if (ended := self._ended()) is not None:
            return ended
        num, problems = len(self._images), list[str | None]()
        with Progress(num, unit="images", label="embed") as progress:
            for number, start in enumerate(self._starts):
                some = range(start, min(start + self._starts.step, num))
                known = self._read(number, len(some))
                if known is not None:
                    progress.advance(len(some))
                problems += self._make(number, some, progress) if known is None else known
        return problems

    def _ended(self) -> list[str | None] | None:
        """Return what `complete` did if an earlier call ended with these pieces."""
        mark, made = self._out / "cache" / _MARK, [self._out / name for name in _MADE]
        if read_object(mark) == self._mark and all(path.exists() for path in made):
            problems: list[str | None] = read_table(made[1], ["problem"])["problem"].to_pylist()
            return problems
        mark.unlink(missing_ok=True)
        return None

    def join(self, num_rows: int) -> None:
        """Write the vectors of all pieces, which are never in memory at the same time.

        Unless an earlier call did: it left its mark.
        """
        if self._ended() is not None:
            return

        def write(file: BinaryIO) -> None:
            shape = (num_rows, self._encoder.dim)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(SimpleNamespace(write=file.write), header)
            paths = (self._path(number, "npy") for number in range(len(self._starts)))
            file.writelines(np.load(path).tobytes() for path in paths)

        write_atomic(self._out / _MADE[0], write)

    def finish(self) -> None:
        """Remove the pieces, after a mark that they were joined."""
        write_json(self._out / "cache" / _MARK, self._mark)
        shutil.rmtree(self._folder)

    def _make(self, number: int, some: range, progress: Progress) -> list[str | None]:
        problems: dict[int, str] = {}

        def load(item: tuple[int, Callable[[], NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
            index, decode = item
            try:
                return [decode()]
            except Undecodable as bad:
                problems[index] = str(bad)
                return []

        parts = []
        for encoded in encode_images(
            Work.of(self._encoder),
            self._images.decoders_of(some),
            load,
            workers=self._workers,
            at_once=self._batch_size,
            rate=self.rate,
        ):
            parts.append(encoded.vectors)
            progress.advance(encoded.count)
        reasons = [problems.get(index) for index in some]
        write_json(self._path(number, "json"), {"problems": reasons})
        write_array(self._path(number, "npy"), np.concatenate(parts))
        return reasons

    def _read(self, number: int, count: int) -> list[str | None] | None:
        try:
            reasons: list[str | None] = read_object(self._path(number, "json"))["problems"]
            vectors = np.load(self._path(number, "npy"), mmap_mode="r")
        except (OSError, ValueError, KeyError):
            return None
        shape = (sum(reason is None for reason in reasons), self._encoder.dim)
        return reasons if len(reasons) == count and vectors.shape == shape else None

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{number:05d}.{kind}"


def _identity(table: pa.Table) -> list[Any]:
    """Return what the images are: where their bytes lie, and the state of these files."""
    columns = [table.column(name) for name in ("shard", "offset", "size")]
    digest = hashlib.sha256()
    for column in columns:
        for value in column.to_pylist():
            digest.update(f"{value}\0".encode("utf-8", "surrogatepass"))
    paths = [path_of_text(path) for path in pc.unique(columns[0]).to_pylist() if not is_url(path)]
    stats = [Path(path).stat() for path in paths if Path(path).exists()]
    return [digest.hexdigest(), [[each.st_size, each.st_mtime_ns] for each in stats]]
