"""The device that a recipe names, after trying it; GPUs by name, for plans made without one."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinoforge.errors import UsageError, first_line

__all__ = ["GPUS", "Gpu", "find_gpu", "recognize_gpu", "resolve_device"]

_GB = 10**9

# Kept free in a GPU's memory: context, communication buffers and workspaces of the libraries
# (bytes), and what the allocator's blocks leave unused between them (share). Assumed, not measured.
_CONTEXT = 2 * _GB
_FRAGMENTED = 0.05


@dataclass(frozen=True)
class Gpu:
    """One accelerator."""

    name: str
    memory: int  # bytes
    bfloat16: float  # FLOP/s of dense products; 0 where only the memory is known
    float32: float  # FLOP/s
    watts: float = 0.0  # board power; 0: unknown

    @property
    def usable(self) -> int:
        """Bytes that a training may use."""
        return int((self.memory - _CONTEXT) * (1 - _FRAGMENTED))


# Vendor's data sheets: dense, no sparsity; float32 without TF32, which torch leaves off; the power
# of SXM boards where there are several.
GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 40 * _GB, 312e12, 19.5e12, 400),
        Gpu("a100", 80 * _GB, 312e12, 19.5e12, 400),
        Gpu("h100", 80 * _GB, 989e12, 67e12, 700),
        Gpu("h200", 141 * _GB, 989e12, 67e12, 700),
        Gpu("l40s", 48 * _GB, 362e12, 91.6e12, 350),
    )
}


def find_gpu(name: str) -> Gpu:
    """Find a GPU by name, or make one from its memory in GB; anything else is a `UsageError`."""
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    with contextlib.suppress(ValueError):
        if _CONTEXT < float(name) * _GB < float("inf"):
            return Gpu(f"{name} GB", int(float(name) * _GB), 0.0, 0.0)
    remedy = f"give {', '.join(GPUS)}, or its memory in GB"
    raise UsageError(what=f"unknown GPU `{name}`", where="--gpu", do=remedy)


def recognize_gpu(device: str) -> Gpu | None:
    """Return the GPU that torch names ``NVIDIA A100-SXM4-80GB``; None if it is not in `GPUS`."""
    words = re.split(r"[^a-z0-9]+", device.lower())
    if "a100" in words and "40gb" in words:
        return GPUS["a100-40"]
    return next((gpu for name, gpu in GPUS.items() if name in words), None)


def resolve_device(device: str) -> Any:
    """Return the ``torch.device`` of a recipe after testing it.

    ``device`` is ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: ``cuda`` if available, else ``cpu``.

    Raises
    ------
    UsageError
        If the device is unavailable on this machine.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            what=f"device `{device}` cannot be used",
            where=first_line(error),
            do="give device=cpu, or cuda on a machine with a GPU",
        ) from error
    return resolved
