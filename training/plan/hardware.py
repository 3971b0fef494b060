"""MFU of published runs, and images that a CPU core prepares."""

from dataclasses import dataclass

from dinoforge.device import Gpu
from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.simulation import Flops

__all__ = ["PublishedRun", "Speed", "published_run", "speed_of_run"]

# Images that one core decodes and cuts into 2 x 224 + 8 x 98 pixels in a second, colors being
# changed on the GPU: JPEGs of 471 x 395 pixels, 77 kB (`benchmarks/plan_against_measured.py`).
_IMAGES_PER_CORE_S = 450.0
_PIXELS_MEASURED = 2 * 224**2 + 8 * 98**2


@dataclass(frozen=True)
class PublishedRun:
    """MFU of a published training; dropped paths are not counted as work."""

    gpu: str
    width: int
    patch_size: int
    mfu: float  # share of the peak rate
    source: str
    distilled: bool = False  # with a forward pass of a ViT-g


# From the times that papers and model cards state; DINOv3's is a config comment (32 GPUs, 14 h).
_PUBLISHED = (
    PublishedRun("a100", 384, 14, 0.34, "DINOv2 S/14 distilled, 4,500 A100-hours", True),
    PublishedRun("a100", 768, 14, 0.37, "DINOv2 B/14 distilled, 5,300 A100-hours", True),
    PublishedRun("a100", 1024, 16, 0.34, "DINOv2 L/16 on ImageNet-1k, a day on 32 A100"),
    PublishedRun("a100", 1024, 14, 0.31, "DINOv2 L/14 on ImageNet-22k, 3.3 days on 96 A100"),
    PublishedRun("a100", 1024, 14, 0.42, "DINOv2 L/14 distilled, 8,000 A100-hours", True),
    PublishedRun("a100", 1536, 14, 0.39, "DINOv2 g/14, 22,000 A100-hours"),
    PublishedRun("h100", 1024, 16, 0.19, "DINOv3 L/16 on ImageNet-1k, 14 h on 32 H100"),
)

# 8.2 GFLOP per image forward; the readme of its training in DeepLearningExamples (2021-03).
_POOLED = PublishedRun("a100", 2048, 1, 0.16, "ResNet-50 by NVIDIA, 16,621 images/s on 8 A100")


def published_run(
    gpu: Gpu, width: int, patch_size: int, *, distilled: bool = False
) -> PublishedRun:
    """Find the published run closest to a training: same GPU, then width, patch size, method."""
    family = gpu.name.partition("-")[0].replace("h200", "h100")
    same = [run for run in _PUBLISHED if run.gpu == family] or list(_PUBLISHED)

    def distance(run: PublishedRun) -> tuple[int, int, bool]:
        size = abs(run.width - width), abs(run.patch_size - patch_size)
        return *size, run.distilled != distilled

    return min(same, key=distance)


@dataclass(frozen=True)
class Speed:
    """Time at the MFU of a published run."""

    mfu: float
    source: str  # of the MFU
    images_per_s: float  # of one GPU
    hours: float
    gpu_hours: float
    cores_per_gpu: float  # for decoding and cropping; work grows with the pixels per image


def speed_of_run(
    config: TrainingConfig, ranks: int, flops: Flops, gpu: Gpu, mfu: float | None
) -> Speed | None:
    """Estimate the time of a run from the ``flops`` of an image; None if the GPU is unknown."""
    rate = gpu.float32 if config.precision == "float32" else gpu.bfloat16
    if not rate:
        return None
    run = _POOLED  # all networks without patch tokens
    if config.model.is_vit:
        vit = config.model.vit(config.crops.global_size)
        run = published_run(
            gpu, vit.width, vit.patch_size, distilled=config.method == "distillation"
        )
    share, source = (run.mfu, run.source) if mfu is None else (mfu, "--mfu")
    # The share counts what the method needs; blocks that are run again cost time beyond it.
    images_per_s = rate * share / (flops.model + flops.blocks_again)
    gpu_hours = config.steps * config.batch_size / images_per_s / 3600
    cores = images_per_s / _IMAGES_PER_CORE_S * config.crops.pixels / _PIXELS_MEASURED
    return Speed(share, source, images_per_s, gpu_hours / ranks, gpu_hours, cores)
