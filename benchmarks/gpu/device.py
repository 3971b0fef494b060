"""What the pieces on a GPU share: is there one, what is it, how fast is one product on it."""

import sys
import time
from typing import Any

__all__ = ["has_cuda", "machine", "product_rate", "refuse", "wait"]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def refuse() -> int:
    """Say that there is no GPU, and what to do; returns the exit code."""
    reported = "error: no CUDA device - this machine - run it on one, or add --cpu --tiny to try it"
    print(reported, file=sys.stderr)
    return 2


def wait(device: Any) -> None:
    """Wait until the device has done all that it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def product_rate(device: Any) -> float:
    """Measure FLOP/s of one product of 8,192 x 8,192 in bfloat16."""
    import torch

    side, runs = 8192, 20
    one, other = torch.randn((2, side, side), device=device, dtype=torch.bfloat16)
    for _ in range(3):
        one @ other
    wait(device)
    started = time.perf_counter()
    for _ in range(runs):
        one @ other
    wait(device)
    return 2 * side**3 * runs / (time.perf_counter() - started)


def machine(device: Any) -> dict[str, Any]:
    """Name, memory and capability of the card; no host names."""
    import torch

    if device.type != "cuda":
        return {"device": device.type}
    facts = torch.cuda.get_device_properties(device)
    return {
        "device": facts.name,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "capability": f"{facts.major}.{facts.minor}",
        "cuda": torch.version.cuda,
    }
