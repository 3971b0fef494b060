"""The layers of a ViT, with the tensor names of the released checkpoints."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinoforge.models.attention import attend, attention_weights
from dinoforge.models.config import VitConfig

__all__ = ["Attention", "Block", "LayerScale", "Mlp", "PatchEmbed", "SwiGlu"]

# Draws a permutation of ``range(n)``: which samples of a batch a residual branch is run on.
Permutation = Callable[[int], Tensor]


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

    def forward(self, x_BND: Tensor) -> Tensor:
        """Mix the tokens of each sequence."""
        out_BHNE = attend(*self._split(x_BND), self.backend)
        mixed: Tensor = self.proj(out_BHNE.transpose(1, 2).reshape(x_BND.shape))
        return mixed

    def weights(self, x_BND: Tensor) -> Tensor:
        """Attention of every token on every token, ``[B, H, N, N]``, for pictures."""
        q_BHNE, k_BHNE, _ = self._split(x_BND)
        return attention_weights(q_BHNE, k_BHNE)

    def _split(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, width = x_BND.shape
        qkv = self.qkv(x_BND).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
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
        self.mlp = Mlp(config) if config.ffn == "mlp" else SwiGlu(config)
        self.ls2 = LayerScale(config.width, scale) if scale else nn.Identity()

    def attention_branch(self, x_BND: Tensor) -> Tensor:
        """Residual of the attention, scaled."""
        out: Tensor = self.ls1(self.attn(self.norm1(x_BND)))
        return out

    def ffn_branch(self, x_BND: Tensor) -> Tensor:
        """Residual of the feed-forward layer, scaled."""
        out: Tensor = self.ls2(self.mlp(self.norm2(x_BND)))
        return out

    def forward(self, x_BND: Tensor) -> Tensor:
        """Run both branches on every sample."""
        x_BND = x_BND + self.attention_branch(x_BND)
        return x_BND + self.ffn_branch(x_BND)

    def forward_subset(
        self, xs: list[Tensor], rate: float, permutation: Permutation
    ) -> list[Tensor]:
        """Run each branch on a random subset of each batch (stochastic depth by subset).

        Saves the dropped share of the compute: of ``b`` samples ``max(1, int(b * (1 - rate)))``
        are kept, and their residual is scaled by ``b / kept``.

        Parameters
        ----------
        xs : list of Tensor
            Batches ``[b, N, D]``, one a crop size.
        rate : float
            Share of samples that skip a branch.
        permutation : callable
            Source of the permutations: one a branch and batch, in this order.
        """
        for branch in (self.attention_branch, self.ffn_branch):
            xs = [_add_on_subset(x, branch, rate, permutation) for x in xs]
        return xs


def _add_on_subset(
    x_BND: Tensor, branch: Callable[[Tensor], Tensor], rate: float, permutation: Permutation
) -> Tensor:
    batch = len(x_BND)
    kept = max(int(batch * (1 - rate)), 1)
    rows = permutation(batch)[:kept].to(x_BND.device)
    residual = branch(x_BND[rows]).to(x_BND.dtype)
    return torch.index_add(x_BND, 0, rows, residual, alpha=batch / kept)
