"""Decode every image once and note the facts that policies need; decides nothing.

One row an image, undecodable ones included. What is admitted is decided by `curation.screen`.
"""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.curation.index import iter_bytes, num_images, partitions_of, read_range
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.images import DECODER_VERSION, DecodePolicy, Undecodable, decode_image
from dinoforge.stages import Json, Output

__all__ = ["FACTS_SCHEMA", "FilterStage"]

_STRIP_PIXELS = 1 << 20  # a picture of 144 Mpixel must not be held several times over

FACTS_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("sha256", pa.binary(32)),  # of the file's bytes
        ("pixels_sha256", pa.binary(32)),  # of size and decoded RGB; null: undecodable
        ("width", pa.int32()),  # upright, pixels; 0: undecodable
        ("height", pa.int32()),
        ("format", pa.string()),  # Pillow's name, "" if unknown
        ("std", pa.float32()),  # of the gray values 0..255; NaN: undecodable
        ("reason", pa.string()),  # why undecodable; null: decodes
        ("detail", pa.string()),
        ("notes", pa.string()),  # what was unusual and accepted: keys of `NOTES`, by commas
    ]
)


class FilterStage(CurationStage):
    """Facts of every image: hashes, size, gray spread, why it does not decode, what was unusual."""

    name = "filter"
    number = 20
    version = f"1.1.0+{DECODER_VERSION}"
    keys = ("decode", "partition_images")
    needs = ("ingest", "plant")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of image ids."""
        ranges = partitions_of(num_images(inputs), inputs.config.partition_images)
        return [{"start": start, "stop": stop} for start, stop in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Decode the images of one range."""
        start, stop = payload["start"], payload["stop"]
        rows = read_range(inputs, start, stop, ["shard", "offset", "size"])
        facts = [
            _facts(image_id, data, inputs.config.decode)
            for image_id, data in enumerate(iter_bytes(inputs.run_folder, rows), start)
        ]
        table = pa.Table.from_pylist(facts, FACTS_SCHEMA)
        out.write_table("facts", table, FACTS_SCHEMA)
        bad = Counter(fact["reason"] for fact in facts if fact["reason"] is not None)
        noted = Counter(note for fact in facts for note in fact["notes"].split(",") if note)
        return {
            "images": len(facts),
            "undecodable": dict(sorted(bad.items())),
            "notes": dict(sorted(noted.items())),
        }


def _facts(image_id: int, data: bytes | None, policy: DecodePolicy) -> dict[str, Any]:
    facts: dict[str, Any] = {"image_id": image_id, "sha256": hashlib.sha256(data or b"").digest()}
    try:
        image = decode_image(_readable(data), policy)
    except Undecodable as bad:
        nothing = {"pixels_sha256": None, "width": 0, "height": 0, "format": "", "std": np.nan}
        return facts | nothing | {"reason": bad.reason, "detail": bad.detail, "notes": ""}
    height, width = image.pixels.shape[:2]
    return facts | {
        "pixels_sha256": _pixels_sha256(image.pixels),
        "width": width,
        "height": height,
        "format": image.format,
        "std": _gray_std(image.pixels),
        "reason": None,
        "detail": None,
        "notes": ",".join(image.notes),
    }


def _readable(data: bytes | None) -> bytes:
    if data is None:
        raise Undecodable("unreadable", "the bytes cannot be read")
    return data


def _pixels_sha256(pixels: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _gray_std(pixels: NDArray[np.uint8]) -> float:
    """Compute the standard deviation of gray values from integer counts: equal on any machine."""
    flat = pixels.reshape(-1, 3)
    counts = np.zeros(256, np.int64)
    for start in range(0, len(flat), _STRIP_PIXELS):
        red, green, blue = flat[start : start + _STRIP_PIXELS].T.astype(np.uint16)
        # Weights of ITU-R BT.601 in 256ths; the sum is at most 255 * 256, inside uint16.
        counts += np.bincount((77 * red + 150 * green + 29 * blue) >> 8, minlength=256)
    values = np.arange(256)
    num, total, squares = (int(counts @ power) for power in (values**0, values, values**2))
    return float(np.sqrt(num * squares - total * total) / num)
