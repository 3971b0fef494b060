"""``plan_of``: everything that a recipe needs on a number of ranks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dinoforge.errors import Fault, UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer
from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.hardware import Gpu, cores_per_gpu, find_gpu, published_run
from dinoforge.training.plan.memory import Memory, memory_of_rank
from dinoforge.training.plan.placement import Placement, held_by_rank_0, student_shapes
from dinoforge.training.plan.simulation import Flops, MicroBatch, Simulation
from dinoforge.training.plan.storage import Storage, storage_of_run

__all__ = ["Plan", "Speed", "plan_of"]

_MOST_IMAGES = 1 << 20


@dataclass(frozen=True)
class Speed:
    """Time at the MFU of a published run."""

    mfu: float
    source: str  # of the MFU
    images_per_s: float  # of one GPU
    hours: float
    gpu_hours: float
    cores_per_gpu: float  # for decoding and cropping


@dataclass(frozen=True)
class Plan:
    """What a training needs; bytes, operations, seconds."""

    model: str  # as timm would name it
    parameters: dict[str, int]  # backbone, dino_head, ibot_head
    backbone_at_518: int  # parameters of a released size at the released grid; 0 for custom ones
    parameters_of_rank_0: int  # of the student
    placement: Placement
    batch_size: int  # images per step, over all ranks
    micro_batches: int  # of one rank in a step
    images: int  # of a micro-batch of one rank
    steps: int
    epochs: float | None  # passes over the data; None when its size is unknown
    flops: Flops  # of one image
    memory: Memory  # of the rank that holds most
    largest_images: int  # most images of a micro-batch that fit the GPU; 0: none
    storage: Storage
    gpu: Gpu
    speed: Speed | None  # None: its rate is unknown

    @property
    def images_seen(self) -> int:
        """Images over the whole run."""
        return self.steps * self.batch_size

    @property
    def fits(self) -> bool:
        """True if the GPU's memory holds a step."""
        return self.memory.peak <= self.gpu.usable

    def check_memory(self) -> None:
        """Refuse a plan that does not fit the GPU.

        Raises
        ------
        UsageError
            Names the bytes needed and usable, and what would fit.
        """
        if self.fits:
            return
        gigabyte = 10**9
        remedies = ["more ranks", "parallel.accumulate", "parallel.activation_checkpointing=blocks"]
        if self.largest_images:
            remedies.insert(0, f"at most {self.largest_images} images per rank and micro-batch")
        raise UsageError(
            what=f"a step needs {self.memory.peak / gigabyte:.1f} GB per rank, of which "
            f"{self.memory.states / gigabyte:.1f} GB are weights, gradients and moments",
            where=f"{self.gpu.name} ({self.gpu.usable / gigabyte:.1f} GB usable), "
            f"{self.images} images per rank",
            do="use " + ", or ".join(remedies),
        )

    def as_json(self) -> dict[str, Any]:
        """JSON object, derived figures included."""
        memory = asdict(self.memory) | {"peak": self.memory.peak, "states": self.memory.states}
        storage = asdict(self.storage)
        storage |= {k: getattr(self.storage, k) for k in ("written_bytes", "kept_bytes", "files")}
        flops = asdict(self.flops) | {"model": self.flops.model, "executed": self.flops.executed}
        return asdict(self) | {
            "images_seen": self.images_seen,
            "flops_per_image": flops,
            "memory": memory,
            "storage": storage,
            "fits": self.fits,
            "usable_bytes": self.gpu.usable,
        }


