"""Write tensors to a safetensors file: atomic, floats as float32, equal content, equal bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinoforge.files import write_bytes

__all__ = ["write_tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, floats as float32, with their metadata in the order of its keys.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    # The library writes metadata in the order of a hash map, which differs between processes.
    from safetensors.torch import save

    data = save(
        {
            name: tensor.detach()
            .to("cpu", torch.float32 if tensor.is_floating_point() else None)
            .contiguous()
            for name, tensor in tensors.items()
        }
    )
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(path, b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[end:])))
