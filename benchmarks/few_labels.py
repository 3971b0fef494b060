"""PAWS against supervised training on the same labels, and DINO with soft nearest neighbors.

    python benchmarks/few_labels.py --steps 3000

Same network, same crops, same CPU seconds: PAWS gets ``--steps``, the others what fits into its
time by steps of all three measured in turn. Accuracy on the test images of CIFAR-10, for each seed
of the labels (`configs/training/labels`) and of the training; supervised training is reported by
its better classifier, its own head or soft nearest neighbors.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from recording import write_result
from torch import nn

from dinoforge.config import load_config
from dinoforge.config.load import find_recipe
from dinoforge.images import DecodePolicy
from dinoforge.neighbors.soft import soft_neighbors
from dinoforge.sources.image_set import open_images
from dinoforge.training.config import TrainingConfig
from dinoforge.training.data.color import normalize
from dinoforge.training.loop import Trainer

RECIPES = {"paws": "cifar10_paws_cpu", "dino": "cifar10_dino_cpu"}
# What makes supervised training of the recipe of PAWS: the labeled images alone.
ALONE = ("method=supervised", "batch_size=1", "crops.num_local=0")
LABELS = Path("configs/training/labels")


def recipe(name: str, *changes: str) -> TrainingConfig:
    return load_config(TrainingConfig, find_recipe("training", RECIPES[name]), changes)


class Training:
    """A training by its recipe, step by step."""

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        self.trainer = Trainer(config, folder)
        # The teacher where there is one, as published.
        self.network = self.trainer.method.networks[-1]
        self._batches = self.trainer.batches()

    def step(self) -> None:
        batch, waited_s = next(self._batches)
        self.trainer.run_step(batch, waited_s)


@torch.no_grad()
def rows_of(network: nn.ModuleDict, pixels: np.ndarray, config: TrainingConfig) -> dict:
    """Embeddings of whole images, after the backbone and after each head."""
    network.eval()
    parts: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(pixels), 500):
        levels = torch.from_numpy(pixels[start : start + 500]).permute(0, 3, 1, 2).float()
        x = normalize(levels, config.crops.mean, config.crops.std)
        (outputs,) = network["backbone"].forward_features_list([x], [None])
        x = outputs["x_norm_clstoken"]
        parts.setdefault("backbone", []).append(x)
        for name in ("projection", "prediction", "linear"):
            if name in network:
                x = network[name](x)
                parts.setdefault(name, []).append(x)
    return {name: torch.cat(part) for name, part in parts.items()}


def accuracies(run: Training, config: TrainingConfig, labeled: tuple, test: tuple) -> dict:
    bank, asked = (rows_of(run.network, pixels, config) for pixels, _ in (labeled, test))
    right = {
        f"soft_nn_{name}": soft_neighbors(asked[name], bank[name], labeled[1], 10).argmax(dim=1)
        for name in bank
        if name != "linear"
    }
    if "linear" in asked:
        right["head"] = asked["linear"].argmax(dim=1)
    return {name: (named == test[1]).float().mean().item() for name, named in right.items()}


def seconds_per_step(runs: dict, steps: int) -> dict:
    """CPU seconds of a step of each, measured in turn after two steps that warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(steps + 2):
        for name, run in runs.items():
            started = time.process_time()
            run.step()
            if number >= 2:
                seconds[name].append(time.process_time() - started)
    return {name: float(np.median(each)) for name, each in seconds.items()}


def read_pixels(paths: str, cache: Path, keys: list[str] | None = None) -> tuple:
    images = open_images([paths], cache=cache, policy=DecodePolicy())
    rows = range(len(images))
    if keys is not None:
        at = {key: row for row, key in enumerate(images.table["key"].to_pylist())}
        rows = [at[key] for key in keys]
    pixels = np.stack([images.decode(row) for row in rows])
    return pixels, torch.from_numpy(images.labels[list(rows)].copy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000, help="of PAWS")
    parser.add_argument("--per-class", type=int, default=25)
    parser.add_argument("--images", type=int, default=12, help="per class and step")
    parser.add_argument("--views", type=int, default=1, help="of each labeled image")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, each on one core")
    parser.add_argument("--methods", nargs="+", default=["paws", "supervised", "dino"])
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("changes", nargs="*", help="KEY=VALUE of both recipes")
    args = parser.parse_args()
    result: dict[int, dict] = {}
    workers = ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as cache, workers:
        running = {
            workers.submit(one_seed, args, seed, Path(cache) / str(seed)): seed
            for seed in args.seeds
        }
        for done in as_completed(running):
            result[running[done]] = done.result()
            seeds = [result[seed] for seed in sorted(result)]
            figures = {"settings": vars(args), "seeds": seeds, **summary(seeds)}
            print(write_result(f"few_labels-{args.per_class}", figures), flush=True)
    print(json.dumps(summary(seeds), indent=1))


def one_seed(args: argparse.Namespace, seed: int, cache: Path) -> dict:
    train = f"{args.data}/cifar10-train-{{000000..000004}}.tar.gz"
    test = read_pixels(f"{args.data}/cifar10-test-000000.tar.gz", cache)
    subset = LABELS / f"cifar10-{args.per_class}-{seed}.txt"
    labeled = read_pixels(train, cache, subset.read_text().split())
    shared = [f"seed={seed}", "threads=1", f"data.paths=['{train}']", f"out={cache}", *args.changes]
    support = [
        f"support.subset={subset}",
        f"support.paths=['{train}']",
        f"support.images={args.images}",
        f"support.views={args.views}",
    ]

    network = recipe("paws", *shared, *support).model.architecture

    def start(name: str, steps: int) -> tuple:
        config = recipe(
            "dino" if name == "dino" else "paws",
            *shared,
            *([f"model.architecture={network}"] if name == "dino" else support),
            *(ALONE if name == "supervised" else []),
            f"steps={steps}",
        )
        return config, Training(config, cache / name)  # never saved: each starts anew

    probes = {name: start(name, args.steps)[1] for name in args.methods}
    seconds = seconds_per_step(probes, 10)
    del probes
    facts: dict = {"seed": seed}
    for name in args.methods:
        steps = round(args.steps * seconds[args.methods[0]] / seconds[name])
        config, run = start(name, steps)
        started = time.process_time()
        for _ in range(steps):
            run.step()
        spent = time.process_time() - started
        facts[name] = {"steps": steps, "cpu_s": round(spent, 1)}
        facts[name] |= accuracies(run, config, labeled, test)
        print(seed, name, facts[name], flush=True)
        if name != "supervised":
            last = run.trainer.last_row
            facts[name]["last"] = {k: v for k, v in last.items() if not k.startswith("clock")}
    return facts


def best(facts: dict) -> float:
    return max(value for name, value in facts.items() if name == "head" or "soft_nn" in name)


def summary(result: list[dict]) -> dict:
    """Differences to PAWS in points: PAWS by its last head, the others by their best."""
    if "paws" not in result[0]:
        return {}
    paws = [
        facts["paws"].get("soft_nn_prediction", facts["paws"]["soft_nn_projection"])
        for facts in result
    ]
    differences = {}
    for name in [n for n in result[0] if n not in ("seed", "paws")]:
        each = [100 * (a - best(facts[name])) for a, facts in zip(paws, result, strict=True)]
        deviation = float(np.std(each, ddof=1)) if len(each) > 1 else 0.0
        differences[name] = {"each": each, "mean": float(np.mean(each)), "deviation": deviation}
    return {"paws": paws, "paws_minus": differences}


if __name__ == "__main__":
    main()
