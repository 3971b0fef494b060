"""PAWS against supervised training on the same labels, and DINO with soft nearest neighbors.

    python benchmarks/few_labels.py --steps 3000

Same network, same crops, same CPU seconds: PAWS gets ``--steps``, the others what fits into its
time by steps of all three measured in turn. Accuracy on the test images of CIFAR-10, for each seed
of the labels (`configs/training/labels`) and of the training; supervised training is reported by
its better classifier, its own head or soft nearest neighbors.

Whatever is finished stays in ``--folder``: run it again to go on.
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
    """A training by its recipe, step by step; never saved."""

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
    parser.add_argument("--folder", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("changes", nargs="*", help="KEY=VALUE of both recipes")
    args = parser.parse_args()
    folder = args.folder / f"{args.per_class}-{args.steps}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{seed}-{name}.json" for seed in args.seeds for name in args.methods]
    pool = ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as cache, pool:
        if not (folder / "steps.json").is_file():
            steps = pool.submit(steps_in_equal_time, args, Path(cache)).result()
            (folder / "steps.json").write_text(json.dumps(steps))
        steps = json.loads((folder / "steps.json").read_text())
        running = {
            pool.submit(train_and_measure, args, file, steps, Path(cache) / file.stem)
            for file in files
            if not file.is_file()
        }
        for done in as_completed(running):
            print(done.result(), flush=True)
    seeds = [
        {"seed": seed}
        | {
            file.stem.partition("-")[2]: json.loads(file.read_text())
            for file in sorted(folder.glob(f"{seed}-*.json"))
        }
        for seed in args.seeds
    ]
    settings = {name: str(value) for name, value in vars(args).items() if name != "folder"}
    figures = {"settings": settings, "seeds": seeds, **summary(seeds)}
    print(write_result(f"few_labels-{args.per_class}", figures))
    print(json.dumps(summary(seeds), indent=1))


def make_training(
    args: argparse.Namespace, seed: int, name: str, steps: int, cache: Path
) -> tuple[TrainingConfig, Training]:
    train = train_images(args)
    support = [
        f"support.subset={LABELS}/cifar10-{args.per_class}-{seed}.txt",
        f"support.paths=['{train}']",
        f"support.images={args.images}",
        f"support.views={args.views}",
    ]
    shared = [f"seed={seed}", "threads=1", f"data.paths=['{train}']", f"out={cache}", *args.changes]
    network = recipe("paws", *shared, *support).model.architecture
    config = recipe(
        "dino" if name == "dino" else "paws",
        *shared,
        *([f"model.architecture={network}"] if name == "dino" else support),
        *(ALONE if name == "supervised" else []),
        f"steps={steps}",
    )
    return config, Training(config, cache / name)


def train_images(args: argparse.Namespace) -> str:
    return f"{args.data}/cifar10-train-{{000000..000004}}.tar.gz"


def steps_in_equal_time(args: argparse.Namespace, cache: Path) -> dict[str, int]:
    probes = {
        name: make_training(args, args.seeds[0], name, args.steps, cache)[1]
        for name in args.methods
    }
    seconds = seconds_per_step(probes, 10)
    allowed = args.steps * seconds[args.methods[0]]
    return {name: round(allowed / each) for name, each in seconds.items()}


def train_and_measure(
    args: argparse.Namespace, file: Path, steps: dict[str, int], cache: Path
) -> str:
    seed, name = file.stem.split("-")
    keys = (LABELS / f"cifar10-{args.per_class}-{seed}.txt").read_text().split()
    labeled = read_pixels(train_images(args), cache, keys)
    test = read_pixels(f"{args.data}/cifar10-test-000000.tar.gz", cache)
    config, run = make_training(args, int(seed), name, steps[name], cache)
    started = time.process_time()
    for _ in range(steps[name]):
        run.step()
    facts: dict = {"steps": steps[name], "cpu_s": round(time.process_time() - started, 1)}
    facts |= accuracies(run, config, labeled, test)
    last = run.trainer.last_row
    facts["last"] = {key: value for key, value in last.items() if not key.startswith("clock")}
    file.write_text(json.dumps(facts, indent=1))
    return f"seed {seed}: {name}: {facts}"


def best(facts: dict) -> float:
    return max(value for name, value in facts.items() if name == "head" or "soft_nn" in name)


def summary(seeds: list[dict]) -> dict:
    """Accuracy of PAWS by its last head, of the others by their best; differences in points."""
    scores: dict[str, dict[int, float]] = {}
    for facts in seeds:
        for name in facts.keys() - {"seed"}:
            of = facts[name]
            paws = of.get("soft_nn_prediction", of.get("soft_nn_projection", 0.0))
            scores.setdefault(name, {})[facts["seed"]] = paws if name == "paws" else best(of)
    paws = scores.get("paws", {})
    differences = {
        name: [100 * (paws[seed] - score) for seed, score in of.items() if seed in paws]
        for name, of in scores.items()
        if name != "paws"
    }
    return {
        "accuracy": {name: described(list(of.values())) for name, of in scores.items()},
        "paws_minus": {name: described(each) for name, each in differences.items() if each},
    }


def described(values: list[float]) -> dict:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"each": values, "mean": float(np.mean(values)), "deviation": deviation}


if __name__ == "__main__":
    main()
