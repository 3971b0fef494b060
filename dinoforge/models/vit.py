"""The vision transformer: any size, any H x W, registers, masks; names as in released weights.

Parallelism, compilation and activation checkpointing are applied from outside.
Shapes: B images, N patches, R registers, D width, H heads.
"""

import torch
from torch import Tensor, nn

from dinoforge.models.config import VitConfig
from dinoforge.models.layers import Block, LayerScale, PatchEmbed, Permutation
from dinoforge.models.position import interpolate_positions

__all__ = ["VisionTransformer", "build_vit"]


class VisionTransformer(nn.Module):
    """ViT of DINOv2 (Oquab et al. 2023), with registers (Darcet et al. 2023) if asked."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def tokens(self, images_B3XY: Tensor, masks_BN: Tensor | None = None) -> Tensor:
        """Make the input of the first block, ``[B, 1 + R + N, D]``.

        Masked patches become the mask token *before* positions are added; registers come after
        the class token and get no position.
        """
        rows = images_B3XY.shape[-2] // self.config.patch_size
        columns = images_B3XY.shape[-1] // self.config.patch_size
        x_BND = self.patch_embed(images_B3XY)
        if masks_BN is not None:
            x_BND = torch.where(masks_BN[..., None], self.mask_token.to(x_BND.dtype), x_BND)
        batch = len(x_BND)
        x_BND = torch.cat([self.cls_token.expand(batch, -1, -1).to(x_BND.dtype), x_BND], dim=1)
        x_BND = x_BND + interpolate_positions(
            self.pos_embed, rows, columns, self.config.positions
        ).to(x_BND.dtype)
        if not self.config.registers:
            return x_BND
        registers = self.register_tokens.expand(batch, -1, -1).to(x_BND.dtype)
        return torch.cat([x_BND[:, :1], registers, x_BND[:, 1:]], dim=1)

    def forward_features(
        self, images_B3XY: Tensor, masks_BN: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Run the whole net.

        Parameters
        ----------
        images_B3XY : Tensor
            Normalized images ``[B, 3, X, Y]``; X and Y are multiples of the patch size.
        masks_BN : Tensor, optional
            Bool ``[B, N]``, True = hidden from the net.

        Returns
        -------
        dict
            ``x_norm_clstoken [B, D]``, ``x_norm_regtokens [B, R, D]``,
            ``x_norm_patchtokens [B, N, D]``, ``x_prenorm [B, 1 + R + N, D]``.
        """
        return self.forward_features_list([images_B3XY], [masks_BN])[0]

    def forward_features_list(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        drop_path: float = 0.0,
        permutation: Permutation | None = None,
    ) -> list[dict[str, Tensor]]:
        """Run several batches of different image sizes, block by block.

        Parameters
        ----------
        images, masks : list
            One entry a crop size; see `forward_features`.
        drop_path : float
            Share of samples that skip each residual branch; needs ``permutation``.
        permutation : callable, optional
            Source of the permutations of stochastic depth: for every block the attention branch
            then the feed-forward branch, and for each of these every batch in order.
        """
        xs = [self.tokens(x, mask) for x, mask in zip(images, masks, strict=True)]
        for block in self.blocks:
            assert isinstance(block, Block)
            if drop_path > 0 and permutation is not None:
                xs = block.forward_subset(xs, drop_path, permutation)
            else:
                xs = [block(x) for x in xs]
        return [self._outputs(x) for x in xs]

    def _outputs(self, x_BND: Tensor) -> dict[str, Tensor]:
        first_patch = 1 + self.config.registers
        normed = self.norm(x_BND)
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first_patch],
            "x_norm_patchtokens": normed[:, first_patch:],
            "x_prenorm": x_BND,
        }

    def forward(self, images_B3XY: Tensor) -> Tensor:
        """Return the normed class token ``[B, D]``."""
        return self.forward_features(images_B3XY)["x_norm_clstoken"]

    def get_intermediate_layers(
        self, images_B3XY: Tensor, layers: int | list[int] = 1, *, norm: bool = True
    ) -> list[tuple[Tensor, Tensor]]:
        """Return (patch tokens ``[B, N, D]``, class token ``[B, D]``) after some blocks.

        Parameters
        ----------
        images_B3XY : Tensor
            As in `forward_features`.
        layers : int or list of int
            The last ``layers`` blocks, or their indices.
        norm : bool
            Apply the final LayerNorm to each (all use the same one).
        """
        depth = len(self.blocks)
        wanted = range(depth - layers, depth) if isinstance(layers, int) else layers
        x_BND = self.tokens(images_B3XY)
        found = []
        for index, block in enumerate(self.blocks):
            x_BND = block(x_BND)
            if index in wanted:
                out = self.norm(x_BND) if norm else x_BND
                found.append((out[:, 1 + self.config.registers :], out[:, 0]))
        return found

    def last_attention(self, images_B3XY: Tensor) -> Tensor:
        """Return the attention weights of the last block, ``[B, H, 1 + R + N, 1 + R + N]``."""
        x_BND = self.tokens(images_B3XY)
        *before, last = list(self.blocks)
        for block in before:
            x_BND = block(x_BND)
        assert isinstance(last, Block)
        return last.attn.weights(last.norm1(x_BND))

    def set_attention(self, backend: str) -> None:
        """Choose the attention back end of every block."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attn.backend = backend

    def init_weights(self, seed: int) -> None:
        """Draw the initial weights, a function of ``seed`` alone.

        ``published``: linear layers trunc_normal(0.02), positions trunc_normal(0.02), class and
        register tokens N(0, 1e-6), mask token 0. ``xavier``: linear layers and patch embedding
        Xavier uniform: with 0.02 at a width below 384 all images get nearly equal features and
        nothing is learnt for hundreds of steps.
        """
        generator = torch.Generator().manual_seed(seed)
        published = self.config.init == "published"
        with torch.no_grad():
            for module in self.modules():
                _init_module(module, published, generator)
            nn.init.trunc_normal_(self.pos_embed, std=0.02, generator=generator)
            nn.init.normal_(self.cls_token, std=1e-6, generator=generator)
            if self.config.registers:
                nn.init.normal_(self.register_tokens, std=1e-6, generator=generator)
            nn.init.zeros_(self.mask_token)


def _init_module(module: nn.Module, published: bool, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        if published:
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        if published:
            # The default of torch, drawn from our generator: uniform within 1 / sqrt(fan in).
            nn.init.uniform_(module.weight, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        else:
            nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, LayerScale):
        nn.init.constant_(module.gamma, module.initial)


def build_vit(config: VitConfig, *, seed: int = 0) -> VisionTransformer:
    """Build a ViT with initial weights drawn from ``seed``."""
    model = VisionTransformer(config)
    model.init_weights(seed)
    return model
