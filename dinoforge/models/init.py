"""Initial weights: every tensor is a function of (seed, its name), not of global state.

Models that differ in depth or registers start with equal values under equal names.
"""

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dinoforge.models.layers import LayerScale

__all__ = ["assign", "draw_weights", "reset_norm"]


def draw_weights(model: nn.Module, scheme: str, seed: int) -> None:
    """Draw all parameters of a network in place; they may be uninitialized and sharded.

    ``published``: linear layers and positions trunc_normal(0.02), patch embedding uniform within
    1 / sqrt(fan in) (the default of torch), class and register tokens N(0, 1e-6), mask token and
    other biases 0. ``dino`` (DINO v1): class and register tokens trunc_normal(0.02), too.
    ``xavier``: linear layers and patch embedding Xavier uniform. At widths below 384, 0.02 gives
    all images nearly equal features, and nothing is learned for hundreds of steps (measured at
    widths 128 and 192 on CIFAR-10).
    ``kaiming``: convolutions normal by their fan out (He et al. 2015), as torchvision draws them.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            reset_norm(module)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            generator = _generator(seed, f"{prefix}.{name}" if prefix else name)
            whole = torch.empty(parameter.shape)
            _draw(module, name, whole, generator, scheme)
            assign(parameter, whole)


@torch.no_grad()
def assign(parameter: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a parameter, or this rank's shard into a sharded parameter."""
    if isinstance(parameter, DTensor):
        on_device = whole.to(parameter.device)
        parts = distribute_tensor(
            on_device, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.to_local().copy_(parts.to_local())
    else:
        parameter.copy_(whole)


def reset_norm(norm: _BatchNorm) -> None:
    """Set the weights and running statistics of batch normalization to their initial values."""
    norm.reset_running_stats()
    assign(norm.weight, torch.ones(norm.weight.shape))
    assign(norm.bias, torch.zeros(norm.bias.shape))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}\x00init/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _draw(
    module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator, scheme: str
) -> None:
    xavier = scheme == "xavier"
    if isinstance(module, nn.Conv2d) and scheme == "kaiming":
        nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu", generator=generator)
    elif isinstance(module, nn.Conv2d) and not xavier:
        bound = module.weight.shape[1:].numel() ** -0.5
        nn.init.uniform_(tensor, -bound, bound, generator=generator)
    elif isinstance(module, nn.LayerNorm):
        nn.init.constant_(tensor, 1.0 if name == "weight" else 0.0)
    elif isinstance(module, LayerScale):
        nn.init.constant_(tensor, module.initial)
    elif name in ("bias", "mask_token"):
        nn.init.zeros_(tensor)
    elif name in ("cls_token", "register_tokens") and scheme != "dino":
        nn.init.normal_(tensor, std=1e-6, generator=generator)
    elif name == "weight" and xavier:
        nn.init.xavier_uniform_(tensor.flatten(1), generator=generator)
    elif name in ("weight", "pos_embed", "cls_token", "register_tokens"):
        nn.init.trunc_normal_(tensor, std=0.02, generator=generator)
    else:
        raise AssertionError(f"no rule for the initial values of {name}")
