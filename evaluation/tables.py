"""What the stages of an evaluation write and read: schemas, and one reader per table."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.data import NothingToTestError
from dinoforge.evaluation.layouts.classified import Grading
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.tokens import GRIDS, TokenRequest, Tokens
from dinoforge.sources.listing import LISTING_SCHEMA
from dinoforge.stages import Inputs, Json, Output, Stage
from dinoforge.tables import read_table

__all__ = [
    "IS_DECODED",
    "ITEMS_SCHEMA",
    "EvaluationInputs",
    "EvaluationStage",
    "Extracted",
    "Items",
    "cache_folder",
    "num_sets",
    "read_digests",
    "read_features",
    "read_gradings",
    "read_items",
    "read_models",
    "read_payloads",
    "read_subsets",
    "read_targets",
    "read_tokens",
    "read_undecodable",
    "stop_if_none_decodes",
    "write_gradings",
]

EvaluationInputs = Inputs[EvaluationConfig]
EvaluationStage = Stage[EvaluationConfig]

IS_DECODED = "is_decoded"  # name of an array among those of the features

# list: one row per image of a set, the bank's first; number: of its class, one per class of bank
# and test images, -1: none; an image may be in the bank, among the test images, or both;
# box: left, top, right, bottom of what a query shows of its image, in pixels; null: all of it
ITEMS_SCHEMA = pa.schema(
    [
        *LISTING_SCHEMA,
        ("number", pa.int64()),
        ("in_bank", pa.bool_()),
        ("in_test", pa.bool_()),
        ("box", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Items:
    """The images of one data set and what is known of them."""

    name: str
    table: pa.Table  # of `ITEMS_SCHEMA`
    facts: dict[str, Any]  # of the stage `list`

    def __len__(self) -> int:
        """Count the images."""
        return self.table.num_rows

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Number of the class of every image, -1: none."""
        return self.table.column("number").to_numpy()

    @cached_property
    def bank(self) -> NDArray[np.int64]:
        """Rows of the bank."""
        return np.flatnonzero(self.table.column("in_bank").to_numpy())

    @cached_property
    def test(self) -> NDArray[np.int64]:
        """Rows of the test images."""
        return np.flatnonzero(self.table.column("in_test").to_numpy())

    @property
    def has_boxes(self) -> bool:
        """Whether any image is shown in part."""
        return bool(self.table.column("box").null_count < len(self))

    @cached_property
    def boxes(self) -> list[list[float] | None]:
        """What a query shows of its image, see `ITEMS_SCHEMA`."""
        boxes: list[list[float] | None] = self.table.column("box").to_pylist()
        return boxes

    @property
    def leave_one_out(self) -> bool:
        """Whether the test images are the bank's own."""
        return bool(self.facts["leave_one_out"])

    @property
    def layout(self) -> str:
        """The published layout of a set with a truth of its own; "": images with classes."""
        return str(self.facts["layout"])

    @property
    def num_val(self) -> int:
        """How many images at the end of the bank are for choices; 0: none are set apart."""
        return int(self.facts["num_val"])

    @property
    def not_downloaded(self) -> Counter[str]:
        """Samples that img2dataset did not get, by status; a list of an earlier version has none.

        It stays valid: listed again, all features would be extracted again.
        """
        return Counter(self.facts.get("not_downloaded", {}))

    @property
    def has_targets(self) -> bool:
        """Whether images have several labels."""
        return bool(self.facts["has_targets"])

    @property
    def is_labeled(self) -> bool:
        """Whether accuracies can be measured."""
        return all(bool((self.labels[rows] >= 0).any()) for rows in (self.bank, self.test))


def read_items(inputs: EvaluationInputs, at: int) -> Items:
    """Read the data set at a place of the recipe."""
    facts = inputs.facts("list")[at]
    return Items(facts["name"], read_table(inputs.file("list", "items.parquet", at)), facts)


def num_sets(inputs: EvaluationInputs) -> int:
    """Count the data sets."""
    return len(inputs.files("list", "items.parquet"))


def write_gradings(out: Output, gradings: Sequence[Grading]) -> list[Json]:
    """Write down how the test images of a set are graded; returns facts for `read_gradings`."""
    facts = []
    for number, one in enumerate(gradings):
        for name in ("rows", "truths", "variants"):
            if (array := getattr(one, name)) is not None:
                out.write_array(f"{name}-{number}", array)
        plain = {"name": one.name, "metric": one.metric, "facts": dict(one.facts)}
        facts.append(plain | {"kept": one.kept, "has_variants": one.variants is not None})
    return facts


def read_gradings(inputs: EvaluationInputs, at: int) -> list[Grading]:
    """Read how the test images of a set of a published layout are graded."""

    def read(name: str, number: int) -> NDArray[np.int64]:
        array: NDArray[np.int64] = np.load(inputs.file("list", f"{name}-{number}.npy", at))
        return array

    return [
        Grading(
            rows=read("rows", number),
            truths=read("truths", number),
            variants=read("variants", number) if facts.pop("has_variants") else None,
            **facts,
        )
        for number, facts in enumerate(read_items(inputs, at).facts["gradings"])
    ]


