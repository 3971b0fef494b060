"""A vision transformer in one file that needs only torch: DINOv2 (also with registers), DINOv3.

Written by dinoforge (Apache-2.0). Tensors have the names of the DINOv2 release. Any image size of
whole patches works: positions are computed from the size with tensor operations only, so that the
program exported by `torch.onnx.export` or `torch.jit.script` takes any size, too.

Shapes: B images, N patches, R registers, D width, H heads, E channels per head, X rows and Y
columns of patches, M side of the native grid.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VisionTransformer"]


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token."""

    patch_size: Final[int]

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens ``[B, N, D]``, row by row."""
        batch, _, height, width = images.shape
        side = self.patch_size
        rows, columns = height // side, width // side
        # A product, not a convolution, which would ignore the rest of a size that does not divide.
        patches = images.reshape(batch, 3, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(batch, rows * columns, 3 * side * side)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class LayerScale(nn.Module):
    """Learned scale per channel of a residual branch."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last axis."""
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention."""

    heads: Final[int]

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Attend within each image; ``rotation`` is that of queries and keys of patches."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            query, key = _rotate(query, rotation), _rotate(key, rotation)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every token."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """Gated feed-forward layer; ``w12`` packs gate and value."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden, bias=bias)
        self.w3 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every token."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block: attention branch, then feed-forward branch."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        gated: bool,
        layer_scale: float,
        bias: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, bias)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = SwiGlu(width, hidden, bias) if gated else Mlp(width, hidden, bias)
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Add both branches to ``[B, 1 + R + N, D]``."""
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """ViT with the outputs of DINOv2's.

    ``hidden`` is the width inside the feed-forward layers, gated (SwiGLU) or not; ``layer_scale``
    the initial LayerScale, 0 for none; ``grid`` the side of the native grid in patches;
    ``positions`` how learned positions are resampled to another grid (``offset``,
    ``offset_antialias``, ``size``, ``size_antialias``), or ``rope``: rotary positions.
    """

    patch_size: Final[int]
    grid: Final[int]
    positions: Final[str]

    def __init__(  # noqa: PLR0913 - one argument per setting
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        hidden: int,
        gated: bool,
        registers: int,
        layer_scale: float,
        bias: bool,
        grid: int,
        positions: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.embed_dim = self.num_features = width
        self.num_register_tokens = registers
        self.num_heads, self.n_blocks = heads, depth
        self.patch_size, self.grid, self.positions = patch_size, grid, positions
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        has_table = positions != "rope"
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width)) if has_table else None
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(width, patch_size)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                hidden,
                gated=gated,
                layer_scale=layer_scale,
                bias=bias,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.apply(_draw)
        for table in (self.cls_token, self.pos_embed, self.register_tokens):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token ``[B, D]`` of normalized images ``[B, 3, height, width]``."""
        return self.forward_features(images)["x_norm_clstoken"]

    def forward_features(self, images: Tensor, masks: Tensor | None = None) -> dict[str, Tensor]:
        """Return the normalized tokens by kind, and ``x_prenorm``: all before the last LayerNorm.

        ``x_norm_clstoken [B, D]``, ``x_norm_regtokens [B, R, D]`` and ``x_norm_patchtokens
        [B, N, D]``. ``masks [B, N]`` is True where a patch is replaced by the mask token.
        """
        rotation = self._rotation(images)
        x = self._tokens(images, masks)
        for block in self.blocks:
            x = block(x, rotation)
        normed, first_patch = self.norm(x), 1 + self.num_register_tokens
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first_patch],
            "x_norm_patchtokens": normed[:, first_patch:],
            "x_prenorm": x,
        }

    @torch.jit.unused
    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor | tuple[Tensor, Tensor], ...]:
        """Return the patch tokens ``[B, N, D]`` after the last ``n`` blocks, or after blocks ``n``.

        ``reshape`` gives ``[B, D, X, Y]``; ``return_class_token`` pairs of patch and class tokens.
        """
        wanted = range(self.n_blocks - n, self.n_blocks) if isinstance(n, int) else n
        rotation, x, outputs = self._rotation(images), self._tokens(images, None), []
        rows, columns = (size // self.patch_size for size in images.shape[-2:])
        for index, block in enumerate(self.blocks):
            x = block(x, rotation)
            if index in wanted:
                out = self.norm(x) if norm else x
                patches = out[:, 1 + self.num_register_tokens :]
                if reshape:
                    patches = patches.transpose(1, 2).unflatten(2, (rows, columns))
                outputs.append((patches, out[:, 0]) if return_class_token else patches)
        return tuple(outputs)

    def _tokens(self, images: Tensor, masks: Tensor | None) -> Tensor:
        height, width = images.shape[-2], images.shape[-1]
        side = self.patch_size
        if height % side != 0 or width % side != 0:
            text = f"image of {height} x {width} pixels: not a multiple of {side} x {side}"
            raise ValueError(text)
        x = self.patch_embed(images)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token, x)
        cls: Tensor = self.cls_token
        positions = self.pos_embed
        if positions is not None:
            cls = cls + positions[:, :1]
            x = x + self._resampled(positions[0, 1:], height // side, width // side)
        registers = self.register_tokens
        if registers is not None:
            x = torch.cat([registers.expand(x.shape[0], -1, -1), x], dim=1)
        return torch.cat([cls.expand(x.shape[0], -1, -1), x], dim=1)

    def _resampled(self, table: Tensor, rows: int, columns: int) -> Tensor:
        """Resample positions ``[M * M, D]`` to ``[1, X * Y, D]``: bicubic, one axis at a time."""
        native = self.grid
        offset = 0.1 if self.positions.startswith("offset") else 0.0
        antialias = self.positions.endswith("antialias")
        by_row = _weights(native, rows, columns, offset, antialias).to(table)
        by_column = _weights(native, columns, rows, offset, antialias).to(table)
        grid = (by_row @ table.reshape(native, -1)).reshape(rows, native, -1)
        return (by_column @ grid).reshape(1, rows * columns, -1)

    def _rotation(self, images: Tensor) -> Tensor | None:
        """Return cosine and sine ``[2, N, E / 2]`` of the angles of patches, with ``rope``."""
        if self.positions != "rope":
            return None
        rows, columns = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        quarter = self.embed_dim // self.num_heads // 4
        steps = torch.arange(quarter, dtype=torch.float64)
        # Periods from 1 to 100, excluded.
        frequencies = 2 * math.pi * torch.pow(100.0, -steps / quarter)
        y = torch.arange(rows, dtype=torch.float64) + 0.5
        x = torch.arange(columns, dtype=torch.float64) + 0.5
        y, x = y / (y[-1] + 0.5) * 2 - 1, x / (x[-1] + 0.5) * 2 - 1
        by_row = (y.unsqueeze(1) * frequencies).unsqueeze(1).expand(-1, columns, -1)
        by_column = (x.unsqueeze(1) * frequencies).unsqueeze(0).expand(rows, -1, -1)
        angles = torch.cat([by_row, by_column], dim=-1).reshape(rows * columns, 2 * quarter)
        # onnxruntime has no cosine in float64.
        return torch.stack([torch.sin(angles + math.pi / 2), torch.sin(angles)]).to(self.cls_token)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the patches, the last tokens of ``[B, H, 1 + R + N, E]``."""
    first_patch = x.shape[2] - rotation.shape[1]
    first, second = x[:, :, first_patch:].chunk(2, dim=-1)
    cosine, sine = rotation[0], rotation[1]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat([x[:, :, :first_patch], torch.cat(turned, dim=-1)], dim=2)


def _weights(native: int, size: int, other: int, offset: float, antialias: bool) -> Tensor:
    """Return the weights of native samples in resampled ones, float64 ``[size, native]``.

    ``other`` is the size of the other axis: at the native size of both nothing is resampled.
    """
    outputs = torch.arange(size, dtype=torch.float64)
    samples = torch.arange(native, dtype=torch.float64)
    count = outputs[-1] + 1  # tensors, not numbers: a branch would fix the size of a program
    step = 1 / ((count + offset) / native)
    centers = (step * (outputs + 0.5)).unsqueeze(1)
    unchanged = count == native
    if antialias:
        stretch = step.clamp(min=1)
        first = torch.trunc(centers - 2 * stretch + 0.5).clamp(min=0)
        end = torch.trunc(centers + 2 * stretch + 0.5).clamp(max=native)
        kernel = _cubic((samples + 0.5 - centers) / stretch, -0.5)
        weights = torch.where((samples >= first) & (samples < end), kernel, 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True)
    else:
        taps = torch.floor(centers - 0.5) - 1 + torch.arange(4, dtype=torch.float64)
        kernel = _cubic(taps + 0.5 - centers, -0.75).unsqueeze(2)
        is_sample = taps.clamp(0, native - 1).unsqueeze(2) == samples  # the border is repeated
        weights = torch.where(is_sample, kernel, 0.0).sum(dim=1)
        unchanged = unchanged & (torch.arange(other, dtype=torch.float64)[-1] + 1 == native)
    identity = (outputs.unsqueeze(1) == samples).double()
    return torch.where(unchanged, identity, weights)


def _cubic(distance: Tensor, a: float) -> Tensor:
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
