"""Precision of a training: bfloat16 for matrix products where it is fast, or float32."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from dinoforge.errors import UsageError
from dinoforge.training.config import TrainingConfig

__all__ = ["at_least_float32", "autocast", "product_dtype"]


def product_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; raises if the GPU has no bfloat16."""
    if config.precision == "auto":
        return torch.bfloat16 if _multiplies_bfloat16_fast(device) else torch.float32
    dtype: torch.dtype = getattr(torch, config.precision)
    if dtype == torch.bfloat16 and device.type == "cuda" and not _multiplies_bfloat16_fast(device):
        raise UsageError(
            what=f"{torch.cuda.get_device_name(device)} has no bfloat16",
            where="precision=bfloat16",
            do="set precision=float32 or auto",
        )
    return dtype


def autocast(config: TrainingConfig, device: torch.device) -> Any:
    """Return the context of the forward pass: bfloat16 for matrix products, or nothing."""
    if product_dtype(config, device) != torch.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """Return float32 for half precision: losses and targets of such scores are summed in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _multiplies_bfloat16_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001
