"""What a pooled network shares with a ViT, in whose place methods train it.

Shapes: B images, D width, X and Y pixels.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dinoforge.models.init import draw_weights

__all__ = ["PooledNetwork"]


class PooledNetwork(nn.Module):
    """A backbone that maps images ``[B, 3, X, Y]`` of any size to vectors ``[B, D]``.

    Its vector has the role of the class token of a ViT. There are no patch tokens, nothing can be
    masked, and no block is skipped.

    Attributes
    ----------
    name : str
        As in the recipe key ``model.architecture``.
    width : int
        D.
    prefix : str
        Of its parameters here, which files do not have.
    """

    name: str
    width: int
    prefix = ""
    init_scheme: ClassVar[str] = "published"

    def init_weights(self, seed: int) -> None:
        """Draw the initial weights in place; see `draw_weights`."""
        draw_weights(self, self.init_scheme, seed)

    def forward_features(
        self, images_B3XY: Tensor, masks_BN: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``x_norm_clstoken [B, D]`` and ``x_norm_patchtokens [B, 0, D]``."""
        return self.forward_features_list([images_B3XY], [masks_BN])[0]

    def forward_features_list(
        self,
        images: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        *,
        rows: object = None,
        packed: bool = False,  # noqa: ARG002 - there are no tokens
    ) -> list[dict[str, Tensor]]:
        """Run a batch per crop size, in turn; see `forward_features`."""
        assert rows is None, "no block is skipped"
        assert all(mask is None for mask in masks), "nothing is masked"
        outputs = []
        for batch_B3XY in images:
            # Batch normalization has no statistics of no image.
            empty = not len(batch_B3XY)
            # Convolutions are a quarter faster in this order of the numbers.
            rows_B3XY = batch_B3XY.contiguous(memory_format=torch.channels_last)
            x_BD = batch_B3XY.new_zeros(0, self.width) if empty else self(rows_B3XY)
            patches_B0D = x_BD.new_zeros(len(x_BD), 0, self.width)
            outputs.append({"x_norm_clstoken": x_BD, "x_norm_patchtokens": patches_B0D})
        return outputs

    def stored(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename tensors of this network as files have them."""
        return {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}

    @property
    def has_batch_norm(self) -> bool:
        """Whether vectors depend on the other images of a batch in training."""
        return any(isinstance(module, _BatchNorm) for module in self.modules())
