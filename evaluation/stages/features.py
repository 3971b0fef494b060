"""Features of images, extracted once for each model and data set.

Partitions are made once for all runs that share a cache, under a hash of everything that they
depend on: the bytes of the images, the decoder, weights and transform, the device.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.device import resolve_device
from dinoforge.evaluation.config import protocols_for
from dinoforge.evaluation.features import describe, open_extractor
from dinoforge.evaluation.tables import (
    IS_DECODED,
    EvaluationInputs,
    EvaluationStage,
    cache_folder,
    has_curve,
    num_sets,
    read_digests,
    read_items,
    read_models,
)
from dinoforge.files import hash_json, sha256_file, write_array, write_json
from dinoforge.sources.image_set import ImageSet
from dinoforge.sources.outputs import mark_cache
from dinoforge.stages import Json, Output, part_name

__all__ = ["FeaturesStage"]

_FORMAT = 2


class FeaturesStage(EvaluationStage):
    """Extract the features of a range of images with one model."""

    name = "features"
    number = 20
    keys = ("decode", "device", "batch_size", "storage")
    execution_keys = ("cache", "partition_images", "protocols", "sets", "linear")
    needs = ("list", "digest", "models")
    runs_on = "gpu"

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan ranges of each set for every model; earlier checkpoints only where a curve is."""
        sets = [
            (read_items(inputs, at), read_digests(inputs, at)) for at in range(num_sets(inputs))
        ]
        size = inputs.config.partition_images
        protocols = [protocols_for(inputs.config, items.name) for items, _ in sets]
        most = max(inputs.config.linear.blocks)
        return [
            {
                "model": number,
                "set": at,
                "start": start,
                "stop": min(start + size, len(items)),
                "images": hash_json(digests[start : start + size].tobytes().hex()),
                "encoder": model.fingerprint,
                "blocks": most if model.file and "linear" in protocols[at] else 1,
            }
            for number, model in enumerate(read_models(inputs))
            for at, (items, digests) in enumerate(sets)
            if model.is_newest or has_curve(items, protocols[at])
            for start in range(0, len(items), size)
        ]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Extract one range, or take it from the cache."""
        config, cache = inputs.config, cache_folder(inputs)
        start, stop = payload["start"], payload["stop"]
        depends_on = {name: payload[name] for name in ("images", "encoder", "blocks")}
        depends_on |= {"format": _FORMAT, "decode": asdict(config.decode)}
        depends_on |= {"device": config.device, "batch_size": config.batch_size}
        depends_on |= {"storage": config.storage}
        folder = cache / "features" / hash_json(depends_on)[:32]
        arrays = _read(folder)
        if arrays is None:
            model = read_models(inputs)[payload["model"]]
            device = str(resolve_device(config.device))
            extractor = open_extractor(
                model, device=device, batch_size=config.batch_size, blocks=payload["blocks"]
            )
            table = read_items(inputs, payload["set"]).table.slice(start, stop - start)
            mark_cache(cache)
            arrays = _write(
                folder, describe(extractor, ImageSet(table, config.decode), config.storage)
            )
        for name in arrays:
            _link(folder / f"{name}.npy", out.folder / f"{part_name(out.index)}.{name}.npy")
            out.add(out.folder / f"{part_name(out.index)}.{name}.npy")
        is_decoded = np.load(folder / f"{IS_DECODED}.npy")
        return {"arrays": arrays, "undecodable": int((~is_decoded).sum())}


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
