"""Images to vectors, features of patches, regions and thumbnails: one pass over their pixels."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.demo.index.config import ThumbnailsConfig
from dinoforge.demo.index.regions import choose_regions
from dinoforge.demo.index.tables import IMAGES_SCHEMA, IndexInputs, IndexStage, cached_network
from dinoforge.demo.network import Network
from dinoforge.encoders.encoder import Image
from dinoforge.encoders.stream import Rate, Work, describe_rates, encode_images, num_workers
from dinoforge.files import write_atomic, write_bytes
from dinoforge.images import Undecodable
from dinoforge.images.resize import encode_webp, shrink
from dinoforge.sources.beside import SideReader
from dinoforge.sources.image_set import ImageSet
from dinoforge.stages import Json, Output, part_name
from dinoforge.tables import read_rows

__all__ = ["EmbedStage"]

_AT_ONCE = 16  # images of a group: their patches wait in memory


class _Fitted(NamedTuple):
    """An image as the network takes it, and what is kept of its pixels."""

    whole: Image  # for its vector
    patched: Image | None  # for its patches
    size: tuple[int, int]  # height and width, pixels
    thumbnail: bytes


class _Seen(NamedTuple):
    """What the network gives for an image."""

    fitted: _Fitted
    vector_D: NDArray[np.float32]
    patches_XYD: NDArray[np.float16]


class EmbedStage(IndexStage):
    """Embed a range of images."""

    name = "embed"
    number = 20
    version = "1.1.0"  # 1.1: columns beside images, and their licenses
    keys = ("encoder", "patches", "thumbnails", "decode", "device", "precision", "columns")
    execution_keys = ("partition_images", "workers")
    needs = ("list",)
    runs_on = "gpu"

    def plan(self, inputs: IndexInputs) -> list[Json]:
        """Plan ranges of the listing."""
        config, (facts,) = inputs.config, inputs.facts("list")
        network = cached_network(config.encoder, "cpu", config.precision)
        num, step = facts["images"], config.partition_images
        return [
            {"start": start, "stop": min(start + step, num), "encoder": network.fingerprint}
            for start in range(0, num, step)
        ]

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:
        """Embed one range."""
        config, start = inputs.config, payload["start"]
        table = read_rows([inputs.file("list", "images.parquet")], start, payload["stop"])
        images = ImageSet(table, config.decode)
        network = cached_network(config.encoder, config.device, config.precision)
        patches = config.patches
        work = _Worker(network, patches.size if network.patch_size else 0, config.thumbnails)
        undecodable: dict[int, str] = {}

        def load(item: tuple[int, Callable[[], Image]]) -> list[Image]:
            place, decode = item
            try:
                return [decode()]
            except Undecodable as bad:
                undecodable[place] = str(bad)
                return []

        rate, made = Rate(), _Made(start, patches.regions)

        def write(file: BinaryIO) -> None:
            first = 0
            for encoded in encode_images(
                work.as_work(),
                images.decoders_of(range(len(images))),
                load,
                workers=num_workers(config.workers),
                at_once=_AT_ONCE,
                rate=rate,
            ):
                for place, seen in zip(encoded.decoded, encoded.vectors, strict=True):
                    made.add(first + place, seen)
                    file.write(seen.patches_XYD.tobytes())
                first += encoded.count

        target = out.folder / f"{part_name(out.index)}.patches.bin"
        write_atomic(target, write)
        out.add(target)
        reader = SideReader(config.columns)
        beside = [reader.keep(row) for row in reader.read_each(table.to_pylist())]
        made.write(table.append_column("beside", pa.array(map(json.dumps, beside))), out)
        out.measured |= rate.as_json()
        return {
            "images": len(made.places),
            "undecodable": {str(start + place): why for place, why in sorted(undecodable.items())},
            "patches": made.num_patches,
            "licenses": dict(Counter(str(beside[at].get("license", "")) for at in made.places)),
        }

    def describe_measured(self, measured: Any) -> str:
        """Describe images per second, and how long the network waited for decoded images."""
        return describe_rates(measured)


class _Worker:
    """Turns images into what the network sees in them; threads may share it on a CPU."""

    def __init__(self, network: Network, size: int, thumbnails: ThumbnailsConfig) -> None:
        self._network, self._size, self._thumbnails = network, size, thumbnails

    def as_work(self) -> "Work[list[_Seen]]":
        """Return how `encode_images` uses it."""
        return Work(self._fit, self._encode_each, self._network.encoder.on_threads)

    def _fit(self, image: Image) -> _Fitted:
        network, small = self._network, shrink(image, self._thumbnails.side)
        return _Fitted(
            network.encoder.fit(image),
            network.fit(image, self._size) if self._size else None,
            (image.shape[0], image.shape[1]),
            encode_webp(small, self._thumbnails.quality),
        )

    def _encode_each(self, groups: Iterable[Any]) -> Iterator[list[_Seen]]:
        empty = np.empty((0, 0, self._network.patch_dim), np.float16)
        for group in groups:
            fitted = list[_Fitted](group)
            vectors = self._network.vectors([one.whole for one in fitted])
            patched = [one.patched for one in fitted if one.patched is not None]
            patches = self._network.patches_of(patched) if patched else [empty] * len(fitted)
            yield [_Seen(*each) for each in zip(fitted, vectors, patches, strict=True)]


class _Made:
    """The rows of a partition so far."""

    def __init__(self, start: int, num_regions: int) -> None:
        self.places: list[int] = []
        self.num_patches = 0
        self._start, self._num_regions = start, num_regions
        self._columns: dict[str, list[int]] = {name: [] for name in IMAGES_SCHEMA.names[-7:]}
        self._vectors: list[NDArray[np.float16]] = []
        self._regions: list[NDArray[np.float16]] = []
        self._thumbnails = bytearray()

    def add(self, place: int, seen: _Seen) -> None:
        """Note an image."""
        rows, columns, _ = seen.patches_XYD.shape
        thumbnail = seen.fitted.thumbnail
        values = (
            *(seen.fitted.size[1], seen.fitted.size[0], rows, columns),
            *(self.num_patches, len(self._thumbnails), len(thumbnail)),
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        self.places.append(place)
        self.num_patches += rows * columns
        self._thumbnails += thumbnail
        self._vectors.append(seen.vector_D.astype(np.float16))
        if rows:
            self._regions.append(choose_regions(seen.patches_XYD, self._num_regions))

    def write(self, table: pa.Table, out: Output) -> None:
        """Write tables and arrays; ``table`` has the rows of the listing, and what is beside."""
        rows = table.take(pa.array(self.places, pa.int64()))
        rows = rows.append_column("place", pa.array(self._start + np.array(self.places, np.int64)))
        for name, values in self._columns.items():
            rows = rows.append_column(name, pa.array(values, IMAGES_SCHEMA.field(name).type))
        out.write_table("images", rows, IMAGES_SCHEMA)
        none = np.empty((0, 0), np.float16)
        out.write_array("vectors", np.stack(self._vectors) if self._vectors else none)
        out.write_array("regions", np.concatenate(self._regions) if self._regions else none)
        target = out.folder / f"{part_name(out.index)}.thumbnails.bin"
        write_bytes(target, bytes(self._thumbnails))
        out.add(target)
