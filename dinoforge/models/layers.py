"""The layers of a ViT, with the tensor names of the released checkpoints.

Every layer works on tokens of several crop sizes at once, laid end to end: ``x_TD`` holds
``sum(B * N)`` tokens, ``shapes`` the (B, N) of each crop size. Only attention looks at the shapes.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinoforge.models.attention import attend, attention_weights
from dinoforge.models.config import VitConfig

__all__ = ["Attention", "Block", "LayerScale", "Mlp", "PatchEmbed", "Permutation", "SwiGlu"]

# Draws a permutation of ``range(n)``: which samples of a batch a residual branch is run on.
Permutation = Callable[[int], Tensor]
Shapes = Sequence[tuple[int, int]]


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
    """Learnt scale of every channel of a residual branch (Touvron et al. 2021)."""

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

    def forward(self, x_TD: Tensor, shapes: Shapes) -> Tensor:
        """Mix the tokens of each sequence."""
        parts = self.qkv(x_TD).split([batch * tokens for batch, tokens in shapes])
        mixed = [self._mix(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        out_TD: Tensor = self.proj(mixed[0] if len(mixed) == 1 else torch.cat(mixed))
        return out_TD

    def weights(self, x_BND: Tensor) -> Tensor:
        """Attention of every token on every token, ``[B, H, N, N]``, for pictures."""
        batch, tokens, _ = x_BND.shape
        q_BHNE, k_BHNE, _ = self._heads(self.qkv(x_BND.flatten(0, 1)), (batch, tokens))
        return attention_weights(q_BHNE, k_BHNE)

    def _mix(self, qkv: Tensor, shape: tuple[int, int]) -> Tensor:
        out_BHNE = attend(*self._heads(qkv, shape), self.backend)
        return out_BHNE.transpose(1, 2).flatten(2).flatten(0, 1)

    def _heads(self, qkv: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        channels = qkv.shape[-1] // (3 * self.heads)  # not -1: a batch may be empty
        q, k, v = qkv.reshape(*shape, 3, self.heads, channels).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


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
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config)
        self.ls1 = LayerScale(config.width, scale) if scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = SwiGlu(config) if config.ffn == "swiglu" else Mlp(config)
        self.ls2 = LayerScale(config.width, scale) if scale else nn.Identity()

    def forward(
        self,
        xs: list[Tensor],
        *,
        drop_path: float = 0.0,
        permutation: Permutation | None = None,
        packed: bool = False,
    ) -> list[Tensor]:
        """Add both branches to every batch, or to a random subset of it (stochastic depth).

        A subset saves the dropped share of the compute: of ``b`` samples
        ``max(1, int(b * (1 - drop_path)))`` are kept, and their residual is scaled by ``b / kept``.

        Parameters
        ----------
        xs : list of Tensor
            Batches ``[b, N, D]``, one a crop size.
        drop_path : float
            Share of samples that skip a branch.
        permutation : callable
            Source of the permutations: one a branch and batch, in this order.
        packed : bool
            Run the linear layers once over the tokens of all batches instead of once a batch.
        """
        for branch in (self._attention_branch, self._ffn_branch):
            if drop_path > 0:
                assert permutation is not None, "stochastic depth needs a source of permutations"
                rows = [_subset(x, drop_path, permutation) for x in xs]
                residuals = _run(branch, [x[r] for x, r in zip(xs, rows, strict=True)], packed)
                xs = [_add_rows(*parts) for parts in zip(xs, rows, residuals, strict=True)]
            else:
                xs = [x + r for x, r in zip(xs, _run(branch, xs, packed), strict=True)]
        return xs

    def _attention_branch(self, x_TD: Tensor, shapes: Shapes) -> Tensor:
        out_TD: Tensor = self.ls1(self.attn(self.norm1(x_TD), shapes))
        return out_TD

    def _ffn_branch(self, x_TD: Tensor, shapes: Shapes) -> Tensor:  # noqa: ARG002 - one interface
        out_TD: Tensor = self.ls2(self.mlp(self.norm2(x_TD)))
        return out_TD


def _run(
    branch: Callable[[Tensor, Shapes], Tensor], xs: list[Tensor], packed: bool
) -> list[Tensor]:
    """Run a branch on all batches in one call, or on one after the other."""
    shapes = [(x.shape[0], x.shape[1]) for x in xs]
    tokens = [x.flatten(0, 1) for x in xs]
    if packed and len(xs) > 1:
        out = branch(torch.cat(tokens), shapes).split([len(x) for x in tokens])
    else:
        out = tuple(branch(x, [shape]) for x, shape in zip(tokens, shapes, strict=True))
    return [x.unflatten(0, shape) for x, shape in zip(out, shapes, strict=True)]


def _subset(x_BND: Tensor, drop_path: float, permutation: Permutation) -> Tensor:
    batch = len(x_BND)
    return permutation(batch)[: max(int(batch * (1 - drop_path)), 1)].to(x_BND.device)


def _add_rows(x_BND: Tensor, rows: Tensor, residual: Tensor) -> Tensor:
    scale = len(x_BND) / max(len(rows), 1)  # there may be no local crops at all
    return torch.index_add(x_BND, 0, rows, residual.to(x_BND.dtype), alpha=scale)