def read_subsets(inputs: EvaluationInputs, at: int) -> list[NDArray[np.int64]]:
    """Read the rows of the lists of images of the bank that the recipe names."""
    count = read_items(inputs, at).facts["subsets"]
    return [np.load(inputs.file("list", f"subset-{n}.npy", at)) for n in range(count)]


def read_targets(inputs: EvaluationInputs, at: int) -> NDArray[np.int8] | None:
    """Read the labels of the images of the bank of a set whose images have several."""
    if not read_items(inputs, at).has_targets:
        return None
    targets: NDArray[np.int8] = np.load(inputs.file("list", "targets.npy", at))
    return targets


def read_digests(inputs: EvaluationInputs, at: int) -> NDArray[np.uint8]:
    """Read the SHA-256 of the bytes of every image of a set, ``[n, 32]``."""
    parts = [
        np.load(inputs.file("digest", "digests.npy", index))
        for index, payload in enumerate(read_payloads(inputs, "digest"))
        if payload["set"] == at
    ]
    return np.concatenate(parts)


def read_models(inputs: EvaluationInputs) -> list[Model]:
    """Read the models to measure, in the order of the report."""
    return [Model.from_json(row) for row in inputs.facts("models")[0]["models"]]


def read_payloads(inputs: EvaluationInputs, stage: str) -> list[Json]:
    """Read what the partitions of an earlier stage were given."""
    plan = json.loads((inputs.folder(stage) / "plan.json").read_text(encoding="utf-8"))
    payloads: list[Json] = plan["payloads"]
    return payloads


def read_tokens(
    inputs: EvaluationInputs, model: int, at: int, request: TokenRequest
) -> tuple[Tokens, NDArray[np.bool_]]:
    """Open the tokens of every image of a set by one model, and which images decode."""
    parts = [
        index
        for index, payload in enumerate(read_payloads(inputs, "features"))
        if (payload["model"], payload["set"]) == (model, at)
        and payload["tokens"] is not None
        and request.is_part_of(TokenRequest.from_json(payload["tokens"]))
    ]

    def read(index: int, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(inputs.file("features", f"{name}.npy", index), mmap_mode="r")
        return array

    tokens = Tokens([{n: read(i, n) for n in (GRIDS, *request.arrays)} for i in parts])
    return tokens, np.concatenate([read(index, IS_DECODED) for index in parts])


@dataclass(frozen=True)
class Extracted:
    """Features of every image of a set by one model; rows of undecodable images are zero."""

    vectors: dict[str, NDArray[Any]]  # as the encoder gives them, [n, D]
    is_decoded: NDArray[np.bool_]
    request: Json  # a `VectorRequest`


def read_features(inputs: EvaluationInputs, model: int, at: int, view: int = -1) -> Extracted:
    """Read the features that a model gave for the images of a set, or for a view of the bank."""
    payloads = read_payloads(inputs, "features")
    parts = [
        index
        for index, payload in enumerate(payloads)
        if (payload["model"], payload["set"]) == (model, at)
        and (payload["vectors"] or {}).get("view") == view
    ]
    facts = inputs.facts("features")
    arrays = {
        name: np.concatenate(
            [np.load(inputs.file("features", f"{name}.npy", index)) for index in parts]
        )
        for name in facts[parts[0]]["arrays"]
    }
    return Extracted(arrays, arrays.pop(IS_DECODED), payloads[parts[0]]["vectors"])


def read_undecodable(inputs: EvaluationInputs, at: int) -> NDArray[np.bool_]:
    """Read which images of a set do not decode, whatever the model."""
    payloads = read_payloads(inputs, "features")
    first = next(((p["model"], p["set"], p["tokens"]) for p in payloads if p["set"] == at), None)
    if first is None:
        return np.zeros(len(read_items(inputs, at)), np.bool_)
    return np.concatenate(
        [
            ~np.load(inputs.file("features", f"{IS_DECODED}.npy", index))
            for index, p in enumerate(payloads)
            if (p["model"], p["set"], p["tokens"]) == first
            and (p["vectors"] or {"view": -1})["view"] < 0
        ]
    )


def stop_if_none_decodes(items: Items, is_decoded: NDArray[np.bool_]) -> None:
    """Raise `NothingToTestError` if no image of the bank, or no test image, decodes."""
    is_held_out = not items.facts["has_own_test"]
    test_images = "images held out for the test" if is_held_out else "test images"
    for rows, images, key in (
        (items.bank, "images of the bank", "`train`"),
        (items.test, test_images, "`train`" if is_held_out else "`test`"),
    ):
        if not is_decoded[rows].any() and (len(rows) or not items.layout):
            raise NothingToTestError(
                what=f"none of the {len(rows)} {images} decodes",
                where=key,
                do="name folders or tars of images that decode",
            )


def cache_folder(inputs: EvaluationInputs) -> Path:
    """Folder of unpacked tars and extracted features."""
    return Path(inputs.config.cache) if inputs.config.cache else inputs.run_folder / "cache"
