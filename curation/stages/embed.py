"""Embeddings of every decodable image, float16, one row per image: row == position.

One encoder measures "same picture" (duplicates, leaks), if asked to of windows of a picture, too;
another may measure "similar content" (retrieval). Rows of undecodable images are zero and must be
masked.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.config.ranges import Precision
from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.stored.decoding import ImageReader, decode_again
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.encoders.encoder import Encoder
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.stored import StoredVectors
from dinoforge.encoders.stream import Rate, Work, describe_rates, encode_images, num_workers
from dinoforge.errors import UsageError
from dinoforge.stages import Json, Output
from dinoforge.stages.pieces import Pieces
from dinoforge.tables import read_table

__all__ = [
    "EmbedMeaningStage",
    "EmbedStage",
    "EmbedWindowsStage",
    "check_encoders",
    "encoder_fingerprint",
]

# Images after which what is done is kept, if the partition has more: a kill costs no more.
# A multiple of the batches, so that pieces change none.
_PIECE = 4096

_WINDOW = 0.6  # of each side
_PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))  # shares of the rest

_Image = NDArray[np.uint8]


class EmbedStage(CurationStage):
    """Embed all images with the encoder that measures "same picture"."""

    name = "embed"
    number = 30
    keys: tuple[str, ...] = ("duplicates.encoder", "device", "decode")
    execution_keys: tuple[str, ...] = ("partition_images", "base", "workers", "precision")
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
        fingerprint = encoder_fingerprint(spec, inputs.config.precision)
        ranges = tables.split_ids(inputs)
        return [{"start": a, "stop": b, "encoder": fingerprint} for a, b in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Embed the images of one range."""
        start, stop = payload["start"], payload["stop"]
        config = inputs.config
        encoder = _encoder(self.encoder_of(config), config.device, config.precision)
        facts = read_table(inputs.file("inspect", "facts.parquet", out.index), ["width"])
        decodes = facts.column("width").to_numpy() > 0
        rows = np.flatnonzero(decodes)
        if isinstance(encoder, StoredVectors):
            keys = tables.read_keys(inputs, start, stop).take(pa.array(rows))
            vectors = encoder.look_up(keys.to_pylist()).astype(np.float16)
        else:
            locations = tables.read_locations(inputs, start, stop).filter(pa.array(decodes))
            vectors = self._encode(encoder, locations, inputs, out)
        embeddings = np.zeros((stop - start, vectors.shape[1]), np.float16)
        embeddings[rows] = vectors
        out.write_array("embeddings", embeddings)
        return {"embedded": len(rows), "dim": encoder.dim, "encoder": encoder.fingerprint}

    def describe_measured(self, measured: Sequence[Json]) -> str:
        """Describe images per second, and how long the network waited for decoded images."""
        return describe_rates(measured)

    def _encode(
        self, encoder: Encoder, locations: pa.Table, inputs: CurationInputs, out: Output
    ) -> NDArray[np.float16]:
        """Encode images that decode, piece by piece; pieces that are finished are read."""
        policy, num = inputs.config.decode, locations.num_rows
        reader, rate, pieces = ImageReader(inputs.run_folder), Rate(), Pieces(out)
        num_views = len(self.views_of(np.zeros((1, 1, 3), np.uint8)))
        vectors = np.zeros((num, num_views * encoder.dim), np.float16)
        for start in range(0, num, _PIECE):
            piece = vectors[start : start + _PIECE]
            known = pieces.read(start // _PIECE) if num > _PIECE else None
            if known is not None and known.shape == piece.shape:
                piece[:] = known
                continue
            low = 0
            for encoded in encode_images(
                Work.of(encoder),
                reader.reads_of_each(locations.slice(start, _PIECE)),
                lambda read: self.views_of(decode_again(read(), policy)),
                workers=num_workers(inputs.config.workers),
                rate=rate,
            ):
                assert np.isfinite(encoded.vectors).all(), f"{encoder.name}: not finite"
                piece[low : low + encoded.count] = encoded.vectors.reshape(encoded.count, -1)
                low += encoded.count
            if num > _PIECE:
                pieces.write(start // _PIECE, piece)
        out.measured |= rate.as_json()
        return vectors


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
        if not spec or not isinstance(_encoder(spec, "cpu", config.precision), StoredVectors):
            continue
        if isinstance(stage, EmbedWindowsStage) or config.plant.count:
            key = "plant.count" if config.plant.count else "duplicates.verify.windows"
            raise UsageError(
                what="stored vectors are of whole images of the sources",
                where=f"`{key}` with {spec}",
                do=f"leave out {key}, or give an encoder of images",
            )


def encoder_fingerprint(spec: str, precision: Precision = "float32") -> str:
    """Hash weights, transform and decoder of an encoder: a replaced file is another encoder.

    It does not depend on the device, which a machine that only plans may lack.
    """
    return _encoder(spec, "cpu", precision).fingerprint


@lru_cache(maxsize=4)  # two encoders, each on the CPU and on the device
def _encoder(spec: str, device: str, precision: Precision) -> Encoder:
    """Load weights once per process, not once per partition."""
    return make_encoder(spec, device=device, precision=precision)
