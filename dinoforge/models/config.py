"""Sizes of a ViT: a released one by name, any other by its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from dinoforge.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from dinoforge.errors import Fault

__all__ = [
    "ARCHITECTURES",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "POSITION_MODES",
    "Architecture",
    "InitScheme",
    "PositionMode",
    "ResamplingMode",
    "VitConfig",
]

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]; what every released ViT expects
IMAGE_STD = (0.229, 0.224, 0.225)

# How learned positions are resampled; "rope": rotary positions instead, see `rope`.
ResamplingMode = Literal["offset", "offset_antialias", "size_antialias", "size"]
# published: DINOv2; dino: DINO v1; xavier: for narrow networks; see `draw_weights`.
InitScheme = Literal["published", "dino", "xavier"]
PositionMode = Literal[ResamplingMode, "rope"]
POSITION_MODES: tuple[PositionMode, ...] = get_args(PositionMode)


class Architecture(NamedTuple):
    """Sizes of a released model."""

    width: int
    depth: int
    heads: int
    ffn: Literal["mlp", "swiglu"]


# Oquab et al. 2023, table 17. The published training recipes of `large` use SwiGLU all the same.
ARCHITECTURES: Mapping[str, Architecture] = {
    "small": Architecture(384, 12, 6, "mlp"),
    "base": Architecture(768, 12, 12, "mlp"),
    "large": Architecture(1024, 24, 16, "mlp"),
    "giant": Architecture(1536, 40, 24, "swiglu"),
}


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """One vision transformer: all settings that determine its weights' shapes or its output."""

    width: PositiveInt = 384  # D, channels of a token
    depth: PositiveInt = 12  # L, blocks
    heads: PositiveInt = 6  # H, attention heads; width / heads channels each
    patch_size: PositiveInt = 14  # side of a patch, pixels
    ffn: Literal["mlp", "swiglu"] = "mlp"
    ffn_ratio: PositiveFloat = 4.0  # hidden width / width; SwiGLU takes 2/3 of it, rounded up to 8
    registers: NonNegativeInt = 0  # register tokens (Darcet et al. 2023); 0 or 4 in released models
    layer_scale: NonNegativeFloat = 1e-5  # initial LayerScale (Touvron et al. 2021); 0 builds none
    bias: bool = True  # biases of qkv, projection and feed-forward layers
    image_size: PositiveInt = 224  # side, pixels, of the position embedding's native grid
    # how positions are resampled to another grid: "offset" (grid + 0.1, no antialias) is
    # DINOv2; "size_antialias" is DINOv2 with registers and timm; "size" is transformers;
    # "rope", rotary positions without a table, is DINOv3
    positions: PositionMode = "offset"
    norm_eps: PositiveFloat = 1e-6  # added to the variance in every LayerNorm; DINOv3 has 1e-5
    init: InitScheme = "published"  # "xavier" for width < 384

    @classmethod
    def named(cls, architecture: str, **changes: Any) -> "VitConfig":
        """Return a released size: ``small``, ``base``, ``large`` or ``giant``."""
        return cls(**{**ARCHITECTURES[architecture]._asdict(), **changes})

    @property
    def architecture(self) -> str:
        """Name of the released size, or ``custom``."""
        own = Architecture(self.width, self.depth, self.heads, self.ffn)
        return next((name for name, sizes in ARCHITECTURES.items() if sizes == own), "custom")

    @property
    def grid(self) -> int:
        """Side of the native grid, in patches."""
        return self.image_size // self.patch_size

    @property
    def ffn_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        hidden = int(round(self.width * self.ffn_ratio, 6))  # a ratio of 8 / 3 must not lose one
        return hidden if self.ffn != "swiglu" else (int(hidden * 2 / 3) + 7) // 8 * 8

    def forward_flops(self, patches: int) -> int:
        """Count the operations of products in one forward pass over so many patches.

        A product of ``[n, k]`` and ``[k, m]`` takes 2 n k m; softmax and norms are left out.
        """
        tokens, width = 1 + self.registers + patches, self.width
        hidden = self.ffn_width * (3 if self.ffn == "swiglu" else 2)
        block = 2 * tokens * width * (4 * width + hidden) + 4 * tokens**2 * width
        return 2 * patches * 3 * self.patch_size**2 * width + self.depth * block

    @property
    def name(self) -> str:
        """Name in the style of timm: ``vit_small_patch14_reg4``."""
        size = self.architecture
        if size == "custom":
            size = f"d{self.width}x{self.depth}" + ("_swiglu" if self.ffn == "swiglu" else "")
        registers = f"_reg{self.registers}" if self.registers else ""
        rope = "_rope" if self.positions == "rope" else ""
        return f"vit_{size}_patch{self.patch_size}{registers}{rope}"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find sizes that do not divide."""
        if self.positions == "rope" and self.width % (4 * self.heads):
            text = f"`{at}.width` {self.width} is not a multiple of 4 x {self.heads} heads"
            yield Fault(text, "recipe", f"change {at}.heads, or {at}.positions")
        for size, part in (("width", "heads"), ("image_size", "patch_size")):
            value, divisor = getattr(self, size), getattr(self, part)
            if value % divisor:
                yield Fault(
                    f"`{at}.{size}` {value} is not a multiple of `{at}.{part}` {divisor}",
                    "recipe",
                    f"{at}.{size}={max(round(value / divisor), 1) * divisor}",
                )
