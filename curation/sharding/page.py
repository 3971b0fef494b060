"""One page about the shards of a run: sizes, formats, classes, and pictures from all of them."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from dinoforge.curated import shards_folder
from dinoforge.curation.sharding.summary import ShardingSummary
from dinoforge.curation.sharding.tables import ShardingInputs
from dinoforge.files import path_text, write_text
from dinoforge.images import Undecodable, decode
from dinoforge.pages.formatting import bytes_size
from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import Thumbnail, thumbnail
from dinoforge.shards.index import index_shard
from dinoforge.shards.reading import RangeReader
from dinoforge.tables import read_table

__all__ = ["page_file", "write_page"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_SHARDS, _PER_SHARD = 8, 6  # of which pictures are shown
_LISTED = 20  # shards, classes and extensions


def page_file(run_folder: Path) -> Path:
    """Return the path of the page."""
    return run_folder / "shards.html"


def write_page(inputs: ShardingInputs, summary: ShardingSummary) -> None:
    """Write the page of a finished run."""
    sizes = [shard["bytes"] for shard in summary.shards]
    labels = sorted(summary.labels.items(), key=lambda item: (-item[1], item[0]))
    text = render(
        "shards.html",
        folder=_TEMPLATES,
        title=f"{inputs.config.name}: shards",
        summary=summary,
        sizes={"least": min(sizes), "mean": sum(sizes) / len(sizes), "most": max(sizes)},
        sides=_ranges(summary.sides, lambda bits: f"{2 ** (bits - 1):,} to {2**bits - 1:,} px"),
        weights=_ranges(summary.weights, _bytes_range),
        labels=[(summary.classes.get(label, label), number) for label, number in labels[:_LISTED]],
        num_labels=len(labels),
        shards=summary.shards[:_LISTED],
        pictures=_pictures(inputs, summary),
    )
    write_text(page_file(inputs.run_folder), text)


def _ranges(counts: Mapping[str, int], name: Callable[[int], str]) -> list[tuple[str, int]]:
    """Return ranges of powers of two with their counts, without gaps."""
    bits = sorted(map(int, counts))
    every = range(bits[0], bits[-1] + 1) if bits else ()
    return [(name(number), counts.get(str(number), 0)) for number in every]


def _bytes_range(bits: int) -> str:
    return f"{bytes_size(2 ** (bits - 1))} to {bytes_size(2**bits)}" if bits else "0 B"


def _pictures(inputs: ShardingInputs, summary: ShardingSummary) -> list["_Shown"]:
    """Decode some images of some shards, both at even distances."""
    config, shown = inputs.config, []
    for number in _spaced(len(summary.shards), _SHARDS):
        tar = shards_folder(inputs.run_folder) / summary.shards[number]["shard"]
        for key, offset, size in _places(tar, has_table=config.sidecar):
            data, picture = RangeReader(max_open=1).read(path_text(tar), offset, size), None
            with contextlib.suppress(Undecodable):
                picture = thumbnail(decode(data, config.decode))
            shown.append(_Shown(key, tar.name, bytes_size(size), picture))
    return shown


@dataclass(frozen=True)
class _Shown:
    """One image; without a picture if it does not decode."""

    key: str
    shard: str
    size: str
    picture: Thumbnail | None


def _places(tar: Path, *, has_table: bool) -> list[tuple[str, int, int]]:
    """Return key, offset and size of some images of a shard."""
    if has_table:
        table = read_table(tar.with_suffix(".parquet"), ["key", "offset", "size"])
        rows = table.filter(pc.is_valid(table.column("offset"))).to_pylist()
        every = [(row["key"], row["offset"], row["size"]) for row in rows]
    else:
        images = index_shard(tar).images
        every = [(image.key, image.member.offset, image.member.size) for image in images]
    return [every[at] for at in _spaced(len(every), _PER_SHARD)]


def _spaced(num: int, most: int) -> list[int]:
    positions: list[int] = np.unique(np.linspace(0, max(num - 1, 0), most).astype(int)).tolist()
    return positions if num else []
