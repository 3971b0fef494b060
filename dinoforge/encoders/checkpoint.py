"""Any ViT on disk that `open_backbone` opens, as an encoder."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dinoforge.device import resolve_device
from dinoforge.encoders.backbone import open_backbone
from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.network import (
    Networked,
    Placement,
    Transform,
    normalization_of,
    normalized,
    stream_batches,
)
from dinoforge.errors import UsageError
from dinoforge.files import path_text
from dinoforge.models.config import POSITION_MODES, PositionMode
from dinoforge.models.huggingface import is_vit_folder

if TYPE_CHECKING:
    from dinoforge.models.vit import VisionTransformer

__all__ = ["FEATURES", "CheckpointEncoder", "gem_pool"]

# The cost of attention grows with the fourth power of the side.
_LARGEST_SIDE = 224


# From the result of `CheckpointEncoder.encode_tokens`; `both` is two parts of norm 1.
FEATURES: dict[str, Callable[[Mapping[str, Vectors]], Vectors]] = {
    "cls": lambda tokens: tokens["cls"],
    "patch_mean": lambda tokens: tokens["patch_mean"],
    "both": lambda tokens: np.hstack([unit_rows(tokens[k]) for k in ("cls", "patch_mean")]),
    # The descriptor of DINO's copy detection (Caron et al. 2021, section 4.2.1).
    "cls_gem": lambda tokens: np.hstack([tokens["cls"], tokens["gem"]]),
}


def gem_pool(patches_BND: Tensor, *, p: float = 4.0, floor: float = 1e-6) -> Tensor:
    """Pool patch tokens by their generalized mean (Radenovic et al. 2018, eq. 3), ``[B, D]``.

    Values below ``floor`` count as ``floor``. DINO's copy detection has p = 4 and 1e-6.
    """
    return patches_BND.clamp(min=floor).pow(p).mean(dim=1).pow(1.0 / p)


class CheckpointEncoder(Networked):
    """Class token of a ViT, mean of its patch tokens, both, or class token and `gem_pool`.

    ``path`` is a ``.safetensors``, ``.pth`` or ``.pt`` file or a folder of transformers,
    ``features`` a key of `FEATURES`, ``positions`` the mode of a file without metadata;
    ``batch_size`` counts the images per forward pass, 0: the default of the device; ``side`` is
    that of its square input in pixels, rounded down to whole patches, 0: the side of the
    checkpoint, at most 224; ``crop`` is that of `Transform`.

    Raises
    ------
    UsageError
        If there is no ViT or one with other positions, or the device is unavailable.
    """

    def __init__(
        self,
        path: Path,
        features: str = "cls",
        *,
        positions: PositionMode | None = None,
        device: str = "cpu",
        batch_size: int = 0,
        side: int = 0,
        crop: bool = True,
    ) -> None:
        if not path.is_file() and not is_vit_folder(path):
            what, do = "no such checkpoint", "give the path of a .safetensors or .pth file"
            _, hash_sign, option = str(path).rpartition("#")
            if hash_sign:
                what += f", or unknown option `{option}`"
                do += f", options are {', '.join([*FEATURES, *POSITION_MODES])}"
            raise UsageError(what=what, where=str(path), do=do)
        model, config, metadata, weights = open_backbone(path, positions=positions)
        resolve_device(device)
        options = [features] * (features != "cls") + ([positions] if positions else [])
        kind = "hf" if path.is_dir() else "checkpoint"
        self.path = path
        self.name = f"{kind}:{path_text(path)}" + "#" * bool(options) + ",".join(options)
        self.dim = config.width * (2 if features in {"both", "cls_gem"} else 1)
        self._width, self._depth, self.metadata = config.width, config.depth, metadata
        self.placement = Placement(device, batch_size)
        self.model: VisionTransformer = model.to(device)
        self._pick, self._has_gem = FEATURES[features], features == "cls_gem"
        side = (
            (side or min(config.image_size, _LARGEST_SIDE)) // config.patch_size * config.patch_size
        )
        side = max(config.patch_size, side)
        self.transform = Transform(side, *normalization_of(metadata, str(path)), crop)
        self.fingerprint = fingerprint_of(
            encoder="checkpoint", weights=weights, features=features, transform=self.transform.facts
        )

    def encode_each(self, groups: Iterable[Images]) -> Iterator[Vectors]:
        """Encode groups of images; see `Encoder.encode_each`."""
        for tokens in self.tokens_of_each(groups, gem=self._has_gem):
            yield unit_rows(self._pick(tokens))

    def encode_tokens(
        self, images: Images, *, blocks: int = 1, gem: bool = False
    ) -> dict[str, Vectors]:
        """Return what `tokens_of_each` gives for one group of images."""
        (tokens,) = self.tokens_of_each([images], blocks=blocks, gem=gem)
        return tokens

    def tokens_of_each(
        self, groups: Iterable[Images], *, blocks: int = 1, gem: bool = False
    ) -> Iterator[dict[str, Vectors]]:
        """Yield ``cls`` and ``patch_mean`` of groups of images, float32 ``[B, D]`` each.

        They come from one forward pass; see `Encoder.encode_each` for the groups. Outputs of the
        final LayerNorm, not normalized: `FEATURES` derives all kinds of features.
        With ``blocks`` above 1 also ``cls_blocks``: the class tokens of that many last blocks (at
        most all), oldest first, ``[B, blocks, D]``; with ``gem`` also ``gem``: `gem_pool`.
        """
        blocks = min(blocks, self._depth)
        dim = (1 + blocks + gem) * self._width
        forward = partial(self._forward, blocks=blocks, gem=gem)
        for rows in stream_batches(forward, groups, self.transform, dim, self.placement):
            if not np.isfinite(rows).all():
                raise UsageError(
                    what="the network gives numbers that are not finite",
                    where=self.name.partition(":")[2],
                    do="give a checkpoint from before the training diverged",
                )
            parts = rows.reshape(len(rows), 1 + blocks + gem, self._width)
            vectors = {"cls": parts[:, blocks - 1], "patch_mean": parts[:, blocks]}
            if gem:
                vectors["gem"] = parts[:, -1]
            yield vectors if blocks == 1 else vectors | {"cls_blocks": parts[:, :blocks]}

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.model.config.patch_size

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self._depth

    def normalized(self, image: NDArray[np.uint8]) -> Tensor:
        """Return an image ``[H, W, 3]`` as the network takes it, ``[1, 3, H, W]``, on the CPU."""
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
        mean, std = torch.tensor(self.transform.mean), torch.tensor(self.transform.std)
        return normalized(pixels, mean, std)

    def encode_patches(
        self, image: NDArray[np.uint8], arrays: Collection[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Return tokens of one image ``[H, W, 3]``, padded at right and bottom to whole patches.

        ``arrays`` are named as in ``evaluation.tokens.TokenRequest``: ``[N, D]`` of the patches,
        ``[1, D]`` of class tokens, ``[N, heads]`` of the attention.
        """
        patch = self.patch_size
        down, right = (-side % patch for side in image.shape[:2])
        batch_13XY = functional.pad(self.normalized(image), (0, right, 0, down))
        outputs: dict[str, Tensor] = {}
        layers: dict[int, tuple[Tensor, Tensor]] = {}  # block -> patches and class token
        with torch.inference_mode():
            batch_13XY = batch_13XY.to(self.placement.device)
            if {"keys", "attention"} & set(arrays):
                last = self.model.last_block(batch_13XY)
                outputs |= {"keys": last["keys"], "attention": last["attention"].transpose(1, 2)}
                tokens, first_patch = last["x_prenorm"], 1 + self.model.config.registers
                layers[len(self.model.blocks) - 1] = tokens[:, first_patch:], tokens[:, 0]
            asked = {int(name.rpartition("-")[2]) for name in arrays if "-" in name}
            if blocks := sorted(asked - set(layers)):
                inner = self.model.get_intermediate_layers(batch_13XY, blocks, norm=False)
                layers |= dict(zip(blocks, inner, strict=True))
            for block, (patches, cls) in layers.items():
                outputs |= {f"raw-{block}": patches, f"raw_cls-{block}": cls[:, None]}
                outputs |= {f"patches-{block}": self.model.norm(patches)}
                outputs |= {f"cls-{block}": self.model.norm(cls[:, None])}
        return {name: outputs[name][0].float().cpu().numpy() for name in sorted(arrays)}

    def _forward(self, batch_B3SS: Tensor, *, blocks: int, gem: bool) -> Tensor:
        layers = self.model.get_intermediate_layers(batch_B3SS, blocks)
        patches_BND = layers[-1][0]
        pooled = [patches_BND.mean(dim=1), *([gem_pool(patches_BND)] if gem else [])]
        return torch.cat([*(cls_BD for _, cls_BD in layers), *pooled], dim=1)
