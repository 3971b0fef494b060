"""Attention of one layer on one GPU by every back end, forward and backward.

    python benchmarks/gpu/kernels.py
    python benchmarks/gpu/kernels.py --cpu --tiny --out FOLDER    # that it works at all

What ``model.attention=auto`` tries, at the shapes of ViT-S/B/L/g (2 x 257 + 8 x 50 tokens per
image), packed and one crop size after the other. A back end that cannot run, or differs from
`sdpa` by more than the stated tolerance, is recorded with the reason. About a minute.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from device import has_cuda, machine, refuse
from measuring import print_table
from recording import RESULTS, write_result

CANDIDATES = ("sdpa", "varlen", "xformers", "plain")
# size -> images per step
BATCHES = {"small": 64, "base": 64, "large": 32, "giant": 12}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="to see that it works")
    parser.add_argument("--tiny", action="store_true", help="one image")
    args = parser.parse_args()
    if not args.cpu and not has_cuda():
        return refuse()
    import torch

    device = torch.device("cpu" if args.cpu else "cuda")
    figures: dict[str, Any] = {"machine": machine(device), "layers": {}}
    rows = []
    for size, images in BATCHES.items():
        for packed in (True, False):
            for dtype in (torch.bfloat16, torch.float32):
                where = f"{size}, {'packed' if packed else 'separate'}, {dtype}"
                result = measure(size, 1 if args.tiny else images, device, packed, dtype)
                figures["layers"][where.replace("torch.", "")] = result
                times = (result["milliseconds"].get(name, "-") for name in CANDIDATES)
                rows.append([where.replace("torch.", ""), *times, result["backend"]])
        if args.tiny:
            break
    print_table(["layer, ms", *CANDIDATES, "chosen"], rows)
    topic = "gpu-kernels-tiny" if args.tiny else "gpu-kernels"
    print(write_result(topic, figures, folder=args.out).name)
    return 0


def measure(size: str, images: int, device: Any, packed: bool, dtype: Any) -> dict[str, Any]:
    from dinoforge.models.attention_choice import AttentionProblem, probe
    from dinoforge.models.config import ARCHITECTURES

    width, _, heads, _ = ARCHITECTURES[size]
    problem = AttentionProblem(
        shapes=((2 * images, 257), (8 * images, 50)),
        heads=heads,
        channels=width // heads,
        dtype=dtype,
        device=device,
        packed=packed,
    )
    result = probe(problem, CANDIDATES)
    return {
        "images": images,
        "backend": result.backend,
        "milliseconds": {name: round(ms, 3) for name, ms in result.milliseconds.items()},
        "refused": dict(result.refused),
    }


if __name__ == "__main__":
    sys.exit(main())
