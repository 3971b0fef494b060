"""Decode every image once and measure what policies need; decides nothing."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.images import DECODER_VERSION, DecodePolicy, Undecodable, decode_image
from dinoforge.images.compression import compression_quality
from dinoforge.stages import Json, Output

__all__ = ["InspectStage"]

_STRIP_PIXELS = 1 << 16  # stays in the cache; 144 Mpixel must not be held several times over


class InspectStage(CurationStage):
    """Facts of every image: hashes, size, quality, gray spread, why it does not decode."""

    name = "inspect"
    number = 20
    version = f"1.2.0+{DECODER_VERSION}"
    keys = ("decode", "partition_images")
    execution_keys = ("base",)
    needs = ("ingest", "plant")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids."""
        return [{"start": start, "stop": stop} for start, stop in tables.split_ids(inputs)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Decode the images of one range."""
        start, policy = payload["start"], inputs.config.decode
        images = ImageReader(inputs.run_folder).read_each(
            tables.read_locations(inputs, start, payload["stop"])
        )
        facts = [_facts(image_id, data, policy) for image_id, data in enumerate(images, start)]
        out.write_table(
            "facts", pa.Table.from_pylist(facts, tables.FACTS_SCHEMA), tables.FACTS_SCHEMA
        )
        bad = Counter(fact["reason"] for fact in facts if fact["reason"] is not None)
        notes = Counter(note for fact in facts for note in fact["notes"].split(",") if note)
        return {
            "images": len(facts),
            "undecodable": dict(sorted(bad.items())),
            "notes": dict(sorted(notes.items())),
        }


def _facts(image_id: int, data: bytes | None, policy: DecodePolicy) -> dict[str, Any]:
    facts: dict[str, Any] = {"image_id": image_id, "sha256": hashlib.sha256(data or b"").digest()}
    nothing = {"pixels_sha256": None, "width": 0, "height": 0, "format": "", "std": np.nan}
    nothing |= {"quality": np.nan}
    if data is None:
        detail = "the bytes cannot be read"
        return facts | nothing | {"reason": "unreadable", "detail": detail, "notes": ""}
    try:
        image = decode_image(data, policy)
    except Undecodable as bad:
        return facts | nothing | {"reason": bad.reason, "detail": bad.detail, "notes": ""}
    height, width = image.pixels.shape[:2]
    return facts | {
        "pixels_sha256": _pixels_sha256(image.pixels),
        "width": width,
        "height": height,
        "format": image.format,
        "quality": compression_quality(data, image.format),
        "std": _gray_std(image.pixels),
        "reason": None,
        "detail": None,
        "notes": ",".join(image.notes),
    }


def _pixels_sha256(pixels: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _gray_std(pixels: NDArray[np.uint8]) -> float:
    """Compute the standard deviation of gray values from integer sums: equal on any machine."""
    flat = pixels.reshape(-1, 3)
    total = squares = 0
    for start in range(0, len(flat), _STRIP_PIXELS):
        red, green, blue = flat[start : start + _STRIP_PIXELS].T
        # Weights of ITU-R BT.601 in 256ths; the sum is at most 255 * 256, inside uint16.
        gray = red * np.uint16(77)
        gray += green * np.uint16(150)
        gray += blue * np.uint16(29)
        values = (gray >> 8).astype(np.float64)  # sums of integers below 2^53 are exact
        total += int(values.sum())
        values *= values
        squares += int(values.sum())
    return float(np.sqrt(len(flat) * squares - total * total) / len(flat))
