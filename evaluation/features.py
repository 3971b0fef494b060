"""What a model gives for images, and the rows that a protocol takes of it.

Shapes: n images, B images per batch, N patch tokens, D dimensions.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Images
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.stream import ENCODED_AT_ONCE, Rate, Work, encode_images
from dinoforge.evaluation.layouts.searches.retrieval import crop_to_box
from dinoforge.evaluation.methods.views import cut_view
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.tables import IS_DECODED, Extracted, Items
from dinoforge.images import Undecodable
from dinoforge.sources.image_set import ImageSet

if TYPE_CHECKING:
    from dinoforge.encoders.checkpoint import CheckpointEncoder

__all__ = [
    "Extractor",
    "Rows",
    "VectorRequest",
    "describe",
    "every_row",
    "open_extractor",
    "rows_of",
    "rows_of_view",
]

_log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class VectorRequest:
    """Vectors of whole images that protocols need, and how images enter a ViT."""

    blocks: int = 1  # class tokens of how many last blocks of a ViT
    gem: bool = False  # also the generalized mean of its patch tokens
    side: int = 0  # of its input in pixels; 0: that of the checkpoint
    fit: Literal["center", "stretch"] = "center"
    boxes: bool = False  # of a query only the box that the data set gives
    views: int = 0  # also so many augmented views of the images of the bank
    view: int = -1  # this one of them; -1: the images themselves

    def as_json(self) -> dict[str, Any]:
        """JSON object of the request."""
        return asdict(self)

    @property
    def facts(self) -> dict[str, Any]:
        """Settings of records whose input is not the usual one."""
        return {"side": self.side, "fit": self.fit} if self.side or self.fit != "center" else {}


@dataclass(frozen=True)
class Extractor:
    """Turns decoded images into named vectors."""

    work: Work[dict[str, Vectors]]
    fingerprint: str  # of weights, transform and decoder; the last bits depend on the device, too
    checkpoint: str  # for records: file or encoder, and the hash of its weights
    vit: "CheckpointEncoder | None" = None  # None: there are no tokens of patches

    @property
    def at_once(self) -> int:
        """Images of a group: whole batches."""
        size = 1 if self.vit is None else self.vit.placement.size
        return -(-ENCODED_AT_ONCE // size) * size


@dataclass(frozen=True)
class Rows:
    """Features of a part of the data, decodable images only."""

    features: dict[str, Vectors]  # kind -> [n, D], not normalized
    labels: NDArray[np.int64]  # -1: not known
    # class tokens of the last blocks, oldest first, then the patch mean: [n, S, D]; none of others
    slots: Vectors | None = None
    # of the images in the data set, ascending
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def labeled(self) -> "Rows":
        """Keep the images whose class is known."""
        keep = self.labels >= 0
        features = {kind: rows[keep] for kind, rows in self.features.items()}
        slots = None if self.slots is None else self.slots[keep]
        return Rows(features, self.labels[keep], slots, self.rows[keep])


@lru_cache(maxsize=2)  # weights are loaded once per process, not once per partition
def open_extractor(
    model: Model, *, device: str, batch_size: int = 0, request: VectorRequest | None = None
) -> Extractor:
    """Load a model's encoder; a ViT gives its class token and patch mean in one forward pass.

    ``batch_size`` is the images per forward pass of a ViT; 0 takes the default of the device.
    ``request`` is what a ViT gives and how images enter it; other encoders have one vector and
    an input of their own.

    Raises
    ------
    UsageError
        If there is no such encoder, file or device.
    """
    if model.file is None:
        encoder = make_encoder(model.encoder, device=device)
        name = f"{model.encoder}:{encoder.fingerprint[:12]}"

        def vectors_of_each(groups: Iterable[Images]) -> Iterator[dict[str, Vectors]]:
            return ({"vectors": vectors} for vectors in encoder.encode_each(groups))

        work = Work(encoder.fit, vectors_of_each, encoder.on_threads)
        return Extractor(work, encoder.fingerprint, name)
    from dinoforge.encoders.checkpoint import CheckpointEncoder
    from dinoforge.encoders.network_encoder import pooled_encoder

    request = request or VectorRequest()
    placed: dict[str, Any] = {"device": device, "batch_size": batch_size}
    placed |= {"side": request.side, "crop": request.fit == "center"}
    if not model.is_vit:
        network = pooled_encoder(model.file, **placed)

        def outputs_of_each(groups: Iterable[Images]) -> Iterator[dict[str, Vectors]]:
            return ({"vectors": rows} for rows in network.outputs_each(groups))

        work = Work(network.fit, outputs_of_each, network.on_threads)
        return Extractor(work, network.fingerprint, _file_name(model.file, model.step))
    vit = CheckpointEncoder(model.file, positions=model.positions, **placed)
    tokens = partial(vit.tokens_of_each, blocks=request.blocks, gem=request.gem)
    work = Work(vit.fit, tokens, vit.on_threads)
    return Extractor(work, vit.fingerprint, _file_name(model.file, model.step), vit)


def _file_name(file: Path, step: int | None) -> str:
    """Name weights by their file, or the folder of their export, and a part of their hash."""
    from dinoforge.encoders.backbone import weights_hash

    return f"{file.name if step is None else file.parent.name}:{weights_hash(file)[:12]}"


def describe(
    extractor: Extractor,
    images: ImageSet,
    storage: str = "float32",
    boxes: Sequence[Sequence[float] | None] | None = None,
    draws: NDArray[np.float64] | None = None,
    *,
    workers: int | None = None,
    rate: Rate | None = None,
) -> dict[str, NDArray[Any]]:
    """Extract the features of every image: arrays ``[n, ...]``, and which images decode.

    Rows of undecodable images are zero; ``storage`` is the dtype of the features.
    ``boxes`` are the parts of images that are encoded, None: the whole (`crop_to_box`); with
    ``draws`` a random view of each (`random_views`). See `encode_images` for the rest.
    """

    def load(item: tuple[int, Callable[[], NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
        index, decode = item
        try:
            picture = decode()
        except Undecodable as reason:
            _log.debug("image %d: %s", index, reason)
            return []
        box = boxes[index] if boxes else None
        picture = picture if box is None else crop_to_box(picture, np.array(box))
        return [picture if draws is None else cut_view(picture, draws[index])]

    is_decoded = np.zeros(len(images), np.bool_)
    arrays: dict[str, NDArray[Any]] = {IS_DECODED: is_decoded}
    low = 0
    for encoded in encode_images(
        extractor.work,
        images.decoders_of(range(len(images))),
        load,
        workers=workers,
        at_once=extractor.at_once,
        rate=rate,
    ):
        at = np.array(encoded.decoded, np.int64) + low
        is_decoded[at] = True
        # Even without any picture: an empty result still has the names and dimensions.
        for name, vectors in encoded.vectors.items():
            if name not in arrays:
                arrays[name] = np.zeros((len(images), *vectors.shape[1:]), storage)
            arrays[name][at] = vectors
        low += encoded.count
    return arrays


def rows_of(model: Model, items: Items, extracted: Extracted) -> tuple[Rows, Rows]:
    """Select the features of the bank and of the test images, one of each at least.

    The model names the kinds of features to keep, and whether to subtract the mean of the bank.
    """
    bank, test = (_rows_of(model, items, rows, extracted) for rows in (items.bank, items.test))
    _subtract_mean(model, bank, bank, test)
    return bank, test


def every_row(model: Model, items: Items, extracted: Extracted) -> Rows:
    """Select the features of every image that decodes, as `rows_of` does."""
    rows = _rows_of(model, items, np.arange(len(items)), extracted)
    _subtract_mean(model, _rows_of(model, items, items.bank, extracted), rows)
    return rows


def _subtract_mean(model: Model, bank: Rows, *parts: Rows) -> None:
    for kind, vectors in bank.features.items() if model.subtracts_mean else ():
        mean = vectors.mean(axis=0, dtype=np.float64)
        for part in parts:
            part.features[kind] = (part.features[kind] - mean).astype(np.float32)


def rows_of_view(model: Model, items: Items, extracted: Extracted) -> Rows:
    """Select the features of a view of the bank."""
    return _rows_of(model, items, items.bank, extracted, np.arange(len(items.bank)))


def _rows_of(
    model: Model,
    items: Items,
    part: NDArray[np.int64],
    extracted: Extracted,
    at: NDArray[np.int64] | None = None,
) -> Rows:
    """Select some images of a set, which are ``at`` these rows of what was extracted."""
    at = part if at is None else at
    is_decoded = extracted.is_decoded[at]
    rows, at = part[is_decoded], at[is_decoded]
    vectors = {name: array[at].astype(np.float32) for name, array in extracted.vectors.items()}
    if not model.is_vit:
        (only,) = vectors.values()
        # A network of a file has a vector in place of the class token, and no patches but it.
        slots = None if model.file is None else np.stack([only, only], axis=1)
        return Rows({model.features[0]: only}, items.labels[rows], slots, rows)
    from dinoforge.encoders.checkpoint import FEATURES

    features = {kind: FEATURES[kind](vectors) for kind in model.features}
    blocks = vectors.get("cls_blocks", vectors["cls"][:, None])
    slots = np.concatenate([blocks, vectors["patch_mean"][:, None]], axis=1)
    return Rows(features, items.labels[rows], slots, rows)
