"""What a ViT is made of: the released sizes by name, any other by its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from dinoforge.errors import Fault

__all__ = ["ARCHITECTURES", "VitConfig"]

PositionMode = Literal["offset", "offset_antialias", "size_antialias", "size"]

# width, depth, heads, feed-forward (Oquab et al. 2023, table 17)
ARCHITECTURES: Mapping[str, tuple[int, int, int, str]] = {
    "small": (384, 12, 6, "mlp"),
    "base": (768, 12, 12, "mlp"),
    "large": (1024, 24, 16, "mlp"),
    "giant": (1536, 40, 24, "swiglu"),
}


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """One vision transformer; everything that its weights' shapes or its output depend on."""

    width: int = 384  # D, channels of a token
    depth: int = 12  # L, blocks
    heads: int = 6  # H, attention heads; width / heads channels each
    patch_size: int = 14  # side of a patch, pixels
    ffn: Literal["mlp", "swiglu"] = "mlp"
    ffn_ratio: float = 4.0  # hidden width / width; SwiGLU takes 2/3 of it, rounded up to 8
    registers: int = 0  # register tokens (Darcet et al. 2023); 0 or 4 in released models
    layer_scale: float = 1e-5  # initial LayerScale; 0 builds none
    bias: bool = True  # biases of qkv, projection and feed-forward layers
    image_size: int = 224  # side, pixels, of the position embedding's native grid
    # how positions are resampled to another grid: "offset" (grid + 0.1, no antialias) is
    # DINOv2; "size_antialias" is DINOv2 with registers and timm; "size" is transformers
    positions: PositionMode = "offset"
    # "published": trunc_normal(0.02), for width >= 384; "xavier": for narrower nets
    init: Literal["published", "xavier"] = "published"

    @classmethod
    def named(cls, architecture: str, **changes: object) -> "VitConfig":
        """Make a released size: ``small``, ``base``, ``large`` or ``giant``."""
        width, depth, heads, ffn = ARCHITECTURES[architecture]
        return cls(**{"width": width, "depth": depth, "heads": heads, "ffn": ffn, **changes})  # type: ignore[arg-type]

    @property
    def grid(self) -> int:
        """Side of the native grid, in patches."""
        return self.image_size // self.patch_size

    @property
    def ffn_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        hidden = int(self.width * self.ffn_ratio)
        if self.ffn == "mlp":
            return hidden
        return (int(hidden * 2 / 3) + 7) // 8 * 8

    def faults(self, at: str) -> Iterator[Fault]:
        """Find sizes that do not divide."""
        if min(self.width, self.depth, self.heads, self.patch_size) < 1:
            yield Fault(f"`{at}` has a size below 1", "recipe", "give positive sizes")
        elif self.width % self.heads:
            yield Fault(
                f"`{at}.width` {self.width} is not a multiple of `{at}.heads` {self.heads}",
                "recipe",
                "change one of them",
            )
        elif self.image_size % self.patch_size:
            yield Fault(
                f"`{at}.image_size` {self.image_size} is not a multiple of "
                f"`{at}.patch_size` {self.patch_size}",
                "recipe",
                "change one of them",
            )
