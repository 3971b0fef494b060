"""Embeddings of every decodable image, float16, one row an image: row == position.

Two instances of one stage: one encoder says "same picture" (duplicates, leaks), another may say
"alike in meaning" (retrieval). Rows of undecodable images are zero and must be masked.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.facts import decodable_range
from dinoforge.curation.index import iter_bytes, num_images, partitions_of, read_range
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.encoders import make_encoder
from dinoforge.encoders.encoder import Encoder
from dinoforge.errors import UsageError
from dinoforge.images import DecodePolicy, Undecodable, decode
from dinoforge.stages import Json, Output

__all__ = [
    "EmbedMeaningStage",
    "EmbedStage",
    "check_encoders",
    "meaning_stage",
    "read_rows",
]

# Images decoded and encoded at a time: bounds memory, and is fixed because the last bits of an
# embedding may depend on the batch it was in.
_BATCH = 64


class EmbedStage(CurationStage):
    """Embed all images with the encoder that says "same picture"."""

    name = "embed"
    number = 30
    keys: tuple[str, ...] = ("duplicates.encoder", "device", "decode")
    execution_keys = ("partition_images",)
    needs = ("ingest", "plant", "filter")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids; none when the encoder is not needed or is that of `embed`."""
        spec = self.spec(inputs.config)
        if not spec:
            return []
        # Of weights, transform and decoder: a replaced file runs again. It does not depend on the
        # device, which a machine that only plans may lack.
        fingerprint = _encoder(spec, "cpu").fingerprint
        ranges = partitions_of(num_images(inputs), inputs.config.partition_images)
        return [{"start": a, "stop": b, "encoder": fingerprint} for a, b in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
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
        return config.duplicates.encoder


class EmbedMeaningStage(EmbedStage):
    """Embed all images with the encoder that says "alike in meaning", if it is another one."""

    name = "embed-meaning"
    number = 31
    keys = ("retrieve.encoder", "retrieve.mode", "duplicates.encoder", "device", "decode")

    def spec(self, config: CurationConfig) -> str:
        """Name the encoder of this stage; "" when it has nothing to do."""
        other = config.retrieve.encoder
        needed = config.retrieve.mode == "seeds" and other != config.duplicates.encoder
        return other if needed else ""


def check_encoders(config: CurationConfig) -> None:
    """Load the encoders of a recipe on the CPU, so that a missing package is reported at once.

    Raises
    ------
    UsageError
        If an encoder, its package or its file is missing.
    """
    for stage in (EmbedStage(), EmbedMeaningStage()):
        spec = stage.spec(config)
        if spec:
            _encoder(spec, "cpu")


def meaning_stage(config: CurationConfig) -> str:
    """Name of the stage whose embeddings answer retrieval."""
    other = config.retrieve.encoder
    return "embed-meaning" if other and other != config.duplicates.encoder else "embed"


def read_rows(inputs: CurationInputs, stage: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
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


@lru_cache(maxsize=4)  # two encoders, each on the CPU and on the device
def _encoder(spec: str, device: str) -> Encoder:
    """Weights are loaded once a process, not once a partition."""
    return make_encoder(spec, device=device)


def _batches(
    inputs: CurationInputs, rows: pa.Table
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
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
