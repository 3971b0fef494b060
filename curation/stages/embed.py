"""Embeddings of every decodable image, float16, one row per image: row == position.

One encoder measures "same picture" (duplicates, leaks), if asked to of windows of a picture, too;
another may measure "similar content" (retrieval). Rows of undecodable images are zero and must be
masked.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.decoding import decode_each
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.encoders.encoder import Encoder, Vectors
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.stored import StoredVectors
from dinoforge.errors import UsageError
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = [
    "EmbedMeaningStage",
    "EmbedStage",
    "EmbedWindowsStage",
    "check_encoders",
    "encoder_fingerprint",
]

# Images decoded and encoded at a time: bounds memory, and is fixed because the last bits of an
# embedding may depend on the batch it was in.
_BATCH = 64

_WINDOW = 0.6  # of each side
_PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))  # shares of the rest

_Image = NDArray[np.uint8]


class EmbedStage(CurationStage):
    """Embed all images with the encoder that measures "same picture"."""

    name = "embed"
    number = 30
    keys: tuple[str, ...] = ("duplicates.encoder", "device", "decode")
    execution_keys: tuple[str, ...] = ("partition_images", "base")
    needs = ("ingest", "plant", "inspect")
    runs_on = "gpu"

    def encoder_of(self, config: CurationConfig) -> str:
        """Return the spec of the encoder of this stage; "" when it has nothing to do."""
        return config.duplicates.encoder

    def views_of(self, image: _Image) -> Sequence[_Image]:
        """Return what is embedded of an image, always as many; their vectors are one row."""
        return [image]

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
        rows = np.flatnonzero(decodes)
        if isinstance(encoder, StoredVectors):
            keys = tables.read_keys(inputs, start, stop).take(pa.array(rows))
            parts = iter([encoder.look_up(keys.to_pylist())])
            num_views = 1
        else:
            locations = tables.read_locations(inputs, start, stop).filter(pa.array(decodes))
            parts = self._encode(encoder, decode_each(inputs, locations))
            num_views = len(self.views_of(np.zeros((1, 1, 3), np.uint8)))
        embeddings = np.zeros((stop - start, num_views * encoder.dim), np.float16)
        low = 0
        for vectors in parts:
            part = vectors.reshape(-1, num_views * encoder.dim)
            embeddings[rows[low : low + len(part)]] = part
            low += len(part)
        out.write_array("embeddings", embeddings)
        return {"embedded": len(rows), "dim": encoder.dim, "encoder": encoder.fingerprint}

    def _encode(self, encoder: Encoder, images: Iterator[_Image]) -> Iterator[Vectors]:
        while batch := list(itertools.islice(images, _BATCH)):
            vectors = encoder.encode([view for image in batch for view in self.views_of(image)])
            assert np.isfinite(vectors).all(), f"{encoder.name} gave values that are not finite"
            yield vectors


class EmbedMeaningStage(EmbedStage):
    """Embed all images with the encoder that measures "similar content", if it is another one."""

    name = "embed-meaning"
    number = 31
    keys = ("retrieve.encoder", "retrieve.mode", "duplicates.encoder", "device", "decode")
    execution_keys = (*EmbedStage.execution_keys, "balance.target")

    def encoder_of(self, config: CurationConfig) -> str:
        """Return the spec of the encoder of this stage; "" when it has nothing to do."""
        other = config.retrieve.encoder
        uses = [config.retrieve.mode == "seeds", config.balance.target > 0]
        needed = any(uses) and other != config.duplicates.encoder
        return other if needed else ""


class EmbedWindowsStage(EmbedStage):
    """Embed the corners and the center of all images, if pairs to compare are proposed by them."""

    name = "embed-windows"
    number = 32
    keys = (
        "duplicates.encoder",
        "duplicates.verify.mode",
        "duplicates.verify.windows",
        "device",
        "decode",
    )

    def encoder_of(self, config: CurationConfig) -> str:
        """Return the spec of the encoder of this stage; "" when it has nothing to do."""
        policy = config.duplicates.verify
        needed = policy.mode == "pixels" and policy.windows
        return config.duplicates.encoder if needed else ""

    def views_of(self, image: _Image) -> Sequence[_Image]:
        """Return 5 windows of 60 % of each side: the corners and the center."""
        sides = image.shape[:2]
        height, width = (max(1, round(_WINDOW * side)) for side in sides)
        windows = []
        for down, right in _PLACES:
            top, left = round(down * (sides[0] - height)), round(right * (sides[1] - width))
            windows.append(image[top : top + height, left : left + width])
        return windows


def check_encoders(config: CurationConfig) -> None:
    """Load the encoders of a recipe on the CPU, so that a missing package is reported at once.

    Raises
    ------
    UsageError
        If an encoder, its package or its file is missing.
    """
    for stage in (EmbedStage(), EmbedMeaningStage(), EmbedWindowsStage()):
        spec = stage.encoder_of(config)
        if not spec or not isinstance(_encoder(spec, "cpu"), StoredVectors):
            continue
        if isinstance(stage, EmbedWindowsStage) or config.plant.count:
            key = "plant.count" if config.plant.count else "duplicates.verify.windows"
            raise UsageError(
                what="stored vectors are of whole images of the sources",
                where=f"`{key}` with {spec}",
                do=f"leave out {key}, or give an encoder of images",
            )


def encoder_fingerprint(spec: str) -> str:
    """Hash weights, transform and decoder of an encoder: a replaced file is another encoder.

    It does not depend on the device, which a machine that only plans may lack.
    """
    return _encoder(spec, "cpu").fingerprint


@lru_cache(maxsize=4)  # two encoders, each on the CPU and on the device
def _encoder(spec: str, device: str) -> Encoder:
    """Load weights once per process, not once per partition."""
    return make_encoder(spec, device=device)
