"""Edited copies of pool images put among them: duplicates whose truth is known.

With them a run measures its own deduplication on its own data, see the stage `check`. The edits are
what happens to pictures on their way through the web.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from dinoforge.curation import tables
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.images import Undecodable, decode_image, image_suffix
from dinoforge.randomness import Draws, KeyedPermutation
from dinoforge.shards.index import index_shard
from dinoforge.shards.writer import ShardWriter
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["EDIT_KINDS", "PlantStage", "edit_image"]

_QUALITY = 90  # of the JPEG in which every edited copy is written


class PlantStage(CurationStage):
    """Write edited copies of randomly chosen pool images into a shard of the run."""

    name = "plant"
    number = 15
    version = "1.1.0"
    keys = ("plant", "seed", "decode")
    needs = ("ingest",)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none when nothing is planted."""
        return [{}] if inputs.config.plant.count else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Choose originals, edit them, write the copies and their rows of the index.

        Fewer copies than the recipe names, even none, if the pool does not have the images.
        """
        index = read_table(inputs.file("ingest", "index.parquet"))
        copies: list[_Copy] = []
        # All copies in one shard, however large: one index table locates them.
        with ShardWriter(out.folder, "planted", inputs.config.plant.count, 1 << 62) as writer:
            for copy, extension, data in _copies(inputs, index):
                copies.append(copy)
                writer.write(copy.key, {extension: data})
        rows = tables.INDEX_SCHEMA.empty_table()
        for shard in writer.shards:  # one, or none: there was nothing to copy
            out.add(shard.path)
            out.add(shard.path.with_suffix(".json"))
            rows = _index_of(copies, shard.path, inputs.run_folder, index)
        out.write_table("index", rows, tables.INDEX_SCHEMA)
        return {"planted": len(copies)}


class _Copy(NamedTuple):
    key: str
    row: int  # of the original
    edit: str


def _index_of(copies: Sequence[_Copy], shard: Path, run_folder: Path, index: pa.Table) -> pa.Table:
    """Return the rows of the copies, numbered after the images of ``index``, which has some."""
    members = [image.member for image in index_shard(shard).images]
    key, row, edit = zip(*copies, strict=True)
    originals = index.take(pa.array(row))
    count, start = len(copies), index.column("image_id")[-1].as_py() + 1
    columns = {
        "image_id": np.arange(start, start + count),
        "role": ["pool"] * count,
        "source": ["planted"] * count,
        "key": key,
        "shard": [shard.relative_to(run_folder).as_posix()] * count,
        "member": [member.name for member in members],
        "offset": [member.offset for member in members],
        "size": [member.size for member in members],
        "label": originals.column("label"),
        "class_name": originals.column("class_name"),
        "class_space": originals.column("class_space"),
        "planted_from": originals.column("image_id"),
        "edit": edit,
    }
    return pa.table(columns)


def _copies(inputs: CurationInputs, index: pa.Table) -> Iterator[tuple[_Copy, str, bytes]]:
    """Yield each copy with its extension and bytes.

    Originals come in the order of a keyed permutation of the pool; undecodable ones are skipped,
    and no image is copied twice.
    """
    config, reader = inputs.config, ImageReader(inputs.run_folder)
    kinds = config.plant.kinds
    pool = np.flatnonzero(pc.equal(index.column("role"), "pool").to_numpy(zero_copy_only=False))
    count = config.plant.num_copies(len(pool))
    if not count:
        return
    order = KeyedPermutation(len(pool), config.seed, "plant")
    made = 0
    for position in range(len(pool)):
        if made == count:
            return
        row = int(pool[order[position]])
        at = index.slice(row, 1).to_pylist()[0]
        data = reader.read(at["shard"], at["offset"], at["size"])
        kind = kinds[made % len(kinds)]
        try:
            image = decode_image(data or b"", config.decode)
        except Undecodable:
            continue
        extension = "jpg"
        if kind == "exact":
            extension = image_suffix(at["member"] or at["shard"], image.format)
        else:
            data = edit_image(image.pixels, kind, Draws(config.seed, "plant", row))
        yield _Copy(f"planted/{made:06d}_{kind}", row, kind), extension, data or b""
        made += 1


def edit_image(pixels: NDArray[np.uint8], kind: str, draws: Draws) -> bytes:
    """Edit a picture, upright RGB ``[H, W, 3]`` in uint8, and write it as JPEG.

    ``kind`` is a key of `EDIT_KINDS`; ``draws`` decide how strong the edit is. The quality is 90,
    or 30 to 75 for the kind ``jpeg``.
    """
    image = EDIT_KINDS[kind](Image.fromarray(pixels), draws)
    quality = draws.integer(30, 76) if kind == "jpeg" else _QUALITY
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _resize(image: Image.Image, draws: Draws) -> Image.Image:
    """Scale both sides by the same factor from 0.5 to 1.5."""
    factor = draws.uniform(0.5, 1.5)
    width, height = (max(8, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _crop(image: Image.Image, draws: Draws) -> Image.Image:
    """Keep 90 to 97 % of each side, anywhere."""
    share = draws.uniform(0.90, 0.97)
    width, height = (max(1, round(side * share)) for side in image.size)
    left = draws.integer(0, image.width - width + 1)
    top = draws.integer(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def _brighten(image: Image.Image, draws: Draws) -> Image.Image:
    """Multiply by 0.65 to 0.85 or by 1.15 to 1.35."""
    by = draws.uniform(0.15, 0.35)
    return ImageEnhance.Brightness(image).enhance(1 + (by if draws.uniform() < 0.5 else -by))


def _write_on(image: Image.Image, _: Draws) -> Image.Image:
    """Write a line of text across the lower part."""
    canvas = image.copy()
    at = (image.width // 16, image.height - max(12, image.height // 6))
    ImageDraw.Draw(canvas).text(at, "dinoforge", fill=(255, 255, 255))
    return canvas


EDIT_KINDS: Mapping[str, Callable[[Image.Image, Draws], Image.Image]] = {
    "jpeg": lambda image, _: image,
    "resize": _resize,
    "flip": lambda image, _: ImageOps.mirror(image),
    "crop": _crop,
    "brightness": _brighten,
    "text": _write_on,
}
