"""An encoder around any network that maps a batch of images to one vector per image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.encoders.network import Transform, run_batches
from dinoforge.errors import UsageError, first_line

__all__ = ["NetworkEncoder"]

_DO = "give a network that maps images [B, 3, S, S] to one vector each, [B, D]"


class NetworkEncoder:
    """Unit rows of ``forward``, which maps float32 images ``[B, 3, S, S]`` to rows ``[B, D]``.

    Its batches have ``batch_size`` images (0: the default of the device), padded with black.
    ``weights`` is a hash of the network, ``options`` what else determines the vectors.

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
        **options: Any,
    ) -> None:
        self.name = name
        self._forward, self._transform = forward, transform
        self._device, self._batch_size = device, batch_size
        # A gray image, to check the network and its dimension before a long run.
        self.dim = 1
        self.dim = self._probe()
        self.fingerprint = fingerprint_of(
            encoder=name.partition(":")[0], weights=weights, transform=transform.facts, **options
        )

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        return unit_rows(self.outputs(images))

    def outputs(self, images: Images) -> Vectors:
        """Return what the network gives for images, float32 ``[B, dim]``, not normalized."""
        rows = run_batches(
            self._checked, images, self._transform, self.dim, self._device, size=self._batch_size
        )
        if not np.isfinite(rows).all():
            raise self._refused("the network gives numbers that are not finite")
        return rows

    def _probe(self) -> int:
        sizes: list[int] = []

        def forward(batch_B3SS: Tensor) -> Tensor:
            rows = self._checked(batch_B3SS)
            sizes.append(rows.shape[1])
            return rows[:, :1]

        gray = np.full((self._transform.side, self._transform.side, 3), 127, np.uint8)
        run_batches(forward, [gray], self._transform, 1, self._device, size=self._batch_size)
        return sizes[0]

    def _checked(self, batch_B3SS: Tensor) -> Tensor:
        try:
            rows = self._forward(batch_B3SS)
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            side = self._transform.side
            what = f"the network fails on images of {side} x {side}: {first_line(error)}"
            raise self._refused(what) from error
        if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != len(batch_B3SS):
            shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            what = f"the network returns {shape} for {len(batch_B3SS)} images"
            raise self._refused(what)
        return rows

    def _refused(self, what: str) -> UsageError:
        return UsageError(what=what, where=self.name, do=_DO)
