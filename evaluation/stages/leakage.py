"""The leakage gate: test images are looked up among the images that a model was trained on.

Three stages: the training images are listed and described once, then every test image is compared
with all of them. Shapes: n test images of a set, m training images of a partition, D dimensions.
"""

import csv
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.encoders.encoder import Encoder
from dinoforge.encoders.make import make_encoder
from dinoforge.evaluation.methods.leakage import find_hits, search_views
from dinoforge.evaluation.settings import LEAKAGE_THRESHOLDS
from dinoforge.evaluation.tables import (
    EvaluationInputs,
    EvaluationStage,
    cache_folder,
    num_sets,
    read_items,
    read_payloads,
)
from dinoforge.files import write_bytes
from dinoforge.images import Undecodable
from dinoforge.sources.discover import fingerprint_sources
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.listing import LISTING_SCHEMA
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = [
    "LeakageStage",
    "Leaked",
    "TrainingImagesStage",
    "TrainingVectorsStage",
    "read_leaked",
    "write_leaked",
]

_log = logging.getLogger(__name__)

_AT_ONCE = 32  # images in memory


class TrainingImagesStage(EvaluationStage):
    """List the images that a model was trained on; of a curation run those that it kept."""

    name = "training-images"
    number = 76
    keys = ("leakage.curation", "decode")
    execution_keys = ("cache",)
    needs = ()

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan one partition; names, sizes and times of the files are in the payload."""
        paths = inputs.config.leakage.curation
        listings = cache_folder(inputs) / "listings" if inputs.run_folder.is_dir() else None
        return [{"files": fingerprint_sources(paths, listings)}] if paths else []

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:  # noqa: ARG002
        """List them."""
        config = inputs.config
        paths = config.leakage.curation
        images = open_images(paths, cache=cache_folder(inputs), policy=config.decode)
        images.account().log()
        out.write_table("images", images.table, LISTING_SCHEMA)
        return {"images": len(images)}


class TrainingVectorsStage(EvaluationStage):
    """Describe the training images."""

    name = "training-vectors"
    number = 78
    keys = ("leakage.encoder", "decode")
    execution_keys = ("partition_images",)
    needs = ("training-images",)

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan ranges of the images."""
        size = inputs.config.partition_images
        return [
            {"start": start, "stop": min(start + size, facts["images"])}
            for facts in inputs.facts("training-images")
            for start in range(0, facts["images"], size)
        ]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Describe one range; rows of images that do not decode are zero."""
        start, stop = payload["start"], payload["stop"]
        table = read_table(inputs.file("training-images", "images.parquet"))
        images = ImageSet(table.slice(start, stop - start), inputs.config.decode)
        encoder = make_encoder(inputs.config.leakage.encoder)
        (vectors,), undecodable = _describe(encoder, images, np.arange(len(images)), views=False)
        out.write_array("vectors", vectors)
        return {"undecodable": undecodable}


class LeakageStage(EvaluationStage):
    """Find the most similar training image of every test image."""

    name = "leakage"
    number = 80
    keys = ("leakage.encoder", "leakage.threshold", "decode")
    execution_keys = ("partition_images",)
    needs = ("list", "training-images", "training-vectors")

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan ranges of the test images of each set."""
        if not inputs.facts("training-images"):
            return []
        size = inputs.config.partition_images
        return [
            {"set": at, "start": start, "stop": min(start + size, count)}
            for at in range(num_sets(inputs))
            for count in [len(read_items(inputs, at).test)]
            for start in range(0, count, size)
        ]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Look up one range."""
        settings = inputs.config.leakage
        threshold = settings.threshold or LEAKAGE_THRESHOLDS[settings.encoder]
        items = read_items(inputs, payload["set"])
        rows = items.test[payload["start"] : payload["stop"]]
        encoder = make_encoder(settings.encoder)
        images = ImageSet(items.table, inputs.config.decode)
        views, undecodable = _describe(encoder, images, rows, views=True)
        files = inputs.files("training-vectors", "vectors.npy")
        blocks = (np.load(file, mmap_mode="r") for file in files)
        hits = find_hits(views, blocks, threshold=threshold)
        out.write_array("is_hit", hits.is_hit)
        out.write_array("best", hits.best)
        out.write_array("similarity", hits.similarity)
        return {
            "encoder": settings.encoder,
            "threshold": threshold,
            "blank": hits.num_blank_test - undecodable,
            "blank_training": hits.num_blank,
        }


def _describe(
    encoder: Encoder, images: ImageSet, rows: NDArray[np.int64], *, views: bool
) -> tuple[list[NDArray[np.float32]], int]:
    """Describe images, or every view of them that is looked up; counts those without pixels."""
    is_pixels = encoder.name == "pixels"
    parts: list[NDArray[np.float32]] = []
    undecodable = 0
    for start in range(0, len(rows), _AT_ONCE):
        pictures, places = [], []
        some = rows[start : start + _AT_ONCE].tolist()
        for place, row in enumerate(some):
            try:
                picture = images.decode(row)
            except Undecodable:
                undecodable += 1
                continue
            places.append(place)
            shown = search_views(picture, parts=is_pixels, mirrored=not is_pixels)
            pictures.append(shown if views else shown[:1])
        count = len(pictures[0]) if pictures else _num_views(is_pixels, views)
        block = np.zeros((count, len(some), encoder.dim), np.float32)
        for view in range(count):
            block[view, places] = encoder.encode([shown[view] for shown in pictures])
        parts.append(block)
    return list(np.concatenate(parts, axis=1)), undecodable


def _num_views(is_pixels: bool, views: bool) -> int:
    blank = np.zeros((1, 1, 3), np.uint8)
    return len(search_views(blank, parts=is_pixels, mirrored=not is_pixels)) if views else 1


class Leaked(NamedTuple):
    """What was found for the test images of a set, in their order."""

    is_hit: NDArray[np.bool_]  # [n]
    best: NDArray[np.int64]  # [n]: the most similar training image, -1: none
    similarity: NDArray[np.float32]  # [n]
    facts: Json  # settings for records


def read_leaked(inputs: EvaluationInputs, at: int) -> Leaked | None:
    """Read what was found for a set; None without training images to look in."""
    trained = inputs.facts("training-images")
    payloads = read_payloads(inputs, "leakage")
    parts = [index for index, payload in enumerate(payloads) if payload["set"] == at]
    if not trained or not parts:
        return None
    is_hit, best, similarity = (
        np.concatenate([np.load(inputs.file("leakage", f"{name}.npy", part)) for part in parts])
        for name in ("is_hit", "best", "similarity")
    )
    facts = [inputs.facts("leakage")[part] for part in parts]
    shared = {
        "encoder": facts[0]["encoder"],
        "threshold": facts[0]["threshold"],
        "training_images": trained[0]["images"],
        "blank_training_images": facts[0]["blank_training"],
        "blank_test_images": sum(one["blank"] for one in facts),
    }
    return Leaked(is_hit, best, similarity, shared)


def write_leaked(inputs: EvaluationInputs, path: Path) -> None:
    """Write every leaked test image with the training image that shows it, as CSV; log counts."""
    if not inputs.facts("training-images"):
        return
    trained = read_table(inputs.file("training-images", "images.parquet"))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["set", "test_image", "training_image", "similarity"])
    for at in range(num_sets(inputs)):
        items, leaked = read_items(inputs, at), read_leaked(inputs, at)
        if leaked is None:
            continue
        hits = np.flatnonzero(leaked.is_hit)
        asked = _places(items.table.take(items.test[hits]))
        shown = _places(trained.take(leaked.best[hits]))
        for test_image, training_image, hit in zip(asked, shown, hits, strict=True):
            similarity = f"{leaked.similarity[hit]:.4f}"
            lines.writerow([items.name, test_image, training_image, similarity])
        level = logging.WARNING if len(hits) else logging.INFO
        text_of_log = "%s: leaked: %d of %d test images, of %d training images"
        _log.log(level, text_of_log, items.name, len(hits), len(leaked.is_hit), len(trained))
    write_bytes(path, text.getvalue().encode())


def _places(table: pa.Table) -> Iterator[str]:
    """Name images by their file, or the tar and the member."""
    columns = (table.column(name).to_pylist() for name in ("shard", "member"))
    for shard, member in zip(*columns, strict=True):
        yield f"{shard}:{member}" if member else shard
