"""The cost of one stage, and what several of them are made of."""

from dataclasses import dataclass

from dinoforge.curation.plan.sizes import Sizes

__all__ = ["NOTHING", "TOP_K_RATE", "Cost", "num_ranges", "picture_bytes"]

TOP_K_RATE = 4.5e10  # multiplications per second of a top-k search (`benchmarks/cells.py`)


@dataclass(frozen=True)
class Cost:
    """Cost of one stage; of no partition, nothing."""

    partitions: int
    outputs: int  # files per partition, without the marker
    core_s: float = 0.0  # all of the stage on a CPU, but for its products
    product_s: float | None = 0.0  # the products on a core; None: unknown
    flops: float | None = 0.0  # the same on a GPU; None: unknown
    bytes: float = 0.0
    memory: float = 0.0  # bytes of a task beyond those of the process


NOTHING = Cost(0, 0)


def num_ranges(total: int, size: int) -> int:
    """Return how many ranges of ``size`` make up ``total``."""
    return -(-total // size)


def picture_bytes(sizes: Sizes) -> float:
    """Bytes of a decoded image and its file."""
    return 3 * sizes.images.pixels + sizes.images.file_bytes
