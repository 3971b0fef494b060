"""What an index of so many images needs: bytes, memory, files and hours, by closed forms."""

from dataclasses import asdict, dataclass
from typing import Any

from dinoforge.demo.index.config import IndexConfig
from dinoforge.demo.index.kinds import choose_kinds, kind_bytes
from dinoforge.device import Gpu
from dinoforge.models.config import VitConfig

__all__ = ["GPU_SHARE", "IndexPlan", "plan_index"]

GPU_SHARE = 0.4  # of the peak rate of the number format; assumed, not measured
# Of one thread: a ViT-S/14 at 224 pixels on a Sapphire Rapids core (`benchmarks/extraction.py`).
_CORE_FLOPS = 1.25e11
_THUMBNAIL = 8_000  # bytes of 256 pixels in WebP at quality 80, as of animals4
_ROW = 70  # bytes of a row of the table of images, compressed
_FILES = 6  # of a partition, its marker included
_SQUARE = 224  # pixels of the side of what an image's vector is computed from, at most


@dataclass(frozen=True)
class IndexPlan:
    """An index of images by a ViT."""

    images: int
    partitions: int
    files: int
    bytes: dict[str, int]  # on disk, by what they hold
    kinds: dict[str, str]  # table -> flat, pq, ivf
    memory: dict[str, int]  # table -> bytes that a search keeps in memory
    gpu_hours: float | None  # None: the rate of the GPU is unknown
    core_hours: float  # the same on CPU cores, in float32

    def as_json(self) -> dict[str, Any]:
        """JSON object of the plan."""
        return asdict(self)


def plan_index(
    config: IndexConfig, images: int, vit: VitConfig, gpu: Gpu, *, share: float = GPU_SHARE
) -> IndexPlan:
    """Plan the index of a recipe; images are not read, and no network is run."""
    patches = (config.patches.size // vit.patch_size) ** 2
    side = min(_SQUARE, vit.image_size) // vit.patch_size
    flops = sum(vit.forward_flops(count) for count in (side**2, patches) if count)
    shapes = {"vectors": (images, vit.width)}
    if patches:
        shapes["regions"] = (images * config.patches.regions, vit.width)
    kinds = choose_kinds(shapes, int(config.memory * 2**30))
    partitions = -(-images // config.partition_images)
    on_disk = {
        "patches": 2 * images * patches * vit.width,
        # In the partitions, and joined.
        **{name: 2 * kind_bytes("flat", shape) for name, shape in shapes.items()},
        "compressed": sum(
            kind_bytes(kind, shapes[name]) for name, kind in kinds.items() if kind != "flat"
        ),
        "thumbnails": images * round(_THUMBNAIL * (config.thumbnails.side / 256) ** 2),
        "tables": images * _ROW,
    }
    rate = gpu.float32 if config.precision == "float32" else gpu.bfloat16
    return IndexPlan(
        images=images,
        partitions=partitions,
        files=_FILES * partitions + 20,
        bytes=on_disk,
        kinds=dict(kinds),
        memory={name: kind_bytes(kind, shapes[name]) for name, kind in kinds.items()},
        gpu_hours=images * flops / (rate * share) / 3600 if rate else None,
        core_hours=images * flops / _CORE_FLOPS / 3600,
    )
