"""Features of images, extracted once and cached on disk under a hash of everything they depend on.

The cache is a folder of parts, each written atomically: a killed run reuses the complete ones.
Shapes: n images, B images per batch, N patch tokens, D dimensions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.make import make_encoder
from dinoforge.evaluation.data import EvalData, NothingToTestError, Part
from dinoforge.evaluation.models import Model
from dinoforge.files import hash_json, sha256_file, write_bytes
from dinoforge.images import Undecodable
from dinoforge.progress import Progress
from dinoforge.sources.image_set import ImageSet
from dinoforge.sources.outputs import mark_cache

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PART_IMAGES",
    "Extracted",
    "Extractor",
    "Rows",
    "extract",
    "linear_input",
    "open_extractor",
    "rows_of",
]

_log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

PART_IMAGES = 512  # the most that a killed run loses
_IMAGES_IN_MEMORY = 64  # decoded at once; a multiple of the usual batch sizes
_FORMAT = 1


@dataclass(frozen=True)
class Extractor:
    """Turns decoded images into named vectors; the fingerprint covers all they depend on."""

    vectors_of: Callable[[Sequence[NDArray[np.uint8]]], dict[str, Vectors]]
    fingerprint: str
    checkpoint: str  # for records: file or encoder, and the hash of its weights


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


def open_extractor(model: Model, *, device: str, batch_size: int = 0) -> Extractor:
    """Load a model's encoder; a ViT gives its class token and patch mean in one forward pass.

    ``batch_size`` is the images per forward pass of a ViT; 0 takes the default of the device.

    Raises
    ------
    UsageError
        If there is no such encoder, file or device.
    """
    if model.file is None:
        encoder = make_encoder(model.encoder, device=device)
        how: dict[str, Any] = {"encoder": encoder.fingerprint, "device": device}
        return Extractor(
            lambda images: {"vectors": encoder.encode(images)},
            hash_json(how),
            f"{model.encoder}:{encoder.fingerprint[:12]}",
        )
    from dinoforge.encoders.checkpoint import CheckpointEncoder

    vit = CheckpointEncoder(model.file, device=device, batch_size=batch_size)
    # The last bits depend on the device and on the batch size.
    how = {"encoder": vit.fingerprint, "device": device, "batch_size": batch_size}
    name = model.file.parent.name if model.step is not None else model.file.name
    return Extractor(vit.encode_tokens, hash_json(how), f"{name}:{sha256_file(model.file)[:12]}")


def extract(extractor: Extractor, images: ImageSet, cache: Path, label: str) -> Extracted:
    """Extract the features of every image, or read them from the cache.

    The cache has one subfolder per extractor, set of images and decode policy; ``label`` names the
    progress line.
    """
    from safetensors.numpy import save

    key = hash_json(
        {
            "format": _FORMAT,
            "describer": extractor.fingerprint,
            "images": images.fingerprint,
            "decode": asdict(images.policy),
        }
    )
    folder = cache / "features" / key[:32]
    mark_cache(cache)
    parts = []
    with Progress(len(images), unit="images", label=label) as progress:
        for start in range(0, len(images), PART_IMAGES):
            stop = min(start + PART_IMAGES, len(images))
            path = folder / f"part-{start // PART_IMAGES:06d}.safetensors"
            part = _read_part(path, stop - start)
            if part is None:
                part = _make_part(extractor, images, start, stop)
                write_bytes(path, save(part))
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
    """Select the features of the bank and of the test images.

    The model names the kinds of features to keep, and whether to subtract the mean of the bank.
    ``of_bank`` and ``of_test`` hold the whole sets of images that the parts are taken from.

    Raises
    ------
    NothingToTestError
        If no image of a part decodes.
    """
    bank = _rows_of(model, data.bank, of_bank)
    test = _rows_of(model, data.test, of_test)
    _stop_if_none_decodes(data, bank, test)
    if model.subtracts_mean:
        for kind, vectors in bank.features.items():
            mean = vectors.mean(axis=0, dtype=np.float64)
            for part in (bank, test):
                part.features[kind] = (part.features[kind] - mean).astype(np.float32)
    return bank, test


def _stop_if_none_decodes(data: EvalData, bank: Rows, test: Rows) -> None:
    is_held_out = len(data.sets) == 1
    test_images = "images held out for the test" if is_held_out else "test images"
    for rows, part, images, key in (
        (bank, data.bank, "images of the bank", "`train`"),
        (test, data.test, test_images, "`train`" if is_held_out else "`test`"),
    ):
        if not len(rows):
            raise NothingToTestError(
                what=f"none of the {len(part.rows)} {images} decodes",
                where=key,
                do="name folders or tars of images that decode",
            )


def _rows_of(model: Model, part: Part, extracted: Extracted) -> Rows:
    keep = extracted.is_decoded[part.rows]
    vectors = {name: rows[part.rows[keep]] for name, rows in extracted.vectors.items()}
    if model.file is None:
        (only,) = vectors.values()
        return Rows({model.features[0]: only}, part.labels[keep])
    from dinoforge.encoders.checkpoint import FEATURES

    return Rows({kind: FEATURES[kind](vectors) for kind in model.features}, part.labels[keep])


def _make_part(extractor: Extractor, images: ImageSet, start: int, stop: int) -> dict[str, Any]:
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
        # Even without any picture: an empty result still has the names and dimensions.
        batches.append(extractor.vectors_of(pictures))
    part: dict[str, Any] = {"is_decoded": is_decoded}
    for name, vectors in batches[0].items():
        part[name] = np.zeros((stop - start, vectors.shape[1]), np.float32)
        part[name][is_decoded == 1] = np.concatenate([batch[name] for batch in batches])
    return part


def _read_part(path: Path, num: int) -> dict[str, Any] | None:
    """Read a part; None if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        part: dict[str, Any] = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    return part if all(len(rows) == num for rows in part.values()) else None


def linear_input(
    layers: "Sequence[tuple[Tensor, Tensor]]", *, blocks: int, average_patches: bool
) -> "Tensor":
    """Join features for a linear probe as DINOv2 does (its code; section 7.1).

    For your own probes on several blocks; the suite's protocols read the last block's features.
    ``layers`` are patch tokens ``[B, N, D]`` and class token ``[B, D]`` of the last blocks, oldest
    first, as `VisionTransformer.get_intermediate_layers` returns them (final LayerNorm applied).

    Returns the class tokens of the last ``blocks`` of them, ``[B, blocks * D]``; with
    ``average_patches`` followed by the mean of the last block's patch tokens, without registers.
    """
    import torch

    assert 1 <= blocks <= len(layers), f"{blocks} blocks of {len(layers)}"
    parts = [class_BD for _, class_BD in layers[-blocks:]]
    if average_patches:
        parts.append(layers[-1][0].mean(dim=1))
    return torch.cat(parts, dim=-1)
