"""Features of images, extracted once and kept on disk by what decides them.

The cache is a folder of chunks, each written atomically: a start after a kill reuses all that are
complete. Shapes: n images, D dimensions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.atomic_file import write_bytes
from dinoforge.encoders import make_encoder
from dinoforge.errors import UsageError
from dinoforge.hashing import hash_json, sha256_file
from dinoforge.images import Undecodable
from dinoforge.progress import Progress
from dinoforge.sources import ImageSet
from evaluation.data import EvalData, Part
from evaluation.models import Model

__all__ = ["CHUNK_IMAGES", "Describer", "Extracted", "Rows", "describer_of", "extract", "rows_of"]

_log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

CHUNK_IMAGES = 512  # lost at most when a run is killed
_IMAGES_IN_MEMORY = 64  # decoded, of any size; a multiple of the usual sizes of a batch
_FORMAT = 1


@dataclass(frozen=True)
class Describer:
    """Turns decoded images into named vectors; the fingerprint covers all that decides them."""

    describe: Callable[[Sequence[NDArray[np.uint8]]], dict[str, Vectors]]
    fingerprint: str
    checkpoint: str  # what records say: file or encoder, and the hash of its weights


@dataclass(frozen=True)
class Extracted:
    """Vectors of every image of a set; rows of undecodable images are zero."""

    vectors: dict[str, Vectors]  # as the encoder gives them, [n, D]
    is_decoded: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Features of a part of the data, decodable images only."""

    features: dict[str, Vectors]  # kind -> [n, D], not normalized
    labels: NDArray[np.int64]  # -1: not known

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def labeled(self) -> "Rows":
        """Keep the images whose class is known."""
        keep = self.labels >= 0
        return Rows({kind: rows[keep] for kind, rows in self.features.items()}, self.labels[keep])

    def less(self, means: dict[str, NDArray[np.float64]]) -> "Rows":
        """Take a vector off every row."""
        shifted = {
            kind: (rows - means[kind]).astype(np.float32) for kind, rows in self.features.items()
        }
        return Rows(shifted, self.labels)


def describer_of(model: Model, *, device: str, batch_size: int = 0) -> Describer:
    """Load a model's encoder; a ViT gives its class token and patch mean from one forward pass.

    Raises
    ------
    UsageError
        If there is no such encoder, file or device.
    """
    if model.file is None:
        encoder = make_encoder(model.encoder, device=device)
        how: dict[str, Any] = {"encoder": encoder.fingerprint, "device": device}
        return Describer(
            lambda images: {"vectors": encoder.encode(images)},
            hash_json(how),
            f"{model.encoder}:{encoder.fingerprint[:12]}",
        )
    from dinoforge.encoders.checkpoint import CheckpointEncoder

    vit = CheckpointEncoder(model.file, device=device, batch_size=batch_size)
    # The last bits depend on the device and on the size of a batch.
    how = {"encoder": vit.fingerprint, "device": device, "batch_size": batch_size}
    name = model.file.parent.name if model.step is not None else model.file.name
    return Describer(vit.encode_tokens, hash_json(how), f"{name}:{sha256_file(model.file)[:12]}")


def extract(describer: Describer, images: ImageSet, cache: Path, label: str) -> Extracted:
    """Extract the features of every image, or read them where they are in the cache.

    Parameters
    ----------
    describer : Describer
        See `describer_of`.
    images : ImageSet
        With its decode policy.
    cache : Path
        Folder for all features; a sub-folder for each describer and set.
    label : str
        For the progress line.
    """
    key = hash_json(
        {
            "format": _FORMAT,
            "describer": describer.fingerprint,
            "images": images.fingerprint,
            "decode": asdict(images.policy),
        }
    )
    folder = cache / "features" / key[:32]
    parts = []
    with Progress(len(images), unit="images", label=label) as progress:
        for start in range(0, len(images), CHUNK_IMAGES):
            stop = min(start + CHUNK_IMAGES, len(images))
            path = folder / f"chunk-{start // CHUNK_IMAGES:06d}.safetensors"
            chunk = _read_chunk(path, stop - start)
            if chunk is None:
                chunk = _make_chunk(describer, images, start, stop)
                _write_chunk(path, chunk)
            parts.append(chunk)
            progress.advance(stop - start)
    names = [name for name in parts[0] if name != "is_decoded"]
    return Extracted(
        {name: np.concatenate([part[name] for part in parts]) for name in names},
        np.concatenate([part["is_decoded"] for part in parts]).astype(np.bool_),
    )


def rows_of(
    model: Model, data: EvalData, of_bank: Extracted, of_test: Extracted
) -> tuple[Rows, Rows]:
    """Arrange features as the bank and the test images.

    Raises
    ------
    UsageError
        If no image of one of them decodes.
    """
    bank = _rows_of_part(model, data.bank, of_bank)
    test = _rows_of_part(model, data.test, of_test)
    for rows, what in ((bank, "bank"), (test, "test set")):
        if not len(rows):
            raise UsageError(
                what=f"no image of the {what} decodes",
                where="`train`" if what == "bank" else "`test`",
                do="name folders or tars of images",
            )
    if model.takes_mean_off:
        means = {kind: rows.mean(axis=0, dtype=np.float64) for kind, rows in bank.features.items()}
        bank, test = bank.less(means), test.less(means)
    return bank, test


def _rows_of_part(model: Model, part: Part, found: Extracted) -> Rows:
    keep = found.is_decoded[part.rows]
    mine = {name: rows[part.rows[keep]] for name, rows in found.vectors.items()}
    if model.file is None:
        (vectors,) = mine.values()
        return Rows({model.features[0]: vectors}, part.labels[keep])
    from dinoforge.encoders.checkpoint import FEATURES

    return Rows({kind: FEATURES[kind](mine) for kind in model.features}, part.labels[keep])


def _make_chunk(describer: Describer, images: ImageSet, start: int, stop: int) -> dict[str, Any]:
    is_decoded = np.zeros(stop - start, np.uint8)
    parts = []
    for low in range(start, stop, _IMAGES_IN_MEMORY):
        pictures = []
        for index in range(low, min(low + _IMAGES_IN_MEMORY, stop)):
            try:
                pictures.append(images.decode(index))
            except Undecodable as reason:
                _log.debug("image %d: %s", index, reason)
                continue
            is_decoded[index - start] = 1
        # Of no picture at all, too: that still tells the names and the dimensions.
        parts.append(describer.describe(pictures))
    chunk: dict[str, Any] = {"is_decoded": is_decoded}
    for name, vectors in parts[0].items():
        chunk[name] = np.zeros((stop - start, vectors.shape[1]), np.float32)
        chunk[name][is_decoded == 1] = np.concatenate([part[name] for part in parts])
    return chunk


def _write_chunk(path: Path, chunk: dict[str, Any]) -> None:
    from safetensors.numpy import save

    write_bytes(path, save(chunk))


def _read_chunk(path: Path, num: int) -> dict[str, Any] | None:
    """Read a chunk; None when it is missing or damaged, and is to be made."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        chunk: dict[str, Any] = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    return chunk if all(len(rows) == num for rows in chunk.values()) else None
