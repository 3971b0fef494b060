"""The recipe of a training: meaning, unit and source of the default of every key.

Defaults are those of DINOv2's ViT-L/16 recipe on ImageNet-1k where a small machine can run them;
recipes in ``configs/training`` list what they change.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Annotated, ClassVar, Literal

from dinoforge.config.paths import OptionalPath, PathText
from dinoforge.config.ranges import (
    Allowed,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    find_faults,
)
from dinoforge.errors import Fault, UsageError
from dinoforge.images import DecodePolicy
from dinoforge.models.config import ARCHITECTURES, ResamplingMode, VitConfig
from dinoforge.training.data.crops import CropsConfig
from dinoforge.training.data.masks import MaskConfig

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "HeadConfig",
    "LossConfig",
    "Mode",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PartConfig",
    "TeacherConfig",
    "TrainingConfig",
]


BelowOne = Annotated[float, Range(0, 1, exclude=(1,))]


PartName = Annotated[str, Allowed(re.compile(r"[\w-]*").fullmatch, "letters, digits, - and _")]


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """A part of a mixture, passed through in an order of its own."""

    name: PartName = ""  # in metrics and reports; of a `run`: this part of it, "": all others
    # folders, tars, globs, or a curation run (its shards); relative to the working directory
    paths: list[PathText] = field(default_factory=list)
    # instead of `paths`: a curation run with `export.parts`, which lists its parts
    run: OptionalPath = ""
    # images of this part per step, in the long run, relative to the weights of the others; 0: none.
    # Several parts of a `run` share it by the weights that they have there
    weight: NonNegativeFloat = 1.0
    # homogeneous: all images of a step are of this part; heterogeneous: they are mixed with those
    # of the other heterogeneous parts
    batches: Literal["homogeneous", "heterogeneous"] = "heterogeneous"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a part without images or a name."""
        if self.run and self.paths:
            yield Fault(f"`{at}.run` and `{at}.paths` are both given", "recipe", "remove one")
        if not self.run and not self.name:
            yield Fault(f"`{at}.name` is ''", "recipe", "give letters, digits, - and _")
        if not self.run and not self.paths:
            do = f"give at least one, or a curation: {at}.run"
            yield Fault(f"`{at}.paths` is empty", "recipe", do)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images to train on; labels are never read."""

    # folders, tars, globs, or a curation run (its shards); relative to the working directory
    paths: list[PathText] = field(default_factory=list)
    # instead of `paths`: several sets of images with weights
    parts: list[PartConfig] = field(default_factory=list)
    num_workers: NonNegativeInt = 0  # processes that decode and crop; batches do not depend on it
    # resize larger images once, after decoding, to this shorter side in pixels, so that photographs
    # of many megapixels fit the cache and are cropped fast; 0: never
    max_side: NonNegativeInt = 0
    # keep decoded images in memory; auto: if all of them fit in cache_mib
    cache: Literal["auto", "decoded", "none"] = "auto"
    cache_mib: NonNegativeInt = 1024  # memory for decoded images under cache=auto, MiB
    # stop if more than this share of the images is undecodable, and more than ten (each one is
    # replaced by the next image and counted)
    max_bad_share: Fraction = 0.01

    @property
    def mixture(self) -> Sequence[PartConfig]:
        """The parts; `paths` alone are one, without a name."""
        return self.parts or [PartConfig(name="", paths=self.paths)]

    @property
    def all_paths(self) -> list[str]:
        """Paths of all parts."""
        return [path for part in self.mixture for path in part.paths]

    def faults(self, at: str) -> Iterator[Fault]:
        """Find no images or two mixtures, names that repeat, and weights that sum to 0."""
        if not self.paths and not self.parts:
            yield Fault(f"`{at}.paths` is empty", "recipe", f"give at least one, or {at}.parts")
        if self.paths and self.parts:
            what = f"`{at}.parts` and `{at}.paths` are both given"
            yield Fault(what, "recipe", "remove one of them")
        names = Counter(part.name for part in self.parts if part.name)
        for name in (name for name, count in names.items() if count > 1):
            what = f"`{at}.parts` has {names[name]} parts named {name}"
            yield Fault(what, "recipe", "give each a name of its own")
        if self.parts and not any(part.weight for part in self.parts):
            what = f"`{at}.parts` has no weight above 0"
            yield Fault(what, "recipe", "give at least one of them a weight")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone."""

    # small, base, large, giant as released; custom uses width, depth, heads, ffn below
    architecture: Literal["small", "base", "large", "giant", "custom"] = "small"
    patch_size: PositiveInt = 14  # side of a patch, pixels
    width: PositiveInt = 384  # channels of a token (custom)
    depth: PositiveInt = 12  # blocks (custom)
    heads: PositiveInt = 6  # attention heads (custom)
    ffn: Literal["auto", "mlp", "swiglu"] = "auto"  # auto: swiglu for giant, else mlp
    registers: NonNegativeInt = 0  # register tokens (Darcet et al. 2023)
    layer_scale: NonNegativeFloat = 1e-5  # initial LayerScale; 0: none
    positions: ResamplingMode = "offset"  # how positions are resampled to other crop sizes
    drop_path: BelowOne = 0.0  # share of samples that skip each residual branch (by subset)
    init: Literal["published", "xavier"] = "published"  # xavier: for a width below 384
    # back end; auto: the fastest (measured on a GPU, by rule on a CPU), kept when a run resumes
    attention: Literal["auto", "sdpa", "plain", "varlen", "xformers"] = "auto"
    # packed: linear layers run once over the tokens of all crops; auto: packed on a GPU
    packing: Literal["auto", "packed", "separate"] = "auto"

    def vit(self, image_size: int) -> VitConfig:
        """Return the configuration of the backbone, with the grid of ``image_size`` pixels."""
        custom = (self.width, self.depth, self.heads, "mlp")
        width, depth, heads, ffn = ARCHITECTURES.get(self.architecture, custom)
        chosen = ffn if self.ffn == "auto" else self.ffn
        return VitConfig(
            width=width,
            depth=depth,
            heads=heads,
            ffn="swiglu" if chosen == "swiglu" else "mlp",
            patch_size=self.patch_size,
            registers=self.registers,
            layer_scale=self.layer_scale,
            image_size=image_size,
            positions=self.positions,
            init=self.init,
        )


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Projection head: MLP, bottleneck, prototypes."""

    prototypes: PositiveInt = 65536  # K
    bottleneck: PositiveInt = 256  # width before the prototypes
    hidden: PositiveInt = 2048  # width of the hidden layers
    layers: PositiveInt = 3  # linear layers before the prototypes


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the three terms; 0 disables a term."""

    dino: NonNegativeFloat = 1.0  # cross-entropy between views
    ibot: NonNegativeFloat = 1.0  # cross-entropy on masked patches
    koleo: NonNegativeFloat = 0.1  # on each of the two global crops


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """EMA teacher and its targets (DINOv2, table 16)."""

    balance: Literal["sinkhorn", "centering"] = "sinkhorn"  # what prevents collapse
    temperature_start: PositiveFloat = 0.04  # teacher temperature at step 0
    temperature: PositiveFloat = 0.07  # after temperature_warmup steps
    # steps; null: 30 % of all, 37,500 of the published 125,000
    temperature_warmup: int | None = None
    momentum_start: Fraction = 0.992  # share of the old teacher per step; cosine to the end
    momentum_end: Fraction = 1.0  # at the last step

    def faults(self, at: str) -> Iterator[Fault]:
        """Yield a fault for a schedule that would decrease."""
        pairs = (("temperature_start", "temperature"), ("momentum_start", "momentum_end"))
        for start, end in pairs:
            if getattr(self, start) > getattr(self, end):
                text = f"`{at}.{start}` is {getattr(self, start)}"
                yield Fault(text, "recipe", f"give at most {at}.{end} ({getattr(self, end)})")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedules."""

    lr: PositiveFloat = 4e-3  # base learning rate, see lr_rule
    # sqrt_1024: lr * sqrt(batch / 1024) as in DINOv2; none: as given
    lr_rule: Literal["sqrt_1024", "none"] = "sqrt_1024"
    lr_end: NonNegativeFloat = 1e-6  # at the end of the cosine; not scaled
    # steps of linear warm-up from 0; null: 10 % of all, 12,500 of the published 125,000
    warmup: int | None = None
    weight_decay_start: NonNegativeFloat = 0.04  # cosine from here
    weight_decay_end: NonNegativeFloat = 0.4  # to here
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # AdamW
    clip: NonNegativeFloat = 3.0  # maximum gradient norm of each sub-network; 0: no clipping
    # learning rate of block i is scaled by this ** (depth - i)
    layerwise_decay: Annotated[float, Range(0, 1, exclude=(0,))] = 0.9
    patch_embed_lr: NonNegativeFloat = 0.2  # additional factor for the patch embedding
    # steps with learning rate 0 for the prototypes; null: 1 % of all, 1,250 of 125,000
    freeze_last_layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep; the last step is always saved."""

    every: PositiveInt = 3750  # steps between checkpoints
    keep: PositiveInt = 3  # number of newest checkpoints to keep
    keep_every: NonNegativeInt = 0  # also keep checkpoints at multiples of this step; 0: none
    export_every: PositiveInt = 12500  # steps between exported backbones, which are always kept


