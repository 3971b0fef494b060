"""``plan_of``: everything that a recipe needs on a number of ranks."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from dinoforge.device import Gpu, find_gpu
from dinoforge.errors import Fault, UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.order import ImageOrder
from dinoforge.training.plan.hardware import Speed, speed_of_run
from dinoforge.training.plan.placement import Placement, held_by_rank_0, student_parameters
from dinoforge.training.plan.simulation import Flops, Simulation
from dinoforge.training.plan.sizes import Memory, Storage, memory_of_rank, storage_of_run

__all__ = ["Plan", "plan_of", "released_parameters"]


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
    epochs: float | None  # passes over the data; None when its size is unknown, and of a mixture
    passes: dict[str, float]  # over the parts of a mixture whose size is known
    flops: Flops  # of one image
    memory: Memory  # of the rank that holds most
    largest_images: int  # most images of a micro-batch that fit the GPU; 0: none
    support_crops: int  # of labeled images beside them
    storage: Storage
    gpu: Gpu
    speed: Speed | None  # None: its rate is unknown
    images_seen: int  # over the whole run

    @property
    def fits(self) -> bool:
        """True if the GPU's memory holds a step."""
        return self.memory.peak <= self.gpu.usable

    def check_memory(self) -> None:
        """Raise a `UsageError` with what would fit if the GPU does not hold a step."""
        if self.fits:
            return
        remedies = ["more ranks", "parallel.accumulate", "parallel.activation_checkpointing=blocks"]
        if self.largest_images:
            remedies.insert(0, f"at most {self.largest_images} images per rank and micro-batch")
        elif self.support_crops:
            remedies.insert(0, f"fewer labeled images ({self.support_crops} crops): support.images")
        raise UsageError(
            what=f"a step needs {self.memory.peak / 1e9:.1f} GB per rank, of which "
            f"{self.memory.states / 1e9:.1f} GB are weights, gradients and moments",
            where=f"{self.gpu.name} ({self.gpu.usable / 1e9:.1f} GB usable), "
            f"{self.images} images per rank",
            do="use " + ", or ".join(remedies),
        )

    def as_json(self) -> dict[str, Any]:
        """JSON object, derived figures included."""
        flops = {"model": self.flops.model, "executed": self.flops.executed}
        return asdict(self) | {
            "flops_per_image": asdict(self.flops) | flops,
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
    images_in_set: int | Mapping[str, int] | None = None,
) -> Plan:
    """Work out what a recipe needs on so many ranks: processes, one per GPU.

    ``gpu`` is a name or the memory in GB, ``mfu`` (0 to 1) by default that of the closest published
    run; ``images_in_set`` is for the number of epochs, of a mixture by part. Raises a `UsageError`
    with all values that do not divide. Memory is not checked: `Plan.check_memory`.
    """
    _check(config, ranks, ranks_per_node, mfu, images_in_set)
    placement = Placement.of(config, ranks, ranks_per_node)
    parameters, held = student_parameters(config), held_by_rank_0(config, placement)
    frozen = held_by_rank_0(config, placement, "frozen")
    memory = partial(memory_of_rank, config, placement, parameters, held, frozen=frozen)
    device = find_gpu(gpu)
    simulation = _simulation(config, ranks)
    group = config.group_size or 1

    def is_too_large(groups: int) -> bool:
        return memory(simulation.estimate(groups * group)).peak > device.usable

    batch = simulation.estimate(config.micro_batch(ranks))
    vit = config.model.vit(config.crops.global_size) if config.model.is_vit else None
    seen = config.steps * config.batch_size
    return Plan(
        model=config.model.architecture if vit is None else vit.name,
        parameters=parameters,
        backbone_at_518=0 if vit is None else released_parameters(vit),
        parameters_of_rank_0=sum(held.values()),
        placement=placement,
        batch_size=config.batch_size,
        micro_batches=config.parallel.accumulate,
        images=batch.images,
        steps=config.steps,
        epochs=seen / images_in_set if isinstance(images_in_set, int) else None,
        passes=_passes(config, images_in_set) if isinstance(images_in_set, Mapping) else {},
        flops=batch.flops,
        memory=memory(batch),
        largest_images=group * bisect_left(range(1, 1 << 20), x=True, key=is_too_large),
        support_crops=config.support_crops(ranks),
        storage=storage_of_run(config, placement),
        gpu=device,
        speed=speed_of_run(config, ranks, batch.flops, device, mfu),
        images_seen=seen,
    )


def _passes(config: TrainingConfig, images: Mapping[str, int]) -> dict[str, float]:
    parts, size = config.data.parts, config.batch_size
    sizes = [images.get(part.name, 1) for part in parts]
    order = ImageOrder(parts, sizes, batch_size=size, seed=config.seed)
    return {use.name: use.passes for use in order.uses(config.steps) if use.name in images}


def _image_faults(
    config: TrainingConfig, images: int | Mapping[str, int] | None
) -> Iterator[Fault]:
    """Find numbers of images without a part, and parts that the mixture does not have."""
    names = [part.name for part in config.data.parts]
    counts = images if isinstance(images, Mapping) else {} if images is None else {"": images}
    for name, count in counts.items():
        if count < 1:
            yield Fault(f"{count} images", "--images", "give 1 or more")
        if name and name not in names:
            do = f"the parts are {', '.join(names)}" if names else "give one number: --images N"
            yield Fault(f"the recipe has no part `{name}`", "--images", do)
        if names and not name:
            do = f"give one number per part: --images {','.join(f'{part}=N' for part in names)}"
            yield Fault("one number of images for several parts", "--images", do)


def _check(
    config: TrainingConfig,
    ranks: int,
    ranks_per_node: int,
    mfu: float | None,
    images_in_set: int | Mapping[str, int] | None,
) -> None:
    given = {"--ranks": ranks, "--ranks-per-node": ranks_per_node}
    few = [Fault(f"{n} ranks", key, "give 1 or more") for key, n in given.items() if n < 1]
    faults = few or list(config.rank_faults(ranks, min(ranks, ranks_per_node)))
    if config.precision == "float64":
        faults.append(Fault("no plan of float64", "`precision`", "give auto, float32 or bfloat16"))
    if mfu is not None and not 0 < mfu <= 1:
        faults.append(Fault(f"an MFU of {mfu}", "--mfu", "give 0 < MFU <= 1"))
    faults += _image_faults(config, images_in_set)
    if faults:
        raise UsageError(faults=faults)


_simulations: dict[str, Simulation] = {}


def _simulation(config: TrainingConfig, ranks: int) -> Simulation:
    """Simulate recipes once that differ in nothing that a micro-batch depends on."""
    parts = (config.model, config.crops, config.masks, config.dino_head, config.ibot_head)
    flags = (config.method, config.separate_heads, config.loss, config.teacher)
    more = (config.group_size, config.precision, config.parallel.activation_checkpointing)
    support = (config.support, config.paws, ranks) if config.has_support else ()
    key = repr((parts, flags, more, support))
    return _simulations.setdefault(key, Simulation(config, ranks=ranks))


def released_parameters(vit: VitConfig) -> int:
    """Count the backbone as DINOv2 released it: after a last stage on 518 pixels, patch 14."""
    if vit.architecture == "custom" or vit.patch_size != 14:
        return 0
    with torch.device("meta"):
        backbone = VisionTransformer(replace(vit, image_size=518))
    return sum(p.numel() for p in backbone.parameters())