def plan_of(
    config: TrainingConfig,
    ranks: int = 1,
    *,
    ranks_per_node: int = 8,
    gpu: str = "h100",
    mfu: float | None = None,
    images_in_set: int | None = None,
) -> Plan:
    """Work out what a recipe needs.

    Parameters
    ----------
    config : TrainingConfig
    ranks, ranks_per_node : int
        Processes, one per GPU, in all and per machine.
    gpu : str
        Name or memory in GB; see `find_gpu`.
    mfu : float, optional
        Assumed MFU, 0 to 1; by default that of the closest published run.
    images_in_set : int, optional
        Images in the data set, for the number of epochs.

    Raises
    ------
    UsageError
        All values that do not divide. Memory is not checked: `Plan.check_memory`.
    """
    faults = [
        Fault(f"{number} ranks", option, "give 1 or more")
        for option, number in (("--ranks", ranks), ("--ranks-per-node", ranks_per_node))
        if number < 1
    ]
    if not faults:
        faults += config.rank_faults(ranks, min(ranks, ranks_per_node))
    if config.precision == "float64":
        faults.append(Fault("no plan of float64", "`precision`", "give auto, float32 or bfloat16"))
    if mfu is not None and not 0 < mfu <= 1:
        faults.append(Fault(f"an MFU of {mfu}", "--mfu", "give 0 < MFU <= 1"))
    if images_in_set is not None and images_in_set < 1:
        faults.append(Fault(f"{images_in_set} images", "--images", "give 1 or more"))
    if faults:
        raise UsageError(faults=faults)
    placement = Placement.of(config, ranks, ranks_per_node)
    held, shapes = held_by_rank_0(config, placement), student_shapes(config)
    device = find_gpu(gpu)
    simulation = _simulation(config)

    def memory(batch: MicroBatch) -> Memory:
        return memory_of_rank(config, placement, batch, held, shapes)

    def fits(images: int) -> bool:
        return memory(simulation.estimate(images)).peak <= device.usable

    images = config.micro_batch(ranks)
    batch = simulation.estimate(images)
    flops = batch.flops.per_image(images)
    vit = config.model.vit(config.crops.global_size)
    seen = config.steps * config.batch_size
    parameters: Counter[str] = Counter()
    for name, shape in shapes.items():
        parameters[name.partition(".")[0]] += shape.numel()
    return Plan(
        model=vit.name,
        parameters=dict(parameters),
        backbone_at_518=_released(vit),
        parameters_of_rank_0=sum(held.values()),
        placement=placement,
        batch_size=config.batch_size,
        micro_batches=config.parallel.accumulate,
        images=images,
        steps=config.steps,
        epochs=seen / images_in_set if images_in_set else None,
        flops=flops,
        memory=memory(batch),
        largest_images=_largest(fits, config.group_size or 1),
        storage=storage_of_run(config, placement),
        gpu=device,
        speed=_speed(config, placement, flops, device, mfu),
    )


_simulations: dict[str, Simulation] = {}


def _simulation(config: TrainingConfig) -> Simulation:
    """Simulate recipes once that differ in nothing that a micro-batch depends on."""
    parts = (config.model, config.crops, config.masks, config.dino_head, config.ibot_head)
    flags = (config.separate_heads, config.loss, config.teacher, config.group_size)
    key = repr((parts, flags, config.precision, config.parallel.activation_checkpointing))
    return _simulations.setdefault(key, Simulation(config))


def _released(vit: VitConfig) -> int:
    """Count the backbone as DINOv2 released it: after a last stage on 518 pixels, patch 14."""
    if vit.architecture == "custom" or vit.patch_size != 14:
        return 0
    with torch.device("meta"):
        backbone = VisionTransformer(replace(vit, image_size=518))
    return sum(parameter.numel() for parameter in backbone.parameters())


def _largest(fits: Callable[[int], bool], group: int) -> int:
    """Search the largest multiple of ``group`` that fits; 0 if none does."""
    if not fits(group):
        return 0
    low, high = 1, 2
    while high < _MOST_IMAGES and fits(high * group):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * group) else (low, middle)
    return low * group


def _speed(
    config: TrainingConfig, placement: Placement, flops: Flops, gpu: Gpu, mfu: float | None
) -> Speed | None:
    rate = gpu.float32 if config.precision == "float32" else gpu.bfloat16
    if not rate:
        return None
    vit = config.model.vit(config.crops.global_size)
    run = published_run(gpu, vit.width, vit.patch_size)
    share, source = (run.mfu, run.source) if mfu is None else (mfu, "--mfu")
    # The share counts what the method needs; blocks that are run again cost time beyond it.
    images_per_s = rate * share / (flops.model + flops.blocks_again)
    gpu_hours = config.steps * config.batch_size / images_per_s / 3600
    return Speed(
        mfu=share,
        source=source,
        images_per_s=images_per_s,
        hours=gpu_hours / placement.ranks,
        gpu_hours=gpu_hours,
        cores_per_gpu=cores_per_gpu(images_per_s, config.crops.pixels),
    )
