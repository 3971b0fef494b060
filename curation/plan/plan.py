"""The plan of a curation, stage by stage: nothing is read and nothing is run."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.plan.choosing import CHOOSING_COSTS
from dinoforge.curation.plan.cost import Cost
from dinoforge.curation.plan.pairs import PAIRS_COSTS
from dinoforge.curation.plan.reading import READING_COSTS
from dinoforge.curation.plan.sizes import Images, Sizes
from dinoforge.device import Gpu
from dinoforge.models.config import VitConfig

if TYPE_CHECKING:
    from dinoforge.curation.plan.trial import Trial

__all__ = ["COSTS", "GPU_SHARE", "CurationPlan", "StagePlan", "plan_curation"]

COSTS = {**READING_COSTS, **PAIRS_COSTS, **CHOOSING_COSTS}

GPU_SHARE = 0.4  # of the peak float32 rate; assumed, not measured
# A Python process with NumPy, pyarrow and FAISS: 165 MiB; torch takes as much again.
_PROCESS = 165 << 20
_TORCH = 200 << 20


@dataclass(frozen=True)
class StagePlan:
    """One stage."""

    stage: str
    partitions: int
    core_hours: float | None  # without a GPU; None: an encoder of unknown cost
    gpu_hours: float | None  # 0: the stage computes nothing there; None: unknown
    host_hours: float  # of cores beside the GPU
    bytes: int
    files: int  # outputs and markers
    task_bytes: int  # peak memory of one partition

    @property
    def task_hours(self) -> float | None:
        """Hours of the mean partition on a core; None: unknown."""
        return None if self.core_hours is None else self.core_hours / self.partitions


@dataclass(frozen=True)
class CurationPlan:
    """All stages that have something to do, and how the pairs are found."""

    stages: list[StagePlan]
    images: Mapping[str, int]  # by role, and planted copies
    exported: int
    shards: int
    cells: int  # 0: all images are compared
    cells_per_image: int

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        totals = {
            name: sum(getattr(stage, name) for stage in self.stages)
            for name in ("partitions", "bytes", "files")
        }
        return asdict(self) | {"join": "cells" if self.cells else "exact", "totals": totals}


def plan_curation(
    config: CurationConfig,
    images: Images,
    *,
    gpu: Gpu,
    share: float = GPU_SHARE,
    model: VitConfig | None = None,
    trial: "Trial | None" = None,
) -> CurationPlan:
    """Plan all stages for so many images.

    ``share`` is the part of the GPU's peak rate that is reached; ``model`` replaces the encoder for
    retrieval by one that need not exist yet; CPU seconds and bytes are corrected by what ``trial``
    measured.

    Raises
    ------
    UsageError
        If the recipe needs seeds and there are none, or an encoder of unknown size is missing.
    """
    sizes = Sizes(config=config, images=images, model=model)
    rate = gpu.float32 * share
    roles = {"pool": images.pool, "seed": sum(images.seeds.values())}
    roles |= {"reference": sizes.references, "as_is": sizes.as_is, "planted": sizes.planted}
    return CurationPlan(
        stages=list(_stages(sizes, rate, trial)),
        images=roles,
        exported=sizes.exported,
        shards=sizes.shards,
        cells=sizes.cells,
        cells_per_image=config.duplicates.cells_per_image,
    )


def _stages(sizes: Sizes, rate: float, trial: "Trial | None") -> Iterator[StagePlan]:
    for stage in STAGES:
        cost = COSTS[stage.name](sizes)
        if trial is not None:
            cost = trial.scale(stage.name, cost)
        if not cost.partitions:
            continue
        encodes = stage.name.startswith("embed") and cost.flops != 0
        yield StagePlan(
            stage=stage.name,
            partitions=cost.partitions,
            core_hours=_core_hours(cost),
            gpu_hours=_gpu_hours(cost, rate),
            host_hours=cost.core_s / 3600,
            bytes=round(cost.bytes),
            files=cost.partitions * (cost.outputs + 1) + 1,  # its plan
            task_bytes=round(_PROCESS + _TORCH * encodes + cost.memory),
        )


def _core_hours(cost: Cost) -> float | None:
    return None if cost.product_s is None else (cost.core_s + cost.product_s) / 3600


def _gpu_hours(cost: Cost, rate: float) -> float | None:
    if cost.flops is None or (cost.flops and not rate):
        return None
    return cost.flops / rate / 3600 if cost.flops else 0.0
