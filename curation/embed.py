"""Embeddings of every decodable image, float16, one row an image: row == position.

Two instances of one stage: one encoder says "same picture" (duplicates, leaks), another may say
"alike in meaning" (retrieval). Rows of undecodable images are zero and must be masked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.facts import decodable_range
from dinoforge.curation.index import iter_bytes, num_images, partitions_of, read_range
from dinoforge.encoders import Encoder, make_encoder
from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.stages import Inputs, Output

__all__ = [
    "EMBED_COPIES",
    "EMBED_MEANING",
    "EmbedStage",
    "check_encoders",
    "meaning_stage",
    "read_rows",
]

# Images decoded and encoded at a time: bounds memory, and is fixed because the last bits of an
# embedding may depend on the batch it was in.
_BATCH = 64


@dataclass(frozen=True)
class EmbedStage:
    """Embed all images with one encoder."""

    name: str
    number: int
    keys: tuple[str, ...]
    for_meaning: bool = False
    version: str = "1.0.0"
    needs: tuple[str, ...] = ("ingest", "plant", "filter")

    def plan(self, inputs: Inputs) -> list[dict[str, Any]]:
        """Plan ranges of image ids; none when the encoder is not needed or is the other one's."""
        spec = self.spec(inputs.config)
        if not spec:
            return []
        # The fingerprint covers weights, transform and decoder: a replaced file runs again.
        fingerprint = _encoder(spec, inputs.config.device).fingerprint
        ranges = partitions_of(num_images(inputs), inputs.config.partition_images)
        return [{"start": a, "stop": b, "encoder": fingerprint} for a, b in ranges]

    def run(self, payload: dict[str, Any], inputs: Inputs, out: Output) -> dict[str, Any]:
        """Embed the images of one range."""
        start, stop = payload["start"], payload["stop"]
        encoder = _encoder(self.spec(inputs.config), inputs.config.device)
        decodes = decodable_range(inputs, start // inputs.config.partition_images)
        rows = read_range(inputs, start, stop, ["shard", "offset", "size"])
        rows = rows.filter(pa.array(decodes))
        embeddings = np.zeros((stop - start, encoder.dim), np.float16)
        at = np.flatnonzero(decodes)
        for low, batch in _batches(inputs, rows):
            vectors = encoder.encode(batch)
            assert np.isfinite(vectors).all(), f"{encoder.name} gave values that are not finite"
            embeddings[at[low : low + len(batch)]] = vectors
        out.write_array("embeddings", embeddings)
        return {"embedded": len(at), "dim": encoder.dim, "encoder": encoder.fingerprint}

    def spec(self, config: CurationConfig) -> str:
        """Name the encoder of this stage; "" when it has nothing to do."""
        if not self.for_meaning:
            return config.duplicates.encoder
        other = config.retrieve.encoder
        asked = config.retrieve.mode == "seeds" and other != config.duplicates.encoder
        return other if asked else ""


EMBED_COPIES = EmbedStage("embed", 30, ("duplicates.encoder", "device", "decode"))
EMBED_MEANING = EmbedStage(
    "embed-meaning",
    31,
    ("retrieve.encoder", "retrieve.mode", "duplicates.encoder", "device", "decode"),
    for_meaning=True,
)


def check_encoders(config: CurationConfig) -> None:
    """Load the encoders that a recipe asks for: a missing package is told before hours of work.

    Raises
    ------
    UsageError
        If an encoder, its package or its file is not there, or the device.
    """
    if config.device != "cpu":  # the join runs on it, whatever the encoder does
        from dinoforge.device import resolve_device

        resolve_device(config.device)
    for stage in (EMBED_COPIES, EMBED_MEANING):
        spec = stage.spec(config)
        if spec:
            _encoder(spec, config.device)


def meaning_stage(config: CurationConfig) -> str:
    """Name of the stage whose embeddings answer retrieval."""
    other = config.retrieve.encoder
    return "embed-meaning" if other and other != config.duplicates.encoder else "embed"


def read_rows(inputs: Inputs, stage: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read embeddings of ascending image ids as unit rows, float32 ``[n, D]``.

    Normalized after loading: float16 storage moves the cosine of alike rows by up to 2.5e-4 at 64
    dimensions and 1e-4 at 512, normalizing again leaves 4e-5 and 1e-5 (8,000 random pairs each,
    cosine 0.98). A zero row stays zero.
    """
    size = inputs.config.partition_images
    parts = []
    for partition in np.unique(ids // size).tolist():
        file = np.load(inputs.file(stage, "embeddings.npy", partition), mmap_mode="r")
        mine = ids[(ids >= partition * size) & (ids < (partition + 1) * size)]
        parts.append(file[mine - partition * size].astype(np.float32))
    if not parts:
        return np.zeros((0, 1), np.float32)
    rows = np.concatenate(parts)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    rows /= np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]
    return rows


@lru_cache(maxsize=2)
def _encoder(spec: str, device: str) -> Encoder:
    """Weights are loaded once a process, not once a partition."""
    return make_encoder(spec, device=device)


def _batches(inputs: Inputs, rows: pa.Table) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    policy: DecodePolicy = inputs.config.decode
    batch: list[NDArray[np.uint8]] = []
    low = 0
    for data in iter_bytes(inputs.run_folder, rows):
        try:
            batch.append(decode(data or b"", policy))
        except Undecodable as bad:
            raise UsageError(
                what=f"an image that decoded before does not any more ({bad})",
                where="`sources`",
                do="sources must stay while the run reads them: put it back, or start with --fresh",
            ) from bad
        if len(batch) == _BATCH:
            yield low, batch
            low += _BATCH
            batch = []
    if batch:
        yield low, batch
