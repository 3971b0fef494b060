"""Embeddings of every decodable image, float16, one row per image: row == position.

Two stages: one encoder measures "same picture" (duplicates, leaks), another may measure "similar
content" (retrieval). Rows of undecodable images are zero and must be masked.
"""

import itertools
from functools import lru_cache

import numpy as np
import pyarrow as pa

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.decoding import decode_each
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.encoders.encoder import Encoder
from dinoforge.encoders.make import make_encoder
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["EmbedMeaningStage", "EmbedStage", "check_encoders", "encoder_fingerprint"]

# Images decoded and encoded at a time: bounds memory, and is fixed because the last bits of an
# embedding may depend on the batch it was in.
_BATCH = 64


class EmbedStage(CurationStage):
    """Embed all images with the encoder that measures "same picture"."""

    name = "embed"
    number = 30
    keys: tuple[str, ...] = ("duplicates.encoder", "device", "decode")
    execution_keys = ("partition_images", "base")
    needs = ("ingest", "plant", "inspect")
    runs_on = "gpu"

    def encoder_of(self, config: CurationConfig) -> str:
        """Return the spec of the encoder of this stage; "" when it has nothing to do."""
        return config.duplicates.encoder

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids; none when the stage has nothing to do."""
        spec = self.encoder_of(inputs.config)
        if not spec:
            return []
        fingerprint = encoder_fingerprint(spec)
        ranges = tables.split_ids(inputs)
        return [{"start": a, "stop": b, "encoder": fingerprint} for a, b in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Embed the images of one range."""
        start, stop = payload["start"], payload["stop"]
        encoder = _encoder(self.encoder_of(inputs.config), inputs.config.device)
        facts = read_table(inputs.file("inspect", "facts.parquet", out.index), ["width"])
        decodes = facts.column("width").to_numpy() > 0
        images = decode_each(
            inputs, tables.read_locations(inputs, start, stop).filter(pa.array(decodes))
        )
        embeddings = np.zeros((stop - start, encoder.dim), np.float16)
        rows = np.flatnonzero(decodes)
        for low in range(0, len(rows), _BATCH):
            vectors = encoder.encode(list(itertools.islice(images, _BATCH)))
            assert np.isfinite(vectors).all(), f"{encoder.name} gave values that are not finite"
            embeddings[rows[low : low + _BATCH]] = vectors
        out.write_array("embeddings", embeddings)
        return {"embedded": len(rows), "dim": encoder.dim, "encoder": encoder.fingerprint}


class EmbedMeaningStage(EmbedStage):
    """Embed all images with the encoder that measures "similar content", if it is another one."""

    name = "embed-meaning"
    number = 31
    keys = ("retrieve.encoder", "retrieve.mode", "duplicates.encoder", "device", "decode")

    def encoder_of(self, config: CurationConfig) -> str:
        """Return the spec of the encoder of this stage; "" when it has nothing to do."""
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
        if spec := stage.encoder_of(config):
            _encoder(spec, "cpu")


def encoder_fingerprint(spec: str) -> str:
    """Hash weights, transform and decoder of an encoder: a replaced file is another encoder.

    It does not depend on the device, which a machine that only plans may lack.
    """
    return _encoder(spec, "cpu").fingerprint


@lru_cache(maxsize=4)  # two encoders, each on the CPU and on the device
def _encoder(spec: str, device: str) -> Encoder:
    """Load weights once per process, not once per partition."""
    return make_encoder(spec, device=device)
