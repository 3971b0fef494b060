"""What a ViT is made of: a released size by name, any other by its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from dinoforge.errors import Fault

__all__ = ["ARCHITECTURES", "Architecture", "PositionMode", "VitConfig"]

ArchitectureName = Literal["small", "base", "large", "giant", "custom"]
PositionMode = Literal["offset", "offset_antialias", "size_antialias", "size"]


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
    """One vision transformer: everything that its weights' shapes or its output depend on.

    Width, depth, heads and feed-forward that are not given are those of ``architecture``; in the
    finished config all of them are set, and ``architecture`` is ``custom`` if they differ from it.
    """

    # released size that fills in what is not given: 384 x 12, 768 x 12, 1024 x 24 or 1536 x 40
    architecture: ArchitectureName = "small"
    width: int = 0  # D, channels of a token; 0: as the architecture says
    depth: int = 0  # L, blocks; 0: as the architecture says
    heads: int = 0  # H, attention heads of width / heads channels; 0: as the architecture says
    patch_size: int = 14  # side of a patch, pixels
    # feed-forward layer; auto: as the architecture says (SwiGLU for giant only)
    ffn: Literal["auto", "mlp", "swiglu"] = "auto"
    ffn_ratio: float = 4.0  # hidden width / width; SwiGLU takes 2/3 of it, rounded up to 8
    registers: int = 0  # register tokens (Darcet et al. 2023); 0 or 4 in released models
    layer_scale: float = 1e-5  # initial LayerScale (Touvron et al. 2021); 0 builds none
    bias: bool = True  # biases of qkv, projection and feed-forward layers
    image_size: int = 224  # side, pixels, of the position embedding's native grid
    # how positions are resampled to another grid: "offset" (grid + 0.1, no antialias) is
    # DINOv2; "size_antialias" is DINOv2 with registers and timm; "size" is transformers
    positions: PositionMode = "offset"
    # "published": trunc_normal(0.02), for width >= 384; "xavier": for narrower nets
    init: Literal["published", "xavier"] = "published"

    def __post_init__(self) -> None:
        """Fill in what the architecture says."""
        sizes = ARCHITECTURES.get(self.architecture)
        if sizes is None:
            return
        for name, value in sizes._asdict().items():
            if getattr(self, name) in (0, "auto"):
                object.__setattr__(self, name, value)
        if sizes != (self.width, self.depth, self.heads, self.ffn):
            object.__setattr__(self, "architecture", "custom")

    @classmethod
    def named(cls, architecture: str, **changes: Any) -> "VitConfig":
        """Make a released size: ``small``, ``base``, ``large`` or ``giant``."""
        return cls(architecture=cast("ArchitectureName", architecture), **changes)

    @property
    def grid(self) -> int:
        """Side of the native grid, in patches."""
        return self.image_size // self.patch_size

    @property
    def ffn_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        hidden = int(self.width * self.ffn_ratio)
        return hidden if self.ffn != "swiglu" else (int(hidden * 2 / 3) + 7) // 8 * 8

    @property
    def name(self) -> str:
        """Name as timm would write it: ``vit_small_patch14_reg4``."""
        size: str = self.architecture
        if size == "custom":
            size = f"d{self.width}x{self.depth}" + ("_swiglu" if self.ffn == "swiglu" else "")
        registers = f"_reg{self.registers}" if self.registers else ""
        return f"vit_{size}_patch{self.patch_size}{registers}"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find sizes that are missing or do not divide."""
        sizes = ("width", "depth", "heads", "patch_size", "image_size")
        bad = [name for name in sizes if getattr(self, name) < 1]
        if self.ffn == "auto":
            bad.append("ffn")
        for name in bad:
            do = f"set {at}.{name}=VALUE, or {at}.architecture=small"
            yield Fault(f"`{at}.{name}` is not set", f"{at}.architecture={self.architecture}", do)
        if self.registers < 0 or self.layer_scale < 0 or self.ffn_ratio <= 0:
            yield Fault(f"`{at}` has a negative size", at, "see registers, layer_scale, ffn_ratio")
        if not bad:
            yield from self._division_faults(at)

    def _division_faults(self, at: str) -> Iterator[Fault]:
        for size, part in (("width", "heads"), ("image_size", "patch_size")):
            value, divisor = getattr(self, size), getattr(self, part)
            if value % divisor:
                yield Fault(
                    f"`{at}.{size}` {value} is not a multiple of `{at}.{part}` {divisor}",
                    at,
                    f"set {at}.{size}={round(value / divisor) * divisor or divisor}",
                )
