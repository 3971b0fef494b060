"""Features of images, extracted once for each model and data set.

Partitions are made once for all runs that share a cache, under a hash of everything that they
depend on: the bytes of the images, the decoder, weights and transform, the device.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.device import resolve_device
from dinoforge.encoders.stream import Rate, describe_rates, num_workers
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig, protocols_for
from dinoforge.evaluation.features import Extractor, VectorRequest, describe, open_extractor
from dinoforge.evaluation.methods.views import random_views
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.settings import InputConfig
from dinoforge.evaluation.stages.protocol import PROTOCOL_KEYS, ProtocolStage
from dinoforge.evaluation.tables import (
    IS_DECODED,
    EvaluationInputs,
    EvaluationStage,
    Items,
    cache_folder,
    num_sets,
    read_digests,
    read_items,
    read_models,
)
from dinoforge.evaluation.tokens import GRIDS, TokenRequest, describe_tokens, merge_requests
from dinoforge.files import hash_json, sha256_file, write_array, write_json
from dinoforge.sources.image_set import ImageSet
from dinoforge.sources.listing import locate_images
from dinoforge.sources.outputs import mark_cache
from dinoforge.stages import Json, Output, part_name

__all__ = ["FeaturesStage"]

_FORMAT = 3
_VECTORS_PER_TOKENS = 16  # a partition of tokens has that many times fewer images


class FeaturesStage(EvaluationStage):
    """Extract the features of a range of images with one model."""

    name = "features"
    number = 20
    keys = ("decode", "device", "batch_size", "storage")
    needs = ("list", "digest", "models")
    runs_on = "gpu"

    def __init__(self, protocols: Sequence[ProtocolStage]) -> None:
        self.protocols = tuple(protocols)
        # What the protocols ask for is in the payload.
        asked = (key for stage in protocols for key in stage.request_keys)
        keys = ("cache", "partition_images", "input", "workers", *PROTOCOL_KEYS, *asked)
        self.execution_keys = (*dict.fromkeys(keys),)

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan ranges of each set for what the protocols ask of every model."""
        sets = [
            (read_items(inputs, at), read_digests(inputs, at)) for at in range(num_sets(inputs))
        ]
        return [
            {
                "model": number,
                "set": at,
                "start": start,
                "stop": start + len(some),
                "images": hash_json(digests[some].tobytes().hex()),
                "encoder": model.fingerprint,
                "vectors": vectors,
                "boxes": [items.boxes[row] for row in some] if vectors and vectors["boxes"] else [],
                "tokens": tokens,
            }
            for number, model in enumerate(read_models(inputs))
            for at, (items, digests) in enumerate(sets)
            for vectors, tokens, size in self.requests(inputs.config, model, items)
            for rows in [_rows(items, vectors)]
            for start in range(0, len(rows), size)
            for some in [rows[start : start + size]]
        ]

    def requests(
        self, config: EvaluationConfig, model: Model, items: Items
    ) -> list[tuple[Json | None, Json | None, int]]:
        """List what is extracted: vectors or tokens, and the images of a partition."""
        asked = [
            stage.request(config, model, items)
            for stage in self.protocols
            if stage.name in protocols_for(config, items.name) and stage.suits(model, items)
        ]
        if not items.layout and model.is_newest:
            asked.append(VectorRequest())  # also shows which images decode
        size = config.partition_images
        requests: list[tuple[Json | None, Json | None, int]] = []
        if vectors := [one for one in asked if isinstance(one, VectorRequest)]:
            one = _one_request(vectors, config.input, model)
            requests.append((one.as_json(), None, size))
            for view in range(max(asked.views for asked in vectors)):
                # Crops of any aspect are resized to the square input.
                of_view = replace(one, view=view, fit="stretch", gem=False, boxes=False)
                requests.append((of_view.as_json(), None, size))
        tokens = merge_requests([one for one in asked if isinstance(one, TokenRequest)])
        few = max(1, size // _VECTORS_PER_TOKENS)
        return requests + [(None, one.as_json(), few) for one in tokens]

    def describe_measured(self, measured: Sequence[Json]) -> str:
        """Describe images per second, and how long the network waited for decoded images."""
        return describe_rates(measured)

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Extract one range, or take it from the cache."""
        config, cache = inputs.config, cache_folder(inputs)
        workers = num_workers(config.workers)
        start, stop = payload["start"], payload["stop"]
        depends_on = {
            name: payload[name] for name in ("images", "encoder", "vectors", "boxes", "tokens")
        }
        depends_on |= {"format": _FORMAT, "decode": asdict(config.decode)}
        device = str(resolve_device(config.device))  # machines with and without a GPU differ
        depends_on |= {"device": device, "batch_size": config.batch_size}
        depends_on |= {"storage": config.storage}
        folder = cache / "features" / hash_json(depends_on)[:32]
        items = read_items(inputs, payload["set"])
        arrays = _read(folder)
        if arrays is None:
            model = read_models(inputs)[payload["model"]]
            request = VectorRequest(**payload["vectors"]) if payload["vectors"] else None
            extractor = open_extractor(
                model, device=device, batch_size=config.batch_size, request=request
            )
            rows = _rows(items, payload["vectors"])[start:stop]
            images = ImageSet(items.table.take(rows), config.decode)
            draws = None
            if request is not None and request.view >= 0:
                draws = random_views(read_digests(inputs, payload["set"])[rows], request.view)
            mark_cache(cache)
            rate = Rate()
            rows_of = partial(_extract, extractor, images, payload, config.storage, draws)
            arrays = _write(folder, rows_of(workers=workers, rate=rate))
            out.measured |= rate.as_json()
        for name in arrays:
            _link(folder / f"{name}.npy", out.folder / f"{part_name(out.index)}.{name}.npy")
            out.add(out.folder / f"{part_name(out.index)}.{name}.npy")
        is_decoded = np.load(folder / f"{IS_DECODED}.npy")
        _stop_if_undecodable(items, start, is_decoded)
        return {"arrays": arrays, "undecodable": int((~is_decoded).sum())}


def _one_request(asked: Sequence[VectorRequest], own: InputConfig, model: Model) -> VectorRequest:
    """Ask once for what several protocols need; only a ViT has a choice of input and features."""
    boxes = any(one.boxes for one in asked)
    if model.file is None:
        return VectorRequest(boxes=boxes)
    if not model.is_vit:
        return VectorRequest(side=own.side, fit=own.fit, boxes=boxes)
    side = own.side // model.patch_size * model.patch_size
    if own.side and not side:
        raise UsageError(
            what=f"`input.side` {own.side} is less than a patch",
            where=model.name,
            do=f"give {model.patch_size} or more",
        )
    return VectorRequest(
        blocks=max(one.blocks for one in asked),
        gem="cls_gem" in model.features,
        side=side,
        fit=own.fit,
        boxes=boxes,
    )


def _rows(items: Items, vectors: Json | None) -> NDArray[np.int64]:
    """Rows of the images that a request is for: views are only of the bank."""
    return items.bank if vectors and vectors["view"] >= 0 else np.arange(len(items))


def _extract(
    extractor: Extractor,
    images: ImageSet,
    payload: Json,
    storage: str,
    draws: NDArray[np.float64] | None,
    *,
    workers: int | None,
    rate: Rate,
) -> dict[str, NDArray[Any]]:
    if payload["tokens"] is None:
        boxes = payload["boxes"]
        return describe(extractor, images, storage, boxes, draws, workers=workers, rate=rate)
    assert extractor.vit is not None, "tokens of a model that has none"
    request = TokenRequest.from_json(payload["tokens"])
    arrays = describe_tokens(extractor.vit, images, request, storage)
    return {IS_DECODED: np.all(arrays[GRIDS] > 0, axis=1), **arrays}


def _stop_if_undecodable(items: Items, start: int, is_decoded: NDArray[np.bool_]) -> None:
    """Refuse a benchmark with damaged images: it has none to skip."""
    if not items.layout or is_decoded.all():
        return
    bad = start + int(np.flatnonzero(~is_decoded)[0])
    raise UsageError(
        what=f"undecodable image of {items.name}",
        where=locate_images(items.table.slice(bad, 1))[0][0],
        do="restore the file from the data set",
    )


def _write(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    for name, array in arrays.items():
        write_array(folder / f"{name}.npy", array)
    sums = {name: sha256_file(folder / f"{name}.npy") for name in arrays}
    write_json(folder / "arrays.json", sums)  # last: proves that they are complete
    return list(arrays)


def _read(folder: Path) -> list[str] | None:
    """Return the names of the arrays in a folder of the cache; None if one is damaged."""
    try:
        sums: dict[str, str] = json.loads((folder / "arrays.json").read_text(encoding="utf-8"))
        intact = all(sha256_file(folder / f"{name}.npy") == sums[name] for name in sums)
    except (OSError, ValueError):
        return None
    return list(sums) if intact else None


def _link(source: Path, target: Path) -> None:
    """Give a file of the cache a name in the run, or copy it to another file system."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
