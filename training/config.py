"""The recipe of a training: meaning, unit and source of the default of every key.

Defaults are those of DINOv2's ViT-L/16 recipe on ImageNet-1k where a small machine can run them;
recipes in ``configs/training`` list what they change.
"""

import re
from collections.abc import Iterator
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
from dinoforge.models.config import ARCHITECTURES, InitScheme, ResamplingMode, VitConfig
from dinoforge.training.data.crops import CropsConfig
from dinoforge.training.data.masks import MaskConfig
from dinoforge.training.data.parts import DataConfig
from dinoforge.training.data.support import SupportConfig

__all__ = [
    "CheckpointConfig",
    "HeadConfig",
    "LossConfig",
    "Mode",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PawsConfig",
    "TeacherConfig",
    "TrainingConfig",
]


BelowOne = Annotated[float, Range(0, 1, exclude=(1,))]


_VITS = (*ARCHITECTURES, "custom")
# Names of `models.pooled`.
_POOLED = re.compile(r"resnet50|wrn(10|16|22|28|34|40)_[1-9]\d?|timm:[\w.-]+")
ArchitectureName = Annotated[
    str,
    Allowed(
        lambda name: name in _VITS or _POOLED.fullmatch(name),
        f"{', '.join(_VITS)}, resnet50, wrn28_2 or timm:NAME",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone; all keys but the first are those of ViTs."""

    # ViTs: small, base, large, giant as released; custom uses width, depth, heads, ffn below. For
    # dino and paws, networks that give one vector per image: resnet50, wrn28_2 (wide ResNets
    # of depth 10, 16, 22, 28, 34 or 40, images of 32 pixels), timm:NAME (extra `timm`)
    architecture: ArchitectureName = "small"
    patch_size: PositiveInt = 14  # side of a patch, pixels
    width: PositiveInt = 384  # channels of a token (custom)
    depth: PositiveInt = 12  # blocks (custom)
    heads: PositiveInt = 6  # attention heads (custom)
    ffn: Literal["auto", "mlp", "swiglu"] = "auto"  # auto: swiglu for giant, else mlp
    registers: NonNegativeInt = 0  # register tokens (Darcet et al. 2023)
    layer_scale: NonNegativeFloat = 1e-5  # initial LayerScale; 0: none
    positions: ResamplingMode = "offset"  # how positions are resampled to other crop sizes
    drop_path: BelowOne = 0.0  # share of samples that skip each residual branch
    # subset: the same number in every block, as in DINOv2; sample: each on its own, from 0 in the
    # first block to drop_path in the last, as in DINO v1
    drop_path_rule: Literal["subset", "sample"] = "subset"
    # published: that of DINOv2; dino: that of DINO v1; xavier: for a width below 384
    init: InitScheme = "published"
    # back end; auto: the fastest (measured on a GPU, by rule on a CPU), kept when a run resumes
    attention: Literal["auto", "sdpa", "plain", "varlen", "xformers"] = "auto"
    # packed: linear layers run once over the tokens of all crops; auto: packed on a GPU
    packing: Literal["auto", "packed", "separate"] = "auto"

    @property
    def is_vit(self) -> bool:
        """Whether the backbone is a ViT, with patch tokens, and not a `PooledNetwork`."""
        return self.architecture in _VITS

    @property
    def step_of_sides(self) -> int:
        """Pixels of which sides of crops are multiples."""
        return self.patch_size if self.is_vit else 1

    def vit(self, image_size: int) -> VitConfig:
        """Return the configuration of a ViT, with the grid of ``image_size`` pixels."""
        assert self.is_vit, f"{self.architecture} is no ViT"
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
    # True: prototypes keep the length 1; False: it is trained and decayed, as in DINOv2
    norm_last_layer: bool = False
    # batch normalization before every GELU, as in DINO v1 for ResNet-50; method=dino
    normalized: bool = False


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the three terms; 0 disables a term."""

    dino: NonNegativeFloat = 1.0  # cross-entropy between views
    ibot: NonNegativeFloat = 1.0  # cross-entropy on masked patches
    koleo: NonNegativeFloat = 0.1  # on each of the two global crops


@dataclass(frozen=True, kw_only=True)
class PawsConfig:
    """Heads and losses of PAWS (Assran et al. 2021, section 3 and table 4), and of SuNCEt."""

    temperature: PositiveFloat = 0.1  # of the similarities to labeled images
    sharpening: PositiveFloat = 0.25  # temperature that sharpens targets
    smoothing: BelowOne = 0.1  # share of each label that is spread over all classes
    me_max: NonNegativeFloat = 1.0  # weight of the entropy of the mean prediction; paws
    # weight of the loss of suncet: labeled images are classified by each other; published: 0; paws
    supervised: NonNegativeFloat = 0.0
    # weight of the contrastive loss of all images; 0: labeled images alone; suncet
    contrastive: NonNegativeFloat = 1.0
    hidden: PositiveInt = 2048  # width of the hidden layers of the projection
    width: PositiveInt = 2048  # of the embeddings that are compared
    normalized: bool = True  # batch normalization in the heads
    # of the heads; relu: as published; gelu: for ViTs, the prediction then has no bottleneck
    activation: Literal["relu", "gelu"] = "relu"
    prediction: bool = False  # a second head for what is predicted, not for targets


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """EMA teacher and its targets (DINOv2, table 16)."""

    balance: Literal["sinkhorn", "centering"] = "sinkhorn"  # what prevents collapse
    temperature_start: PositiveFloat = 0.04  # teacher temperature at step 0
    temperature: PositiveFloat = 0.07  # after temperature_warmup steps
    # steps; null: 30 % of all, 37,500 of the published 125,000
    temperature_warmup: int | None = None
    # steps for which a temperature is held during the warm-up; DINO v1 holds it for an epoch
    temperature_hold: PositiveInt = 1
    momentum_start: Fraction = 0.992  # share of the old teacher per step; cosine to the end
    momentum_end: Fraction = 1.0  # at the last step
    # distillation: run folder of a training, or one of its checkpoints (for a plan also a recipe):
    # its teacher and heads make the targets and stay as they are; the EMA is only exported
    frozen: OptionalPath = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Yield a fault for a schedule that would decrease."""
        pairs = (("temperature_start", "temperature"), ("momentum_start", "momentum_end"))
        for start, end in pairs:
            if getattr(self, start) > getattr(self, end):
                text = f"`{at}.{start}` is {getattr(self, start)}"
                yield Fault(text, "recipe", f"give at most {at}.{end} ({getattr(self, end)})")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and schedules."""

    # adamw; sgd: with momentum; lars: sgd with a rate of each tensor's own (You et al. 2017)
    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: PositiveFloat = 4e-3  # base learning rate, see lr_rule
    # sqrt_1024: lr * sqrt(batch / 1024) as in DINOv2; linear_256: lr * batch / 256 as in DINO v1;
    # none: as given
    lr_rule: Literal["sqrt_1024", "linear_256", "none"] = "sqrt_1024"
    lr_end: NonNegativeFloat = 1e-6  # at the end of the cosine; not scaled
    lr_start: NonNegativeFloat = 0.0  # at the start of the warm-up; scaled as lr
    # steps of linear warm-up; null: 10 % of all, 12,500 of the published 125,000
    warmup: int | None = None
    weight_decay_start: NonNegativeFloat = 0.04  # cosine from here
    weight_decay_end: NonNegativeFloat = 0.4  # to here
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # AdamW
    momentum: BelowOne = 0.9  # SGD and LARS
    # SGD and LARS, what momentum sums: gradients, as in DINO v1; steps, each with the learning rate
    # of its time, as in PAWS
    momentum_of: Literal["gradients", "steps"] = "gradients"
    trust: PositiveFloat = 0.001  # LARS: length of a step / length of the tensor, at lr 1
    clip: NonNegativeFloat = 3.0  # maximum gradient norm of what clip_by names; 0: no clipping
    # network: backbone and each head, as in DINOv2; tensor: every parameter, as in DINO v1
    clip_by: Literal["network", "tensor"] = "network"
    # learning rate of block i is scaled by this ** (depth - i); ViTs
    layerwise_decay: Annotated[float, Range(0, 1, exclude=(0,))] = 0.9
    patch_embed_lr: NonNegativeFloat = 0.2  # additional factor for the patch embedding; ViTs
    # steps for which the prototypes are frozen; null: 1 % of all, 1,250 of 125,000
    freeze_last_layer: int | None = None
    # rate: by a learning rate of 0, while moments go on, as in DINOv2; gradient: by dropping their
    # gradients, as in DINO v1
    freeze_by: Literal["rate", "gradient"] = "rate"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep; the last step is always saved."""

    every: PositiveInt = 3750  # steps between checkpoints
    keep: PositiveInt = 3  # number of newest checkpoints to keep
    keep_every: NonNegativeInt = 0  # also keep checkpoints at multiples of this step; 0: none
    export_every: PositiveInt = 12500  # steps between exported backbones, which are always kept


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Weights of an earlier training that this one starts from; its schedules start anew."""

    # backbone file, or run folder of a training, which gives its last export: weights of student
    # and teacher, and of heads beside the backbone if the method has them; "": all are drawn
    weights: OptionalPath = ""
    # True: batch normalization uses the statistics in these files and leaves them as they are
    freeze_statistics: bool = False

    def faults(self, at: str) -> Iterator[Fault]:
        """Yield a fault for statistics of no file."""
        if self.freeze_statistics and not self.weights:
            do = f"give {at}.weights=FILE, or {at}.freeze_statistics=false"
            yield Fault(f"`{at}.freeze_statistics` without `{at}.weights`", "recipe", do)


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
    # dinov2: DINO, iBOT and KoLeo (Oquab et al. 2023); dino: DINO alone (Caron et al. 2021). Few
    # images have labels, see `support`: paws (Assran et al. 2021); suncet: they are classified by
    # each other, alongside a contrastive loss (Assran et al. 2020); supervised: a linear layer
    # learns their labels, as in the fine-tuning of PAWS (unlabeled images do not train it: keep
    # batch_size small). distillation: dinov2 without masks, by a trained teacher, teacher.frozen
    method: Literal["dinov2", "dino", "paws", "suncet", "supervised", "distillation"] = "dinov2"
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
    start: StartConfig = field(default_factory=StartConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    dino_head: HeadConfig = field(default_factory=HeadConfig)
    ibot_head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    support: SupportConfig = field(default_factory=SupportConfig)
    paws: PawsConfig = field(default_factory=PawsConfig)
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

    def support_crops(self, num_ranks: int) -> int:
        """Return the crops of labeled images per rank and forward pass."""
        crops = self.support.views * self.support.rows if self.has_support else 0
        return crops // (num_ranks * self.parallel.accumulate)

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
        over = f"{num_ranks} ranks" + f" x {accumulate} micro-batches" * (accumulate > 1)
        if self.batch_size % pieces:
            what = f"`batch_size` {self.batch_size} is not a multiple of {over}"
            multiples = [str(n * pieces) for n in (images, images + 1) if n]
            yield Fault(what, "recipe", f"give batch_size={' or '.join(multiples)}")
        elif self.has_support and self.support.rows % pieces:
            rows = self.support.rows
            what = f"`support` has {rows} images, which cannot be divided evenly among {over}"
            do = "change support.images or support.classes, or the number of ranks"
            yield Fault(what, "recipe", do)
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

    @property
    def has_support(self) -> bool:
        """Whether a step has labeled images."""
        return self.method in ("paws", "suncet", "supervised")

    def _method_faults(self) -> Iterator[Fault]:
        if self.has_support:
            yield from self._support_faults()
        if self.method == "dino":
            for name in ("ibot", "koleo"):
                if getattr(self.loss, name):
                    what = f"`loss.{name}` is {getattr(self.loss, name)} with method=dino"
                    yield Fault(what, "recipe", f"give loss.{name}=0, or method=dinov2")
        if (self.method == "distillation") != bool(self.teacher.frozen):
            what = f"`teacher.frozen` is `{self.teacher.frozen}` with method={self.method}"
            do = "give method=distillation and teacher.frozen=FOLDER, of a training, or neither"
            yield Fault(what, "recipe", do)

    def _support_faults(self) -> Iterator[Fault]:
        if not self.support.paths:
            what = f"`support.paths` is empty with method={self.method}"
            yield Fault(what, "recipe", "give images with labels")
        if self.model.drop_path:
            what = f"`model.drop_path` is {self.model.drop_path} with method={self.method}"
            yield Fault(what, "recipe", "give 0: it has no stochastic depth")
        rows, classes = self.support.rows, self.support.num_classes
        if self.method == "suncet" and rows * self.support.views < 2 * classes:
            what = "`support` has one view of each class, and method=suncet compares them"
            yield Fault(what, "recipe", "give support.images=2, or support.views=2")

    def _model_faults(self) -> Iterator[Fault]:
        """Find what a backbone, or a normalization, does not support."""
        model, has_ibot = self.model, self.method in ("dinov2", "distillation")
        if has_ibot and not model.is_vit:
            what = f"`model.architecture` {model.architecture} has no patch tokens to mask"
            yield Fault(what, "recipe", "give method=dino or method=paws")
        if has_ibot and (self.dino_head.normalized or self.ibot_head.normalized):
            what = f"`dino_head.normalized` or `ibot_head.normalized` with method={self.method}"
            yield Fault(what, "recipe", "give false, or method=dino")
        only_vits = {
            "model.drop_path": model.drop_path,
            "parallel.compile": self.parallel.compile,
            "parallel.activation_checkpointing": self.parallel.activation_checkpointing != "none",
        }
        for key in [key for key, is_set in only_vits.items() if is_set and not model.is_vit]:
            what = f"`{key}` needs the blocks of a ViT, and `model.architecture` is"
            do = f"remove {key}, or give a ViT"
            yield Fault(f"{what} {model.architecture}", "recipe", do)
        normalized = {
            "model.architecture": model.architecture.startswith(("resnet50", "wrn")),
            "dino_head.normalized": self.method == "dino" and self.dino_head.normalized,
            "paws.normalized": self.method in ("paws", "suncet") and self.paws.normalized,
        }
        key = next((key for key, is_set in normalized.items() if is_set), "")
        if key and self.parallel.accumulate > 1:
            what = f"`parallel.accumulate` {self.parallel.accumulate} with `{key}`"
            do = "give parallel.accumulate=1: batch statistics are those of a whole step"
            yield Fault(what, "recipe", do)

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the rule of the protocol
        """Find contradictions between sections."""
        yield from self._phase_faults()
        yield from self._model_faults()
        yield from self._method_faults()
        if self.parallel.compile and self.model.drop_path and self.model.drop_path_rule == "sample":
            what = "`parallel.compile` with `model.drop_path_rule` sample: shapes change every step"
            yield Fault(what, "recipe", "give parallel.compile=false, or drop_path_rule=subset")
        if 0 < self.data.max_side < self.crops.global_size:
            what = f"`data.max_side` {self.data.max_side} is below `crops.global_size`"
            yield Fault(what, "recipe", f"give 0 (never), or {self.crops.global_size} or more")
        patch = self.model.step_of_sides
        for name in ("global_size", "local_size"):
            size = getattr(self.crops, name)
            if size % patch:
                what = f"`crops.{name}` {size} is not a multiple of `model.patch_size` {patch}"
                yield Fault(what, "recipe", "change one of them")
                return
        if self.model.is_vit:
            yield from find_faults(self.model.vit(self.crops.global_size), "model")
