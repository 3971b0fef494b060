"""Embedding at full speed: images per second against what a user would write with a DataLoader.

    python benchmarks/embedding.py clothing/*.tar imagenet-sample --encoder mobilenetv2

Every contestant is a process of its own that embeds the same images with the same network, on all
cores of the machine, interleaved round by round: `encode_images` with one thread per core; the loop
before it (64 images decoded, then encoded, on one thread); a torch DataLoader with worker processes
and a batch of 64 that gives them to the network on all cores or on one (clip-retrieval does so, on
a GPU). Time starts when a first image is encoded: imports and weights are left out. CPU seconds are
of all processes. Ratios of images per second: above 1, `encode_images` is faster. On a machine that
is shared, images per second mean little unless the rounds go before all others (``--first``, as
root): keep them short.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_table, ratios, run_first, spread, start_clean
from recording import write_result

from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.stream import Rate, Work, encode_images
from dinoforge.sources.image_set import ImageSet, open_images

BATCH = 64
CONTESTANTS = ("threads", "loop", "loader", "loader, one thread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--encoder", default="mobilenetv2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1_000_000, help="images of a round")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS)
    parser.add_argument("--run", default="", help="of one contestant: what the others are run by")
    parser.add_argument("--first", action="store_true", help="scheduled before other processes")
    parser.add_argument("--name", default="", help="in the name of the result")
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(args.run, args.images, args.encoder, args.limit, args.first)))
        return
    start_clean()
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in args.contestants}
    for number in range(args.rounds):
        for name in [*rounds][number % len(rounds) :] + [*rounds][: number % len(rounds)]:
            rounds[name].append(child(name))
            print(f"round {number + 1}: {name}: {rounds[name][-1]}", file=sys.stderr)
    sums = {name: [one.pop("sum") for one in ones] for name, ones in rounds.items()}
    speeds = {name: [one["images_per_s"] for one in ones] for name, ones in rounds.items()}
    figures = {
        "encoder": args.encoder,
        "images": rounds["threads"][0]["images"],
        "scheduled first": args.first,
        "contestants": {
            name: {key: spread([one[key] for one in ones]) for key in ones[0]}
            for name, ones in rounds.items()
        },
        "images_per_s, threads / peer": {
            name: ratios(speeds["threads"], speeds[name]) for name in rounds if name != "threads"
        },
        "equal vectors, threads and loop": len({*sums["threads"], *sums["loop"]}) == 1,
    }
    keys = ["images_per_s", "cpu_s", "cores_used", "decode_wait", "peak_mib"]
    medians = {
        name: [f"{one[key]['median']:.3g}" if key in one else "" for key in keys]
        for name, one in figures["contestants"].items()
    }
    print_table(["contestant", *keys], [[name, *cells] for name, cells in medians.items()])
    print(json.dumps(figures["images_per_s, threads / peer"]))
    print(write_result("-".join(filter(None, ["embedding", args.name])), figures).name)


def child(name: str) -> dict[str, Any]:
    """Run one contestant in a process of its own; the machine's torch default for its peers."""
    free = name == "loader"
    env = {k: v for k, v in os.environ.items() if not free or not k.endswith("_NUM_THREADS")}
    command = [sys.executable, *sys.argv, "--run", name]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(name: str, paths: list[str], spec: str, limit: int, is_first: bool) -> dict[str, Any]:
    images = open_images(paths, cache=Path("/nonexistent"))
    images = ImageSet(images.table.slice(0, limit), images.policy)
    run: dict[str, Callable[..., tuple[np.ndarray, dict[str, float]]]] = {
        "threads": by_threads,
        "loop": by_loop,
        "loader": by_loader,
        "loader, one thread": by_loader,
    }
    if name != "loader":
        torch.set_num_threads(1)
    if is_first:  # before torch starts its threads, which inherit it
        run_first()
    encoder = make_encoder(spec)
    encoder.encode([images.decode(0)])
    wall, cpu = time.perf_counter(), cpu_seconds()
    rows, more = run[name](images, encoder)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": len(rows),
        "images_per_s": round(len(rows) / wall, 1),
        "images_per_cpu_s": round(len(rows) / cpu, 1),
        "cpu_s": round(cpu, 2),
        "cores_used": round(cpu / wall, 2),
        "peak_mib": peak >> 10,
        **more,
        "sum": float(rows.astype(np.float64).sum()),
    }


def cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def by_threads(images: ImageSet, encoder: Any) -> tuple[np.ndarray, dict[str, float]]:
    rate, cores = Rate(), os.cpu_count()
    parts = encode_images(
        Work.of(encoder),
        range(len(images)),
        lambda at: [images.decode(at)],
        workers=cores,
        rate=rate,
    )
    rows = np.concatenate([part.vectors for part in parts])
    return rows, {"decode_wait": rate.as_json()["decode_wait"]}


def by_loop(images: ImageSet, encoder: Any) -> tuple[np.ndarray, dict[str, float]]:
    """As `dinoforge embed` and the stage did until 2026-11."""
    parts, waited, started = [], 0.0, time.perf_counter()
    for start in range(0, len(images), BATCH):
        before = time.perf_counter()
        batch = [images.decode(at) for at in range(start, min(start + BATCH, len(images)))]
        waited += time.perf_counter() - before
        parts.append(encoder.encode(batch))
    return np.concatenate(parts), {
        "decode_wait": round(waited / (time.perf_counter() - started), 3)
    }


class Squares(torch.utils.data.Dataset[torch.Tensor]):
    """Images as the network takes them, decoded and resized in the workers."""

    def __init__(self, images: ImageSet, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, at: int) -> torch.Tensor:
        return self.transform.batch([self.images.decode(at)], 1)[0]


def by_loader(images: ImageSet, encoder: Any) -> tuple[np.ndarray, dict[str, float]]:
    loader = torch.utils.data.DataLoader(
        Squares(images, encoder.transform), batch_size=BATCH, num_workers=os.cpu_count() or 1
    )
    parts, waited, started = [], 0.0, time.perf_counter()
    batches = iter(loader)
    with torch.inference_mode():
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            if batch is None:
                break
            batch = batch.contiguous(memory_format=torch.channels_last)
            rows = encoder._net(batch)  # noqa: SLF001 - the network itself
            parts.append(torch.nn.functional.normalize(rows).numpy())
    del batches  # its workers end, and their CPU seconds count
    return np.concatenate(parts), {
        "decode_wait": round(waited / (time.perf_counter() - started), 3)
    }


if __name__ == "__main__":
    main()
