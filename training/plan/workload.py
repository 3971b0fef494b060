"""What one rank computes in one micro-batch: crops, tokens, samples that are kept, masked patches.

Everything that FLOPs and memory depend on besides the sizes of the networks.
"""

from dataclasses import dataclass

from dinoforge.models.layers import kept_samples
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.masks import MaskConfig

__all__ = ["Crops", "Workload", "expected_masked", "most_masked"]


@dataclass(frozen=True)
class Crops:
    """The crops of one size: a batch of sequences of equal length."""

    name: str  # global or local
    samples: int  # crops of all images
    kept: int  # of these, how many a residual branch of the student runs on
    side: int  # patches along one side
    tokens: int  # of one crop: patches, class token, registers
    size: int  # side, pixels

    @property
    def patches(self) -> int:
        """Patches of one crop."""
        return self.side**2

    @property
    def kept_tokens(self) -> int:
        """Tokens that a residual branch runs on."""
        return self.kept * self.tokens

    @property
    def all_tokens(self) -> int:
        """Tokens of all crops."""
        return self.samples * self.tokens


@dataclass(frozen=True)
class Workload:
    """One micro-batch of one rank."""

    images: int
    group: int  # images that draw their subsets, and seek their neighbors, together
    global_crops: Crops
    local_crops: Crops
    masked: float  # patches hidden from the student; 0 without the iBOT term

    @classmethod
    def of(cls, config: TrainingConfig, images: int, *, masked: float | None = None) -> "Workload":
        """Count what ``images`` images are to a rank.

        Parameters
        ----------
        config : TrainingConfig
        images : int
            Images of the micro-batch: whole groups of ``group_size``.
        masked : float, optional
            Masked patches of the batch; by default what is drawn on average.
        """
        patch, registers = config.model.patch_size, config.model.registers
        # Of every crop, each group of images draws a subset of its own.
        group = config.group_size or images
        kept_images = images // group * kept_samples(group, config.model.drop_path)
        sizes = (
            ("global", 2, config.crops.global_size),
            ("local", config.crops.num_local, config.crops.local_size),
        )
        global_crops, local_crops = (
            Crops(
                name=name,
                samples=count * images,
                kept=count * kept_images,
                side=size // patch,
                tokens=(size // patch) ** 2 + 1 + registers,
                size=size,
            )
            for name, count, size in sizes
        )
        if masked is None:
            masked = expected_masked(config.masks, 2 * images, global_crops.patches)
        masked = masked if config.loss.ibot else 0
        return cls(images, group, global_crops, local_crops, masked)

    @property
    def crops(self) -> tuple[Crops, Crops]:
        """Both sizes, global first."""
        return self.global_crops, self.local_crops

    @property
    def student_rows(self) -> int:
        """Class tokens that the student's DINO head sees."""
        return self.global_crops.samples + self.local_crops.samples

    @property
    def teacher_rows(self) -> int:
        """Class tokens that the teacher's DINO head sees."""
        return self.global_crops.samples


def expected_masked(masks: MaskConfig, crops: int, patches: int) -> float:
    """Patches that are masked in a batch on average.

    The masked crops share the range of ratios evenly, so that their mean is its middle.
    `training.data.masks.block_mask` never goes above its target and seldom misses it.
    """
    low, high = masks.ratio
    return int(crops * masks.image_prob) * patches * (low + high) / 2


def most_masked(masks: MaskConfig, crops: int, patches: int) -> int:
    """Most patches that `training.data.masks.draw_masks` can mask in a batch: what memory is for.

    The ratio of masked crop i ends at slice i + 1 of the range: the sum of these ends.
    """
    low, high = masks.ratio
    masked_crops = int(crops * masks.image_prob)
    if not masked_crops:
        return 0
    return int(patches * (masked_crops * low + (high - low) * (masked_crops + 1) / 2))
