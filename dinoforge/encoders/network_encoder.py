"""An encoder around any network that maps a batch of images to one vector per image.

`pooled_encoder` opens those of files: ResNet-50, WRN-28-2 and the networks of timm that a training,
DINO or PAWS wrote.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dinoforge.device import resolve_device
from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.network import (
    Networked,
    Placement,
    Transform,
    normalization_of,
    run_batches,
    stream_batches,
)
from dinoforge.errors import UsageError, first_line
from dinoforge.files import path_text, sha256_file
from dinoforge.models.pooled.files import load_pooled

__all__ = ["NetworkEncoder", "pooled_encoder"]

_DO = "give a network that maps images [B, 3, S, S] to one vector each, [B, D]"


class NetworkEncoder(Networked):
    """Unit rows of ``forward``, which maps float32 images ``[B, 3, S, S]`` to rows ``[B, D]``.

    Its batches have ``batch_size`` images (0: the default of the device), padded with black.
    ``weights`` is a hash of the network, ``options`` what else determines the vectors;
    ``is_torch``: torch computes it.

    Raises
    ------
    UsageError
        If the network fails on a gray image, or does not give one finite vector per image.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[[Tensor], Any],
        transform: Transform,
        *,
        weights: str,
        device: str = "cpu",
        batch_size: int = 0,
        is_torch: bool = True,
        **options: Any,
    ) -> None:
        self.name = name
        self._forward, self.transform = forward, transform
        self.placement, self.is_torch = Placement(device, batch_size), is_torch
        # A gray image, to check the network and its dimension before a long run.
        self.dim = 1
        self.dim = self._probe()
        self.fingerprint = fingerprint_of(
            encoder=name.partition(":")[0], weights=weights, transform=transform.facts, **options
        )

    def encode_each(self, groups: Iterable[Images]) -> Iterator[Vectors]:
        """Encode groups of images; see `Encoder.encode_each`."""
        return map(unit_rows, self.outputs_each(groups))

    def outputs(self, images: Images) -> Vectors:
        """Return what the network gives for images, float32 ``[B, dim]``, not normalized."""
        (rows,) = self.outputs_each([images])
        return rows

    def outputs_each(self, groups: Iterable[Images]) -> Iterator[Vectors]:
        """Yield what the network gives for groups of images, as `outputs` does."""
        for rows in stream_batches(self._checked, groups, self.transform, self.dim, self.placement):
            if not np.isfinite(rows).all():
                raise self._refused("the network gives numbers that are not finite")
            yield rows

    def _probe(self) -> int:
        sizes: list[int] = []

        def forward(batch_B3SS: Tensor) -> Tensor:
            rows = self._checked(batch_B3SS)
            sizes.append(rows.shape[1])
            return rows[:, :1]

        gray = np.full((self.transform.side, self.transform.side, 3), 127, np.uint8)
        device, size = self.placement.device, self.placement.batch_size
        run_batches(forward, [gray], self.transform, 1, device, size=size)
        return sizes[0]

    def _checked(self, batch_B3SS: Tensor) -> Tensor:
        try:
            rows = self._forward(batch_B3SS)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            side = self.transform.side
            what = f"the network fails on images of {side} x {side}: {first_line(error)}"
            raise self._refused(what) from error
        if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != len(batch_B3SS):
            shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            what = f"the network returns {shape} for {len(batch_B3SS)} images"
            raise self._refused(what)
        return rows

    def _refused(self, what: str) -> UsageError:
        return UsageError(what=what, where=self.name, do=_DO)


def pooled_encoder(
    path: Path, *, device: str = "cpu", batch_size: int = 0, side: int = 0, crop: bool = True
) -> NetworkEncoder:
    """Make the encoder of a pooled network; images have the size that it was trained on.

    See `CheckpointEncoder` for the options.

    Raises
    ------
    UsageError
        If the file is unreadable or damaged, or the device is unavailable.
    """
    model, metadata = load_pooled(path)
    resolve_device(device)
    model = model.to(device)
    usual = 32 if model.name.startswith("wrn") else 224
    trained_at = metadata.get("image_size", str(usual))
    if not trained_at.isdigit():
        do = "export the backbone again"
        raise UsageError(what=f"`image_size` is {trained_at}", where=str(path), do=do)
    return NetworkEncoder(
        f"checkpoint:{path_text(path)}",
        model,
        Transform(side or int(trained_at), *normalization_of(metadata, str(path)), crop),
        weights=sha256_file(path),
        device=device,
        batch_size=batch_size,
        model=model.name,
    )
