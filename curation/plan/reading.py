"""What the stages cost that read every image, up to embed.

The seconds are those of one thread, measured on 2026-11-30 on an EPYC core with CIFAR-10 (60,000
images of 32 pixels), 1,800 photographs of clothing and 1,000 of ImageNet.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from dinoforge.curation.plan.cost import NOTHING, Cost, num_ranges, picture_bytes
from dinoforge.curation.plan.encoders import PlannedEncoder
from dinoforge.curation.plan.sizes import Sizes, blocks
from dinoforge.curation.stages.discover import PARTITION_BYTES
from dinoforge.curation.stages.measures.side_tables import PARTITION_ROWS
from dinoforge.curation.stored.scores import scored_by
from dinoforge.scorers.make import PIXELS
from dinoforge.scorers.measures import MEASURES
from dinoforge.tables import BLOCK_ROWS

__all__ = ["INSPECT", "READING_COSTS"]

# Decoding and hashing an image, and decoding it for the encoder `pixels`: fixed, per pixel.
INSPECT = (64e-6, 9.3e-9)
_PIXELS = (105e-6, 1.12e-8)
_RESIZE_S_PER_PIXEL = 1.0e-8  # to the side of a network
# Seconds per row of the tables that one task reads as a whole, and bytes that it holds per row.
_FILE_S, _LIST_S, _INGEST_S = 200e-6, 25e-6, 3e-6
_UNPACK_S = 25e-6  # of an image in a compressed archive
# Bytes of an image while its tar is listed; of a row of a block, of which several are held.
_TAR_IMAGE, _LIST_ROW, _INGEST_ROW = 1500.0, 650.0, 1300.0
_INDEX_ROW = 325.0  # of a row of the index in memory
_INGEST_TABLES = 26_000.0  # bytes of empty tables
_TAR_IMAGES = 10_000  # in each tar of a source; one image per file would be 1 KB of memory each
_PLANT_S, _PLANT_ROW = 0.8e-3, 2000.0
_FILTER_S, _FILTER_ROW = 0.3e-6, 40.0
# Of an image of about 256 to 511 pixels, which larger ones are reduced to; networks of any side.
_SCORE_S = {PIXELS: 4.6e-3, "nsfw": 42e-3, "faces": 60e-3}
# A perceptual hash with decoding: fixed, per pixel, per hash of the list, a line of so many bytes.
_HASH_S, _HASH_LINE = (100e-6, 9e-9, 0.7e-9), 17
# A file of JSON as img2dataset writes it, with a header to find it; all of its columns.
_SIDE_S, _SIDE_BYTES, _SIDE_ROW = 60e-6, 200.0, 6000.0
# Tables joined to them: per row that is searched, value that is read, value that an image gets.
_PASSED_S, _PASSED_VALUE_S, _JOINED_VALUE_S = 450e-9, 50e-9, 250e-9
_JOINED_BYTES, _JOINED_VALUE = 8.0, 79.0  # per value, compressed and in memory
_WHERE_S = 0.5e-6  # a condition on four columns
# Bytes per row of the tables, compressed, without the key.
_LISTED_BYTES, _INDEX_BYTES, _FACTS_BYTES = 17.7, 20.6, 76.0
_PLACES_BYTES, _LEDGER_BYTES = 58.0, 61.0


def _discover(sizes: Sizes) -> Cost:
    files = _num_files(sizes)
    return Cost(1, 2, core_s=0.3 + files * _FILE_S, bytes=3000 + files * 32, memory=files * 1000.0)


def _num_files(sizes: Sizes) -> int:
    """Count the files: tars of 10,000 images, and at least one per source."""
    return len(sizes.config.sources) + _listed(sizes) // _TAR_IMAGES


def _listed(sizes: Sizes) -> int:
    return sizes.total - sizes.planted


def _list(sizes: Sizes) -> Cost:
    packed = any(".gz" in path or ".tgz" in path or ".zip" in path for path in _paths(sizes))
    per_image = blocks(sizes.images.file_bytes) + 512
    listed = _listed(sizes)
    unpacked = listed * (per_image + 1024) if packed else 0.0
    return Cost(
        len(sizes.config.sources) + int(listed * per_image / PARTITION_BYTES),
        3,
        core_s=listed * (_LIST_S + (_UNPACK_S if packed else 0)),
        bytes=_num_files(sizes) * 40 + listed * (_LISTED_BYTES + sizes.images.key_bytes) + unpacked,
        memory=min(listed, _TAR_IMAGES) * _TAR_IMAGE + min(listed, BLOCK_ROWS) * _LIST_ROW,
    )


def _ingest(sizes: Sizes) -> Cost:
    listed = _listed(sizes)
    # A byte or two per image: is it selected, by a limit?
    held = min(listed, BLOCK_ROWS) * _INGEST_ROW + 2 * listed
    return Cost(
        1,
        4,
        core_s=0.1 + listed * _INGEST_S,
        bytes=_INGEST_TABLES + listed * (_INDEX_BYTES + sizes.images.key_bytes),
        memory=held,
    )


def _paths(sizes: Sizes) -> list[str]:
    return [path for source in sizes.config.sources for path in source.paths]


def _plant(sizes: Sizes) -> Cost:
    if not sizes.planted:
        return NOTHING
    per_copy = blocks(sizes.images.file_bytes) + 512
    return Cost(
        1,
        3,
        core_s=sizes.planted * _PLANT_S + sizes.planted * sizes.images.pixels * 3e-8,
        bytes=sizes.planted * (per_copy + _INDEX_BYTES),
        memory=sizes.planted * _PLANT_ROW + sizes.total * _INDEX_ROW,
    )


def _inspect(sizes: Sizes) -> Cost:
    per_image = INSPECT[0] + INSPECT[1] * sizes.images.pixels
    size = sizes.config.partition_images
    return Cost(
        num_ranges(sizes.total, size),
        1,
        core_s=sizes.total * per_image,
        bytes=sizes.total * _FACTS_BYTES,
        memory=size * 2000.0 + 2 * picture_bytes(sizes),
    )


def _side(sizes: Sizes) -> Cost:
    if not sizes.config.side.columns:
        return NOTHING
    size = sizes.config.partition_images
    return Cost(
        num_ranges(sizes.total, size),
        1,
        core_s=sizes.total * _SIDE_S,
        bytes=sizes.total * _SIDE_BYTES,
        memory=size * _SIDE_ROW,
    )


def _score(sizes: Sizes) -> Cost:
    specs = scored_by(sizes.config.scores)
    if not specs:
        return NOTHING
    size, pixels = sizes.config.partition_images, sizes.images.pixels
    seconds = [_score_s(spec, pixels) for spec in specs]
    known = [one for one in seconds if one is not None]
    unknown = len(known) < len(seconds)
    columns = sum(len(MEASURES) if spec == PIXELS else 2 for spec in specs)
    return Cost(
        num_ranges(sizes.total, size) * len(specs),
        1,
        core_s=sizes.total * sum(known),
        product_s=None if unknown else 0.0,
        bytes=sizes.total * columns * 4.0,
        memory=size * columns * 8.0 + 64 * 2 * picture_bytes(sizes),
    )


def _score_s(spec: str, pixels: float) -> float | None:
    """Return the seconds per image; None for a network or function of unknown cost."""
    kind, _, path = spec.partition(":")
    if kind != "phash":
        known = _SCORE_S.get(spec)
        return None if known is None else known + INSPECT[0] + INSPECT[1] * pixels
    listed = Path(path).stat().st_size / _HASH_LINE if Path(path).is_file() else 0
    return _HASH_S[0] + _HASH_S[1] * pixels + _HASH_S[2] * listed


def _side_tables(sizes: Sizes) -> Cost:
    if not sizes.config.side.columns or not sizes.config.side.tables:
        return NOTHING
    images, columns = sizes.total, sizes.images.side_columns
    partitions = num_ranges(images, PARTITION_ROWS)
    rows = sizes.images.side_rows or images
    # Every partition passes through all tables; in random order it has rows in all row groups.
    passed = partitions * rows * (_PASSED_S + columns * _PASSED_VALUE_S)
    return Cost(
        partitions,
        1,
        core_s=passed + images * columns * _JOINED_VALUE_S,
        bytes=images * columns * _JOINED_BYTES,
        memory=min(images, PARTITION_ROWS) * columns * _JOINED_VALUE,
    )


def _filter(sizes: Sizes) -> Cost:
    rows = sizes.total
    held = min(rows, BLOCK_ROWS) * _FILTER_ROW
    core_s, files = rows * _FILTER_S, 1
    if sizes.config.filter.where:
        core_s, files, held = rows * (_FILTER_S + _WHERE_S), 2, held * 4
    return Cost(1, files, core_s=core_s, bytes=760 + rows * 0.008, memory=held)


def _embed(sizes: Sizes, encoder: PlannedEncoder, views: int = 1) -> Cost:
    size, pixels = sizes.config.partition_images, sizes.images.pixels
    decode_s = _PIXELS[0] + _PIXELS[1] * pixels
    if encoder.resizes:
        decode_s = INSPECT[0] + (INSPECT[1] + _RESIZE_S_PER_PIXEL * views) * pixels
    product_s, flops = encoder.core_s, encoder.flops
    runs_on_cpu = encoder.flops == 0.0
    products = None if product_s is None else sizes.total * views * product_s
    host_s = sizes.total * decode_s + (products or 0.0 if runs_on_cpu else 0.0)
    return Cost(
        num_ranges(sizes.total, size),
        1,
        core_s=host_s,
        product_s=0.0 if runs_on_cpu else products,
        flops=None if flops is None else sizes.total * views * flops,
        bytes=sizes.total * views * encoder.dim * 2.0,
        memory=size * views * encoder.dim * 2.0 + 64 * 2 * picture_bytes(sizes),
    )


def _embed_same(sizes: Sizes) -> Cost:
    return _embed(sizes, sizes.encoder)


def _embed_meaning(sizes: Sizes) -> Cost:
    return _embed(sizes, sizes.meaning) if sizes.meaning else NOTHING


def _embed_windows(sizes: Sizes) -> Cost:
    policy = sizes.config.duplicates.verify
    needed = policy.mode == "pixels" and policy.windows
    return _embed(sizes, sizes.encoder, views=5) if needed else NOTHING


READING_COSTS: Mapping[str, Callable[[Sizes], Cost]] = {
    "discover": _discover,
    "list": _list,
    "ingest": _ingest,
    "plant": _plant,
    "inspect": _inspect,
    "side": _side,
    "score": _score,
    "side-tables": _side_tables,
    "filter": _filter,
    "embed": _embed_same,
    "embed-meaning": _embed_meaning,
    "embed-windows": _embed_windows,
}
