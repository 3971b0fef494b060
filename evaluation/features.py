"""Features of images, extracted once and kept on disk by what decides them.

The cache is a folder of parts, each written atomically: a start after a kill reuses all that are
complete. Shapes: n images, D dimensions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders import make_encoder
from dinoforge.errors import UsageError
from dinoforge.evaluation.data import EvalData, Part
from dinoforge.evaluation.models import Model
from dinoforge.files import hash_json, sha256_file, write_bytes
from dinoforge.images import Undecodable
from dinoforge.progress import Progress
from dinoforge.sources import ImageSet

__all__ = ["PART_IMAGES", "Describer", "Extracted", "Rows", "describer_of", "extract", "rows_of"]

_log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

PART_IMAGES = 512  # lost at most when a run is killed
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

    Parameters
    ----------
    model : Model
        What to load.
    device : str
        For networks: ``cpu`` or ``cuda``.
    batch_size : int
        Images of one forward pass of a ViT; 0 takes the usual number of the device.

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
        for start in range(0, len(images), PART_IMAGES):
            stop = min(start + PART_IMAGES, len(images))
            path = folder / f"part-{start // PART_IMAGES:06d}.safetensors"
            part = _read_part(path, stop - start)
            if part is None:
                part = _make_part(describer, images, start, stop)
                _write_part(path, part)
            parts.append(part)
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

    Parameters
    ----------
    model : Model
        Which kinds of features are wanted, and whether the bank's mean is taken off.
    data : EvalData
        Rows and classes of both parts.
    of_bank, of_test : Extracted
        Features of the whole sets of images from which the parts are taken.

    Raises
    ------
    UsageError
        If no image of one of them decodes.
    """
    bank = _rows_of(model, data.bank, of_bank)
    test = _rows_of(model, data.test, of_test)
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


def _rows_of(model: Model, part: Part, found: Extracted) -> Rows:
    keep = found.is_decoded[part.rows]
    mine = {name: rows[part.rows[keep]] for name, rows in found.vectors.items()}
    if model.file is None:
        (vectors,) = mine.values()
        return Rows({model.features[0]: vectors}, part.labels[keep])
    from dinoforge.encoders.checkpoint import FEATURES

    return Rows({kind: FEATURES[kind](mine) for kind in model.features}, part.labels[keep])


def _make_part(describer: Describer, images: ImageSet, start: int, stop: int) -> dict[str, Any]:
    is_decoded = np.zeros(stop - start, np.uint8)
    batches = []
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
        batches.append(describer.describe(pictures))
    part: dict[str, Any] = {"is_decoded": is_decoded}
    for name, vectors in batches[0].items():
        part[name] = np.zeros((stop - start, vectors.shape[1]), np.float32)
        part[name][is_decoded == 1] = np.concatenate([batch[name] for batch in batches])
    return part


def _write_part(path: Path, part: dict[str, Any]) -> None:
    from safetensors.numpy import save

    write_bytes(path, save(part))


def _read_part(path: Path, num: int) -> dict[str, Any] | None:
    """Read a part; None when it is missing or damaged, and is to be made."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        part: dict[str, Any] = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    return part if all(len(rows) == num for rows in part.values()) else None
