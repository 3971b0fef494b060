"""What asynchronous saving costs: steps with a save in the background against steps without.

    python benchmarks/saving.py cifar10_cpu data.paths=[runs/curated] threads=1
    python benchmarks/saving.py cifar10_cpu data.paths=[runs/curated] threads=1 --ranks 2

Blocks of steps take turns, with one save at the start of every second block and the wait for its
end inside it. The difference of two blocks is what one save costs, all of it; divided by the time
of as many steps as the recipe has between saves it is the share that a run pays.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from recording import write_result

from dinoforge.config import find_recipe, load_config
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.dataset import Batch
from dinoforge.training.distributed.join import join_ranks
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.loop import Trainer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--block", type=int, default=40, help="steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("recipe")
    parser.add_argument("words", nargs="*", help="key=value")
    args = parser.parse_intermixed_args()
    if args.ranks > 1 and "RANK" not in os.environ:
        return start_ranks(args.ranks)
    folder = Path(os.environ.get("SAVING_FOLDER") or tempfile.mkdtemp(prefix="saving-"))
    try:
        figures = measure(args, folder)
    finally:
        if RankInfo.of_environment().rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    if figures:
        for name, value in figures.items():
            print(f"{name}: {value}")
        if args.record:
            print(write_result(f"saving-{args.recipe}-{args.ranks}-ranks", figures))
    return 0


def start_ranks(count: int) -> int:
    """Run this script on every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with tempfile.TemporaryDirectory(prefix="saving-") as folder:
        ranks = []
        for rank in range(count):
            own = shared | {"RANK": rank, "SAVING_FOLDER": folder}
            environment = os.environ | {name: str(value) for name, value in own.items()}
            ranks.append(subprocess.Popen([sys.executable, *sys.argv], env=environment))
        return max(abs(rank.wait()) for rank in ranks)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, float | int]:
    """Let blocks with and without a save take turns; figures on rank 0, nothing on the others."""
    config = load_config(
        TrainingConfig, find_recipe("training", args.recipe), [f"out={folder}", *args.words]
    )
    with join_ranks(torch.device("cpu"), config.parallel.timeout_s) as rank_info:
        trainer = Trainer(config, folder)
        batches = trainer.batches()
        block(trainer, batches, args.block, saves=False)  # warm
        plain, saving = [], []
        for _ in range(args.rounds):
            plain.append(block(trainer, batches, args.block, saves=False))
            saving.append(block(trainer, batches, args.block, saves=True))
        if rank_info.rank:
            return {}
    step_s = statistics.median(wall for wall, _, _ in plain) / args.block
    step_cpu_s = statistics.median(cpu for _, cpu, _ in plain) / args.block
    extra = [s[0] - p[0] for p, s in zip(plain, saving, strict=True)]
    extra_cpu = [s[1] - p[1] for p, s in zip(plain, saving, strict=True)]
    every = config.checkpoint.every
    return {
        "step_s": round(step_s, 4),
        "step_cpu_s": round(step_cpu_s, 4),
        "save_blocks_s": round(statistics.median(blocked for _, _, blocked in saving), 4),
        "save_costs_s": round(statistics.median(extra), 4),
        "save_costs_cpu_s": round(statistics.median(extra_cpu), 4),
        "steps_between_saves": every,
        "share_of_step_time": round(statistics.median(extra) / (every * step_s), 5),
        "share_of_cpu_time": round(statistics.median(extra_cpu) / (every * step_cpu_s), 5),
        "steps_between_saves_at_5_percent": round(statistics.median(extra) / (0.05 * step_s), 1),
        "checkpoint_bytes": checkpoint_bytes(folder),
    }


def block(
    trainer: Trainer, batches: Iterator[tuple[Batch, float]], steps: int, *, saves: bool
) -> tuple[float, float, float]:
    """Do some steps; wall and CPU seconds of all, and seconds for which a save held them up."""
    if dist.is_initialized():
        dist.barrier()
    started, cpu, blocked = time.monotonic(), time.process_time(), 0.0
    for number in range(steps):
        trainer.run_step(*next(batches))
        if saves and number == 0:
            before = time.monotonic()
            trainer.save()
            blocked = time.monotonic() - before
    if saves:
        trainer.checkpoints.finish()
    if dist.is_initialized():
        dist.barrier()
    return time.monotonic() - started, time.process_time() - cpu, blocked


def checkpoint_bytes(folder: Path) -> int:
    newest = max((folder / "checkpoints").glob("step-*"))
    return sum(path.stat().st_size for path in newest.iterdir())


if __name__ == "__main__":
    sys.exit(main())
