"""One network for the index and the server: a vector per image, features per patch, attention.

Shapes: X rows and Y columns of patches, D dimensions, H heads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dinoforge.config.ranges import Precision
from dinoforge.encoders.checkpoint import CheckpointEncoder
from dinoforge.encoders.encoder import Encoder, Image, Images, Vectors
from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError
from dinoforge.images import resize
from dinoforge.steps import exported_steps

__all__ = ["Features", "Network", "encoder_spec", "open_network", "patch_grid"]


class Features(NamedTuple):
    """What a network sees in an image."""

    global_D: NDArray[np.float32]  # unit length
    patches_XYD: NDArray[np.float16]  # after the last LayerNorm, of any length


def patch_grid(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Return rows and columns of patches of an image whose area becomes that of a square.

    ``size`` is the side of the square in pixels. The aspect is kept up to the rounding to whole
    patches, so a panorama costs as much as a square: about ``(size / patch)**2`` patches, at most
    that many in a row.
    """
    most = max(1, (size // patch) ** 2)
    scale = size / patch / (height * width) ** 0.5
    rows, columns = (min(most, max(1, round(side * scale))) for side in (height, width))
    return rows, columns


class Network:
    """An encoder, and the patches and attention heads of a ViT.

    ``size`` of the methods is that of `patch_grid`. Threads may share a network on a CPU.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name, self.fingerprint = encoder.name, encoder.fingerprint
        self.dim = encoder.dim  # of the vector of an image
        self._vit = encoder if isinstance(encoder, CheckpointEncoder) else None
        config = self._vit.model.config if self._vit else None
        self.patch_size = config.patch_size if config else 0  # pixels; 0: no patches
        self.patch_dim = config.width if config else 0
        self.num_heads = config.heads if config else 0  # 0: no attention maps

    @property
    def trained(self) -> bool:
        """False for weights that a training exported at step 0; others are taken for trained."""
        return self._vit is None or self._vit.metadata.get("step") != "0"

    def vectors(self, images: Images) -> Vectors:
        """Return unit rows ``[B, D]`` of images: what `dinoforge embed` writes."""
        return self.encoder.encode(images)

    def fit(self, image: Image, size: int) -> Image:
        """Resize a whole image to the pixels of its `patch_grid`: bicubic, antialiased."""
        height, width = image.shape[:2]
        rows, columns = patch_grid(height, width, size, self._require_vit().patch_size)
        return resize(image, columns * self.patch_size, rows * self.patch_size)

    def patches(self, image: Image, size: int) -> NDArray[np.float16]:
        """Return features of patches ``[X, Y, D]``, see `Features`.

        Raises
        ------
        UsageError
            If the network has no patches.
        """
        (features,) = self.patches_of([self.fit(image, size)])
        return features

    def patches_of(self, fitted: Images) -> list[NDArray[np.float16]]:
        """Return the features of images as `fit` returns them; those of one shape go together."""
        most = self._require_vit().placement.size
        features: list[NDArray[np.float16]] = [np.empty(0, np.float16)] * len(fitted)
        for shape in dict.fromkeys(image.shape for image in fitted):
            same = [at for at, image in enumerate(fitted) if image.shape == shape]
            for start in range(0, len(same), most):
                some = same[start : start + most]
                parts = self._forward([fitted[at] for at in some])
                for at, patches_XYD in zip(some, parts, strict=True):
                    features[at] = patches_XYD
        return features

    def features(self, image: Image, size: int) -> Features:
        """Return the vector of an image and the features of its patches: two forward passes.

        A network without patches gives none, ``[0, 0, 0]``.
        """
        (vector_D,) = self.vectors([image])
        if not self.patch_size:
            return Features(vector_D, np.empty((0, 0, 0), np.float16))
        return Features(vector_D, self.patches(image, size))

    def attention(self, image: Image, size: int) -> NDArray[np.float32]:
        """Return the attention of the class token in the last block, float32 ``[H, X, Y]``.

        Softmax over all tokens; a map sums to less than 1.

        Raises
        ------
        UsageError
            If the network has no attention maps.
        """
        fitted = self.fit(image, size)
        attention_NH = self._require_vit().encode_patches(fitted, {"attention"})["attention"]
        rows, columns = (side // self.patch_size for side in fitted.shape[:2])
        return attention_NH.T.reshape(-1, rows, columns)

    def _require_vit(self) -> CheckpointEncoder:
        if self._vit is None:
            raise UsageError(
                what="a network with one vector per image, without patches and attention maps",
                where=self.name,
                do="give a ViT: checkpoint:FILE or hf:FOLDER",
            )
        return self._vit

    def _forward(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """Return features ``[B, X, Y, D]`` of images of one shape, of whole patches."""
        vit = self._require_vit()
        batch_B3XY = torch.cat([vit.normalized(image) for image in images])
        grid = [side // self.patch_size for side in images[0].shape[:2]]
        with torch.inference_mode(), vit.placement.autocast():
            batch_B3XY = batch_B3XY.to(vit.placement.device)
            ((patches_BND, _),) = vit.model.get_intermediate_layers(batch_B3XY, 1)
        return patches_BND.unflatten(1, grid).to(torch.float16).cpu().numpy()


def encoder_spec(spec: str) -> str:
    """Return the encoder spec of a network that may be named by its path alone.

    A training run (its newest export), a file of weights, or a folder of transformers; anything
    else is a spec already.
    """
    path = Path(spec)
    if path.is_file():
        return f"checkpoint:{spec}"
    if not path.is_dir():
        return spec
    steps = exported_steps(path)
    return f"checkpoint:{steps[max(steps)]}" if steps else f"hf:{spec}"


def open_network(spec: str, *, device: str = "cpu", precision: Precision = "float32") -> Network:
    """Open a network for the demo: an encoder spec (`make_encoder`), or a path (`encoder_spec`).

    Raises
    ------
    UsageError
        As `make_encoder`.
    """
    return Network(make_encoder(encoder_spec(spec), device=device, precision=precision))
