"""The vision transformer: any size, any H x W, registers, masks, learned or rotary positions.

Tensors have the names of the DINOv2 release, also those of DINOv3 (see `conversion`).

Parallelism, compilation and activation checkpointing are applied from outside.
Shapes: B images, N patches, R registers, D width, H heads, X and Y pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dinoforge.errors import UsageError
from dinoforge.models.attention import attention_weights
from dinoforge.models.config import VitConfig
from dinoforge.models.init import draw_weights
from dinoforge.models.layers import Block, BlockRows, PatchEmbed
from dinoforge.models.position import interpolate_positions
from dinoforge.models.rope import rotate, rotation

__all__ = ["VisionTransformer", "build_vit"]


class VisionTransformer(nn.Module):
    """ViT of DINOv2 (Oquab et al. 2023), optionally with registers (Darcet et al. 2023).

    With ``positions="rope"`` that of DINOv3 (Siméoni et al. 2025), whose storage tokens are our
    register tokens.

    Between blocks, tokens keep the dtype of the parameters even under autocast. The weights are
    meaningless until drawn, see `build_vit`.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if config.positions != "rope":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)

    def init_weights(self, seed: int) -> None:
        """Draw the initial weights in place; see `draw_weights`."""
        draw_weights(self, self.config.init, seed)

    def set_attention(self, backend: str) -> None:
        """Set the attention back end of every block; see `choose_attention`."""
        for block in self._blocks():
            block.attn.backend = backend

    def tokens(self, images_B3XY: Tensor, masks_BN: Tensor | None = None) -> Tensor:
        """Return the input of the first block, ``[B, 1 + R + N, D]``.

        Masked patches become the mask token *before* positions are added; registers follow the
        class token and have no position.
        """
        rows, columns = self._grid(images_B3XY)
        x_BND = self.patch_embed(images_B3XY).to(self.cls_token.dtype)
        if masks_BN is not None:
            x_BND = torch.where(masks_BN[..., None], self.mask_token, x_BND)
        cls_11D: Tensor = self.cls_token
        if self.config.positions != "rope":
            mode = self.config.positions
            positions = interpolate_positions(self.pos_embed, rows, columns, mode)
            cls_11D, x_BND = cls_11D + positions[:, :1], x_BND + positions[:, 1:]
        parts = [cls_11D.expand(len(x_BND), -1, -1), x_BND]
        if self.config.registers:
            parts.insert(1, self.register_tokens.expand(len(x_BND), -1, -1))
        return torch.cat(parts, dim=1)

    def forward(self, images_B3XY: Tensor) -> Tensor:
        """Return the normalized class token ``[B, D]``."""
        return self.forward_features(images_B3XY)["x_norm_clstoken"]

    def forward_features(
        self, images_B3XY: Tensor, masks_BN: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Run the whole model on normalized images, X and Y multiples of the patch size.

        ``masks_BN`` is True where a patch is hidden from the model. Returns
        ``x_norm_clstoken [B, D]``, ``x_norm_regtokens [B, R, D]``,
        ``x_norm_patchtokens [B, N, D]`` and ``x_prenorm [B, 1 + R + N, D]``.

        Raises
        ------
        UsageError
            If the image size is not a multiple of the patch size.
        """
        return self.forward_features_list([images_B3XY], [masks_BN])[0]

    def forward_features_list(
        self,
        images: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        *,
        rows: Sequence[BlockRows] | None = None,
        packed: bool = False,
    ) -> list[dict[str, Tensor]]:
        """Run a batch per crop size, block by block; see `forward_features`.

        ``rows`` has the samples of each batch that the branches of each block run on (stochastic
        depth); without it nothing is dropped, not even in training mode. If ``packed``, the linear
        layers run once over the tokens of all batches: fewer, larger products; no faster on CPUs.
        """
        xs = [self.tokens(x, mask) for x, mask in zip(images, masks, strict=True)]
        rotations = self._rotations(images)
        for number, block in enumerate(self._blocks()):
            xs = block(xs, rows and rows[number], packed=packed, rotations=rotations)
        return [self._outputs(x) for x in xs]

    def get_intermediate_layers(
        self,
        images_B3XY: Tensor,
        layers: int | Sequence[int] = 1,
        *,
        norm: bool = True,
        reshape: bool = False,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return (patch tokens ``[B, N, D]``, class token ``[B, D]``) after some blocks.

        ``layers`` are block indices, or the number of last blocks; results are in the order of
        blocks. ``norm`` applies the (shared) final LayerNorm to each, ``reshape`` gives the patch
        tokens as a grid, ``[B, D, X / patch, Y / patch]``.
        """
        depth = len(self.blocks)
        wanted = range(depth - layers, depth) if isinstance(layers, int) else layers
        assert all(0 <= index < depth for index in wanted), f"blocks are 0 .. {depth - 1}"
        grid, rotations = self._grid(images_B3XY), self._rotations([images_B3XY])
        x_BND = self.tokens(images_B3XY)
        outputs = []
        for index, block in enumerate(self._blocks()):
            (x_BND,) = block([x_BND], rotations=rotations)
            if index in wanted:
                out_BND = self.norm(x_BND) if norm else x_BND
                patches = out_BND[:, 1 + self.config.registers :]
                if reshape:
                    patches = patches.transpose(1, 2).unflatten(2, grid)
                outputs.append((patches, out_BND[:, 0]))
        return outputs

    def last_attention(self, images_B3XY: Tensor) -> Tensor:
        """Return the attention weights of the last block, ``[B, H, 1 + R + N, 1 + R + N]``."""
        x_BND = self._before_last(images_B3XY)
        last = self._blocks()[-1]
        queries, keys = last.attn.queries_and_keys(last.norm1(x_BND))
        queries, keys = (self._rotated(x, images_B3XY) for x in (queries, keys))
        return attention_weights(queries, keys)

    def last_block(self, images_B3XY: Tensor) -> dict[str, Tensor]:
        """Return what object discovery reads from the last block, in one forward pass.

        ``keys [B, N, D]`` of the patches, heads side by side, before rotation; ``attention
        [B, H, N]`` of the class token on the patches (the softmax is over all tokens); the outputs
        of `forward_features`.
        """
        x_BND = self._before_last(images_B3XY)
        last = self._blocks()[-1]
        queries, keys = last.attn.queries_and_keys(last.norm1(x_BND))
        first_patch = 1 + self.config.registers
        # The class token is not rotated.
        weights_BH1N = attention_weights(queries[:, :, :1], self._rotated(keys, images_B3XY))
        return {
            **self._outputs(last([x_BND], rotations=self._rotations([images_B3XY]))[0]),
            "keys": keys[:, :, first_patch:].transpose(1, 2).flatten(2),
            "attention": weights_BH1N[:, :, 0, first_patch:],
        }

    def _before_last(self, images_B3XY: Tensor) -> Tensor:
        x_BND = self.tokens(images_B3XY)
        rotations = self._rotations([images_B3XY])
        for block in self._blocks()[:-1]:
            (x_BND,) = block([x_BND], rotations=rotations)
        return x_BND

    def _rotations(self, images: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the rotation of each crop size, None with learned positions."""
        if self.config.positions != "rope":
            return None
        channels, like = self.config.width // self.config.heads, self.cls_token
        dtype = torch.promote_types(like.dtype, torch.float32)
        return [rotation(*self._grid(x), channels, like.device, dtype) for x in images]

    def _rotated(self, x_BHNE: Tensor, images_B3XY: Tensor) -> Tensor:
        rotations = self._rotations([images_B3XY])
        return x_BHNE if rotations is None else rotate(x_BHNE, rotations[0])

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _grid(self, images_B3XY: Tensor) -> tuple[int, int]:
        height, width = images_B3XY.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch or not height or not width:
            raise UsageError(
                what=f"image of {height} x {width} pixels is not a whole number of patches",
                where=f"{self.config.name}, patches of {patch} x {patch}",
                do=f"crop or resize to multiples of {patch}",
            )
        return height // patch, width // patch

    def _outputs(self, x_BND: Tensor) -> dict[str, Tensor]:
        first_patch = 1 + self.config.registers
        normed = self.norm(x_BND)
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first_patch],
            "x_norm_patchtokens": normed[:, first_patch:],
            "x_prenorm": x_BND,
        }


def build_vit(
    config: VitConfig, *, seed: int = 0, device: torch.device | str = "cpu"
) -> VisionTransformer:
    """Build a ViT whose initial weights depend only on ``config`` and ``seed``."""
    with torch.device("meta"):
        model = VisionTransformer(config)
    model.to_empty(device="cpu")  # drawn on the CPU: equal on every device
    model.init_weights(seed)
    return model.to(device)
