"""One of the ranks of `test_losses`: a process of its own, so that the collectives are real.

Usage: rank_of_losses.py RANK WORLD_SIZE FOLDER GOLDEN
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from dinoforge.training.losses.balance import Center, sinkhorn_knopp

TEMPERATURE = 0.05


def targets(tensors: dict, rank: int, dtype: torch.dtype) -> dict:
    """Do both steps with both ways to balance."""
    centers = {"cls": Center(32).to(dtype), "patch": Center(24, mean_of_ranks=True).to(dtype)}
    result = {}
    for step in (0, 1):
        for kind, center in centers.items():
            place = f"{kind}_probs/step{step}/rank{rank}"
            scores = tensors[f"{kind}_logits/step{step}/rank{rank}"].to(dtype)
            result[f"sinkhorn/{place}"] = sinkhorn_knopp(scores, TEMPERATURE)
            result[f"centering/{place}"] = center.targets(scores, TEMPERATURE)
            center.update(scores)
    for kind, center in centers.items():
        result[f"centering/{kind}_center_final"] = center.center
    return result


def uneven(tensors: dict, rank: int) -> dict:
    """Let rank 1 have no sample at all: it must still join, and must not count."""
    scores = tensors["patch_logits/step0/rank0"].double()
    scores = scores if rank == 0 else scores[:0]
    center = Center(24, mean_of_ranks=True).double()
    center.update(scores)
    nothing = Center(24, mean_of_ranks=True).double()
    nothing.center += 1
    nothing.update(scores[:0])
    return {
        "uneven/probs": sinkhorn_knopp(scores, TEMPERATURE),
        "uneven/center": center.center,
        "uneven/center_of_nothing": nothing.center,
    }


def main(rank: int, world_size: int, folder: Path, golden: Path) -> None:
    """Compute everything of this rank and write it to a file."""
    torch.set_num_threads(1)
    store = (folder / "store").resolve().as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    tensors = load_file(golden)
    for dtype in (torch.float64, torch.float32):
        result = targets(tensors, rank, dtype) | uneven(tensors, rank)
        save_file(result, folder / f"rank{rank}-{str(dtype).removeprefix('torch.')}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
