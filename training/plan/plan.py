"""``plan_of``: everything that a recipe needs on so many ranks, from closed forms alone."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from dinoforge.errors import Fault, UsageError
from dinoforge.models.config import VitConfig
from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.activations import Numerics
from dinoforge.training.plan.flops import Flops, step_flops
from dinoforge.training.plan.hardware import Gpu, cores_per_gpu, find_gpu, published_run
from dinoforge.training.plan.memory import Memory, memory_of_rank
from dinoforge.training.plan.parameters import backbone_units, count, student_units
from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.storage import Storage, storage_of_run
from dinoforge.training.plan.workload import Workload

__all__ = ["Plan", "Speed", "plan_of"]

_MOST_IMAGES = 1 << 20


@dataclass(frozen=True)
class Speed:
    """Time, from a share of the GPU's rate that a published run reached."""

    mfu: float
    source: str  # whose share
    images_per_s: float  # of one GPU
    hours: float
    gpu_hours: float
    cores_per_gpu: float  # that decode and cut


@dataclass(frozen=True)
class Plan:
    """What a training needs; bytes, operations, seconds."""

    model: str  # as timm would name it
    parameters: dict[str, int]  # backbone, dino_head, ibot_head
    backbone_at_518: int  # parameters of a released size at the released grid; 0 for custom ones
    placement: Placement
    batch_size: int  # images a step, over all ranks
    micro_batches: int  # of one rank in a step
    images: int  # of a micro-batch of one rank
    steps: int
    epochs: float | None  # passes over the data; None when its size was not told
    flops: Flops  # of one image
    memory: Memory  # of the rank that holds most
    largest_images: int  # most images of a micro-batch that fit the GPU; 0: none
    storage: Storage
    gpu: Gpu
    speed: Speed | None  # None: no rate of this GPU is known

    @property
    def images_seen(self) -> int:
        """Images over the whole run."""
        return self.steps * self.batch_size

    @property
    def fits(self) -> bool:
        """True if the GPU's memory holds a step."""
        return self.memory.peak <= self.gpu.usable

    def check_memory(self) -> None:
        """Refuse a plan that the GPU does not hold.

        Raises
        ------
        UsageError
            Names the need, the room, and what would fit.
        """
        if self.fits:
            return
        gigabyte = 10**9
        ways = ["more ranks", "parallel.accumulate", "parallel.activation_checkpointing=blocks"]
        if self.largest_images:
            ways.insert(0, f"at most {self.largest_images} images a rank and micro-batch")
        raise UsageError(
            what=f"a step needs {self.memory.peak / gigabyte:.1f} GB a rank, of which "
            f"{self.memory.states / gigabyte:.1f} GB are weights, gradients and moments",
            where=f"{self.gpu.name} ({self.gpu.usable / gigabyte:.1f} GB to plan with), "
            f"{self.images} images a rank",
            do="take " + ", or ".join(ways),
        )

    def as_json(self) -> dict[str, Any]:
        """Make a JSON object of it; derived figures included."""
        memory = asdict(self.memory) | {"peak": self.memory.peak, "states": self.memory.states}
        memory["activations"] = self.memory.activations._asdict()
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
        ``batch_size`` counts the images of a step over all ranks; ``parallel`` says how the run is
        spread over them.
    ranks, ranks_per_node : int
        Processes, one a GPU, and those of one machine.
    gpu : str
        Name or memory in GB; see `find_gpu`.
    mfu : float, optional
        Share of the GPU's rate; by default that of the nearest published run.
    images_in_set : int, optional
        Images of the data, for the number of epochs.

    Raises
    ------
    UsageError
        What does not divide; all of it at once. Memory is not checked: `Plan.check_memory`.
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
        faults.append(Fault(f"a share of {mfu} of the GPU's rate", "--mfu", "give 0 < share <= 1"))
    if images_in_set is not None and images_in_set < 1:
        faults.append(Fault(f"{images_in_set} images", "--images", "give 1 or more"))
    if faults:
        raise UsageError(faults=faults)
    placement = Placement.of(config, ranks, ranks_per_node)
    device = find_gpu(gpu)
    numerics = Numerics.of(config)
    images = config.micro_batch(ranks)
    flops = step_flops(config, Workload.of(config, images)).per_image(images)
    vit = config.model.vit(config.crops.global_size)
    seen = config.steps * config.batch_size
    return Plan(
        model=vit.name,
        parameters=_parameters(config),
        backbone_at_518=_released(vit),
        placement=placement,
        batch_size=config.batch_size,
        micro_batches=config.parallel.accumulate,
        images=images,
        steps=config.steps,
        epochs=seen / images_in_set if images_in_set else None,
        flops=flops,
        memory=memory_of_rank(config, placement, numerics, images),
        largest_images=_largest_images(config, placement, numerics, device),
        storage=storage_of_run(config, placement),
        gpu=device,
        speed=_speed(config, placement, flops, device, mfu),
    )


def _parameters(config: TrainingConfig) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, shapes in student_units(config).items():
        network = name.partition(".")[0]
        found[network] = found.get(network, 0) + count(shapes)
    return found


def _released(vit: VitConfig) -> int:
    """Count the backbone as DINOv2 released it: after a last stage on 518 pixels, patch 14."""
    if vit.architecture == "custom" or vit.patch_size != 14:
        return 0
    units = backbone_units(replace(vit, image_size=518))
    return sum(map(count, units.values()))


def _largest_images(
    config: TrainingConfig, placement: Placement, numerics: Numerics, gpu: Gpu
) -> int:
    """Search the most images of a micro-batch, in whole groups; memory grows with them."""
    group = config.group_size or 1

    def fits(groups: int) -> bool:
        return memory_of_rank(config, placement, numerics, groups * group).peak <= gpu.usable

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < _MOST_IMAGES and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * group


def _speed(
    config: TrainingConfig, placement: Placement, flops: Flops, gpu: Gpu, mfu: float | None
) -> Speed | None:
    rate = gpu.rate(Numerics.of(config).product)
    if not rate:
        return None
    vit = config.model.vit(config.crops.global_size)
    run = published_run(gpu, vit.width, vit.patch_size)
    share, source = (run.mfu, run.source) if mfu is None else (mfu, "--mfu")
    # The share counts what the method needs; blocks that are run again cost time beyond it.
    images_per_s = rate * share / (flops.model + flops.blocks_again)
    crops = config.crops
    pixels = 2 * crops.global_size**2 + crops.num_local * crops.local_size**2
    gpu_hours = config.steps * config.batch_size / images_per_s / 3600
    return Speed(
        mfu=share,
        source=source,
        images_per_s=images_per_s,
        hours=gpu_hours / placement.ranks,
        gpu_hours=gpu_hours,
        cores_per_gpu=cores_per_gpu(images_per_s, pixels),
    )
