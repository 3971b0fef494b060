"""Attention maps of the images behind some paths, for ``dinoforge attention``."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinoforge.attention.drawing import draw_maps, make_sheet, write_png
from dinoforge.attention.maps import AttentionConfig, AttentionMaps, Mapped, map_each
from dinoforge.attention.masks import attention_masks
from dinoforge.errors import UsageError
from dinoforge.exports.source import Source
from dinoforge.files import hash_json, path_of_text, read_object, write_array, write_json
from dinoforge.images import DECODER_VERSION
from dinoforge.progress import Progress
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import name_undecodable, write_problems
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.sources.outputs import mark_cache

__all__ = ["AttentionSummary", "image_facts", "map_images", "settings_of"]

_VERSION = 1  # raise it when pictures change
_MARKER = "maps.json"  # of an image that is done; written last
_PICTURES = ("head-*.png", "mask-*.png", "mean.png", "overlay.png", "sheet.png", "attention.npy")
_RESERVED = ("attention", "cache", "log")  # other folders of a run
_LONGEST_NAME = 150  # bytes


@dataclass(frozen=True)
class AttentionSummary:
    """Where the maps are, and counts of images."""

    out: str
    num_mapped: int  # earlier starts included
    num_done_before: int
    num_bad: int  # undecodable, smaller than a patch or too large
    heads: int
    patch_size: int
    sources: dict[str, Any]  # see `Account`


def map_images(
    paths: Sequence[str], source: Source, out: Path, config: AttentionConfig
) -> AttentionSummary:
    """Map every image behind ``paths`` (`discover_files`) that decodes; a folder of ``out`` each.

    A folder is named after the key of its image. It gets ``head-00.png`` ..., ``mean.png``,
    ``overlay.png``, with a threshold ``mask-00.png`` ..., ``sheet.png``, and ``maps.json`` when it
    is complete: a later call with the same settings leaves this image out.

    Raises
    ------
    UsageError
        For bad paths or a device that is unavailable, or if no image can be mapped.
    """
    mark_cache(out / "cache")
    images = open_images(paths, cache=out / "cache", policy=config.decode)
    folders = [out / name for name in _folder_names(images.table.column("key").to_pylist())]
    facts = list(image_facts(images, source, config))
    done = [read_object(at / _MARKER) == fact for at, fact in zip(folders, facts, strict=True)]
    todo = [index for index, is_done in enumerate(done) if not is_done]
    problems: dict[int, str] = {}
    with Progress(len(images), unit="images", label="attention", done=sum(done)) as progress:
        maps = AttentionMaps(source, config.device)
        for numbered in map_each(images.decoders_of(todo), maps, config, problems):
            if numbered is not None:
                index, mapped = numbered
                _write(folders[index], mapped, config)
                write_json(folders[index] / _MARKER, facts[index])
            progress.advance()
    account = images.account(undecodable=len(problems))
    record_facts(out, sources=account.as_json())
    account.log()
    write_problems(out, [*images.problems, *name_undecodable(images.table, problems)])
    if len(problems) == len(images):
        first = problems[min(problems)]
        raise UsageError(
            what=f"none of the {len(images)} images can be mapped ({first})",
            where=", ".join(paths),
            do="give other images, or another --size",
        )
    return AttentionSummary(
        out=str(out),
        num_mapped=len(images) - len(problems),
        num_done_before=sum(done),
        num_bad=len(problems),
        heads=source.config.heads,
        patch_size=source.config.patch_size,
        sources=account.as_json(),
    )


def _write(folder: Path, mapped: Mapped, config: AttentionConfig) -> None:
    """Write the pictures of one image; remove those of other settings first."""
    (folder / _MARKER).unlink(missing_ok=True)
    for pattern in _PICTURES:
        for path in folder.glob(pattern):
            path.unlink()
    image, attention_HXY = mapped
    masks = None
    if config.threshold:
        masks = attention_masks(attention_HXY.astype(np.float64), mass=config.threshold)
    drawn = draw_maps(image, attention_HXY, masks, smooth=config.smooth)
    for name, picture in (*drawn.items(), ("sheet", make_sheet(image, drawn))):
        write_png(folder / f"{name}.png", picture)
    if config.array:
        write_array(folder / "attention.npy", attention_HXY)


def image_facts(
    images: ImageSet, source: Source, config: AttentionConfig
) -> Iterator[Mapping[str, Any]]:
    """Yield what the marker of each image holds: where its bytes are, and what made its maps."""
    fingerprint = hash_json(settings_of(source, config))
    changed: dict[str, int] = {}  # file -> time of its last change; 0 in an object store
    for row in images.table.select(["key", "shard", "member", "offset", "size"]).to_pylist():
        if row["shard"] not in changed:
            path = path_of_text(row["shard"])
            changed[row["shard"]] = os.stat(path).st_mtime_ns if os.path.exists(path) else 0  # noqa: PTH110, PTH116 - URLs, too
        yield {**row, "mtime_ns": changed[row["shard"]], "fingerprint": fingerprint}


def settings_of(source: Source, config: AttentionConfig) -> list[Any]:
    """List what maps depend on beside their image, for a fingerprint."""
    settings = {k: v for k, v in asdict(config).items() if k != "workers"}
    network = [source.backbone.fingerprint, source.mean, source.std]
    return [_VERSION, DECODER_VERSION, *network, settings]


def _folder_names(keys: Sequence[str]) -> Iterator[str]:
    """Turn keys into names of folders: distinct, also for file systems that ignore case."""
    taken = set(_RESERVED)
    for key in keys:
        plain = re.sub(r"[^\w.-]+", "_", key).lstrip(".-") or "image"
        plain = plain.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}.{number}"
        taken.add(name.casefold())
        yield name