# `parallel.mode` with `auto` resolved; single: one rank.
Mode = Literal["single", "ddp", "fsdp", "hsdp"]

_SMALL = 100_000_000  # parameters; 20 bytes each of weights, gradient, moments and teacher: 2 GB

# Lengths of phases that the recipe does not give, % of the steps (those of the published 125,000).
_WARMUP, _TEMPERATURE_WARMUP, _FREEZE = 10, 30, 1


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How to distribute a run over its ranks; affects speed and memory, not results."""

    # ddp: a full copy per rank; fsdp: parameters sharded over all ranks; hsdp: sharded over groups
    # of `shard` ranks; auto: ddp below 100 M parameters, else fsdp
    mode: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    shard: NonNegativeInt = 0  # ranks per copy with hsdp; 0: the ranks of one machine
    accumulate: PositiveInt = 1  # micro-batches per rank and step
    # blocks: keep only the input of every block and recompute the rest; less memory, a third slower
    activation_checkpointing: Literal["none", "blocks"] = "none"
    compile: bool = False  # torch.compile, block by block
    timeout_s: PositiveFloat = 600.0  # maximum wait for another rank, seconds

    def faults(self, at: str) -> Iterator[Fault]:
        """Yield a fault for a ``shard`` without effect."""
        if self.shard > 0 and self.mode != "hsdp":
            text = f"`{at}.shard` {self.shard} has no effect with `{at}.mode` {self.mode}"
            yield Fault(text, "recipe", f"give {at}.mode=hsdp, or {at}.shard=0")

    def resolve_mode(self, num_ranks: int, parameters: int) -> Mode:
        """Resolve ``auto``; ``parameters`` are those of the student, heads included."""
        if num_ranks == 1:
            return "single"
        if self.mode != "auto":
            return self.mode
        return "ddp" if parameters < _SMALL else "fsdp"

    def ranks_of_a_copy(self, mode: Mode, num_ranks: int, ranks_per_node: int) -> int:
        """Count the ranks that share one copy of the networks; 1: each has a full copy."""
        if mode == "hsdp":
            return self.shard or min(ranks_per_node, num_ranks)
        return num_ranks if mode == "fsdp" else 1


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole training run."""

    out: PathText = "???"  # run folder
    seed: int = 0  # of weights, order, crops and masks
    steps: PositiveInt = 125000  # optimizer updates
    batch_size: PositiveInt = 64  # images per step, over all ranks
    # images among which KoLeo finds neighbors and stochastic depth draws subsets; 0: those of a
    # micro-batch, as published, which makes results depend on the number of ranks
    group_size: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if there is one
    # auto: bfloat16 autocast where the device is faster with it, float32 where needed; float64: for
    # tests
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    threads: NonNegativeInt = 0  # CPU threads per rank; 0: an equal share of the cores
    log_every: PositiveInt = 10  # steps between lines of metrics.jsonl
    separate_heads: bool = True  # False: masked patches use the DINO head (DINOv2 "fast")
    data: DataConfig = field(default_factory=DataConfig)
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    model: ModelConfig = field(default_factory=ModelConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    dino_head: HeadConfig = field(default_factory=HeadConfig)
    ibot_head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    # Keys that do not affect results: they may differ between two starts of a run.
    LAUNCH_KEYS: ClassVar[tuple[str, ...]] = (
        *("out", "parallel", "threads", "data.num_workers", "data.cache", "data.cache_mib"),
    )

    def micro_batch(self, num_ranks: int) -> int:
        """Return the images per rank and forward pass."""
        return self.batch_size // (num_ranks * self.parallel.accumulate)

    def check_ranks(self, num_ranks: int, ranks_per_node: int | None = None) -> None:
        """Raise a `UsageError` with all `rank_faults`, if there are any."""
        faults = list(self.rank_faults(num_ranks, ranks_per_node))
        if faults:
            raise UsageError(faults=faults)

    def rank_faults(self, num_ranks: int, ranks_per_node: int | None = None) -> Iterator[Fault]:
        """Find what does not divide by ``num_ranks``; ``ranks_per_node`` None: one machine."""
        accumulate = self.parallel.accumulate
        pieces = num_ranks * accumulate
        images = self.micro_batch(num_ranks)
        if self.batch_size % pieces:
            over = f"{num_ranks} ranks" + f" x {accumulate} micro-batches" * (accumulate > 1)
            what = f"`batch_size` {self.batch_size} is not a multiple of {over}"
            multiples = [str(n * pieces) for n in (images, images + 1) if n]
            yield Fault(what, "recipe", f"give batch_size={' or '.join(multiples)}")
        elif self.group_size and images % self.group_size:
            yield Fault(
                f"`group_size` {self.group_size} does not divide a micro-batch of {images} images",
                "recipe",
                f"give group_size={gcd(images, self.group_size)}, or another batch_size, "
                "parallel.accumulate or number of ranks",
            )
        if num_ranks == 1 or self.parallel.mode != "hsdp":
            return
        per_node = num_ranks if ranks_per_node is None else ranks_per_node
        shard = self.parallel.ranks_of_a_copy("hsdp", num_ranks, per_node)
        if num_ranks % shard:
            machine = "" if self.parallel.shard else f", the {shard} ranks of a machine,"
            what = (
                f"`parallel.shard` {self.parallel.shard}{machine} does not divide {num_ranks} ranks"
            )
            do = f"give parallel.shard={gcd(num_ranks, shard)}, or another divisor of {num_ranks}"
            yield Fault(what, "recipe", do)

    @property
    def warmup(self) -> int:
        """Warm-up steps of the learning rate."""
        return self._share(self.optimizer.warmup, _WARMUP)

    @property
    def temperature_warmup(self) -> int:
        """Warm-up steps of the teacher temperature."""
        return self._share(self.teacher.temperature_warmup, _TEMPERATURE_WARMUP)

    @property
    def freeze_last_layer(self) -> int:
        """Steps with frozen prototypes."""
        return self._share(self.optimizer.freeze_last_layer, _FREEZE)

    def _share(self, given: int | None, percent: int) -> int:
        return self.steps * percent // 100 if given is None else given

    def _phase_faults(self) -> Iterator[Fault]:
        """Find phases longer than the run: they were chosen for another number of steps."""
        optimizer, steps = self.optimizer, self.steps
        warm = self.teacher.temperature_warmup
        for name, given, percent, longest in (
            ("optimizer.warmup", optimizer.warmup, _WARMUP, steps),
            ("teacher.temperature_warmup", warm, _TEMPERATURE_WARMUP, steps),
            ("optimizer.freeze_last_layer", optimizer.freeze_last_layer, _FREEZE, steps - 1),
        ):
            if given is not None and not 0 <= given <= longest:
                what = f"`{name}` {given} does not fit a run of {self.steps} steps"
                do = f"give 0 to {longest}, or {name}=null for {percent} % of the steps"
                yield Fault(what, "recipe", do)

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the rule of the protocol
        """Find contradictions between sections."""
        yield from self._phase_faults()
        if 0 < self.data.max_side < self.crops.global_size:
            what = f"`data.max_side` {self.data.max_side} is below `crops.global_size`"
            yield Fault(what, "recipe", f"give 0 (never), or {self.crops.global_size} or more")
        patch = self.model.patch_size
        for name in ("global_size", "local_size"):
            size = getattr(self.crops, name)
            if patch < 1 or size % patch:
                what = f"`crops.{name}` {size} is not a multiple of `model.patch_size` {patch}"
                yield Fault(what, "recipe", "change one of them")
                return
        yield from find_faults(self.model.vit(self.crops.global_size), "model")
