"""The layers of a ViT, with the tensor names of the released checkpoints.

Layers take the concatenated tokens of several crop sizes: ``x_TD`` has ``sum(B * N)`` tokens,
``shapes`` the (B, N) of each crop size. Only attention needs the shapes.

Stochastic depth runs a branch on a subset of the samples. The subset is drawn before the first
block, so a block is a function of tensors only: it compiles whole, and activation checkpointing
recomputes the same subset.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinoforge.models.attention import Shapes, attend, token_counts
from dinoforge.models.config import VitConfig
from dinoforge.models.rope import rotate

__all__ = [
    "Attention",
    "Block",
    "BlockRows",
    "LayerScale",
    "Mlp",
    "PatchEmbed",
    "SwiGlu",
    "kept_samples",
]


class BlockRows(NamedTuple):
    """Samples that the branches of a block run on: rows (int64, distinct), a tensor per batch."""

    attention: list[Tensor]
    ffn: list[Tensor]
    # of residuals; None: the batch size over the number of rows
    scale: float | None = None


# A rotation per crop size, see `rope`; None: positions are in the tokens.
Rotations = Sequence[Tensor] | None


def kept_samples(batch: int, drop_path: float) -> int:
    """Count the samples of a batch that a branch runs on: at least 1 unless the batch is empty.

    Rounded down, as published: 8 samples at a rate of 0.4 keep 4.
    """
    return min(max(int(batch * (1 - drop_path)), 1), batch)


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(3, config.width, kernel_size=size, stride=size)

    def forward(self, images_B3XY: Tensor) -> Tensor:
        """Return tokens ``[B, N, D]``, row by row."""
        tokens: Tensor = self.proj(images_B3XY)
        return tokens.flatten(2).transpose(1, 2)


class LayerScale(nn.Module):
    """Learned scale per channel of a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last axis."""
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.backend = "sdpa"
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.proj = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(self, x_TD: Tensor, shapes: Shapes, rotations: Rotations = None) -> Tensor:
        """Attend within each sequence."""
        qkv_T3HE = self._heads(x_TD)
        if rotations is not None:
            qkv_T3HE = _rotate_patches(qkv_T3HE, shapes, rotations)
        out_TD: Tensor = self.proj(attend(qkv_T3HE, shapes, self.backend).flatten(1))
        return out_TD

    def queries_and_keys(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries and keys of every head, ``[B, H, N, E]`` each, before rotation."""
        q_BHNE, k_BHNE, _ = self._heads(x_BND).permute(2, 0, 3, 1, 4).unbind(0)
        return q_BHNE, k_BHNE

    def _heads(self, x: Tensor) -> Tensor:
        """Project to queries, keys and values, ``[..., 3, H, E]``."""
        qkv: Tensor = self.qkv(x)
        channels = qkv.shape[-1] // (3 * self.heads)  # not -1: a batch may be empty
        return qkv.unflatten(-1, (3, self.heads, channels))


def _rotate_patches(qkv_T3HE: Tensor, shapes: Shapes, rotations: Sequence[Tensor]) -> Tensor:
    """Rotate queries and keys of the patches of every sequence."""
    parts = []
    sizes = zip(qkv_T3HE.split(token_counts(shapes)), shapes, rotations, strict=True)
    for part_T3HE, shape, rotation_2NP in sizes:
        qkv_B3HNE = part_T3HE.unflatten(0, shape).permute(0, 2, 3, 1, 4)
        turned = rotate(qkv_B3HNE[:, :2], rotation_2NP)
        qkv_B3HNE = torch.cat([turned, qkv_B3HNE[:, 2:]], dim=1)
        parts.append(qkv_B3HNE.permute(0, 3, 1, 2, 4).flatten(0, 1))
    return torch.cat(parts)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.ffn_width, bias=config.bias)
        self.fc2 = nn.Linear(config.ffn_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every token."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwiGlu(nn.Module):
    """Gated feed-forward layer (Shazeer 2020); ``w12`` packs gate and value."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.w12 = nn.Linear(config.width, 2 * config.ffn_width, bias=config.bias)
        self.w3 = nn.Linear(config.ffn_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every token."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Block(nn.Module):
    """Pre-norm transformer block: attention branch, then feed-forward branch."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        scale = config.layer_scale
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ls1 = LayerScale(config.width, scale) if scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGlu(config) if config.ffn == "swiglu" else Mlp(config)
        self.ls2 = LayerScale(config.width, scale) if scale else nn.Identity()

    def forward(
        self,
        xs: list[Tensor],
        rows: BlockRows | None = None,
        *,
        packed: bool = False,
        rotations: Rotations = None,
    ) -> list[Tensor]:
        """Add both branches to every batch, or to a subset of it (stochastic depth).

        A subset saves the compute of the dropped samples; its residual is scaled up.

        ``xs`` has a batch ``[b, N, D]`` per crop size. If ``packed``, the linear layers run once
        over the tokens of all batches instead of once per batch.
        """
        branches = (self._attention_branch, self._ffn_branch)
        for branch, chosen in zip(branches, rows[:2] if rows else (None, None), strict=True):
            if chosen is None:
                xs = [x + r for x, r in zip(xs, _run(branch, xs, packed, rotations), strict=True)]
                continue
            subsets = [x[r] for x, r in zip(xs, chosen, strict=True)]
            parts = zip(xs, chosen, _run(branch, subsets, packed, rotations), strict=True)
            xs = [_add_rows(*part, rows and rows.scale) for part in parts]
        return xs

    def _attention_branch(
        self, x_TD: Tensor, shapes: Shapes, rotations: Rotations = None
    ) -> Tensor:
        out_TD: Tensor = self.ls1(self.attn(self.norm1(x_TD), shapes, rotations))
        return out_TD

    # One interface for both.
    def _ffn_branch(self, x_TD: Tensor, _shapes: Shapes, _rotations: Rotations = None) -> Tensor:
        out_TD: Tensor = self.ls2(self.mlp(self.norm2(x_TD)))
        return out_TD


def _run(
    branch: Callable[[Tensor, Shapes, Rotations], Tensor],
    xs: list[Tensor],
    packed: bool,
    rotations: Rotations,
) -> list[Tensor]:
    """Run a branch on all batches in one call, or on each in turn."""
    shapes = [(x.shape[0], x.shape[1]) for x in xs]
    tokens = [x.flatten(0, 1) for x in xs]
    if packed and len(xs) > 1:
        out = branch(torch.cat(tokens), shapes, rotations).split([len(x) for x in tokens])
    else:
        each = [[rotation] for rotation in rotations] if rotations else [None] * len(xs)
        parts = zip(tokens, shapes, each, strict=True)
        out = tuple(branch(x, [shape], rotation) for x, shape, rotation in parts)
    return [x.unflatten(0, shape) for x, shape in zip(out, shapes, strict=True)]


def _add_rows(x_BND: Tensor, rows: Tensor, residual: Tensor, scale: float | None) -> Tensor:
    if scale is None:
        scale = len(x_BND) / max(len(rows), 1)  # there may be no local crops
    return torch.index_add(x_BND, 0, rows, residual.to(x_BND.dtype), alpha=scale)
