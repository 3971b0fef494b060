"""Training recipes of one network at equal CPU time: DINO v1 against DINOv2, on CIFAR-10.

    python benchmarks/equal_time.py cifar10_cpu cifar10_dino_cpu --steps 2500

The first recipe gets ``--steps``, the others what fits into its time by steps of all of them
measured in turn; schedules end where the training ends. Each is measured by weighted k-NN
(k = 20, temperature 0.07, the class token of the teacher) of the test images in 10,000 labeled
training images.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from few_labels import Training, read_pixels, rows_of, seconds_per_step
from recording import write_result

from dinoforge.config import load_config
from dinoforge.config.load import find_recipe
from dinoforge.evaluation.knn import find_neighbors, knn_classify
from dinoforge.training.config import TrainingConfig


def knn_accuracy(run: Training, config: TrainingConfig, bank: tuple, test: tuple) -> float:
    known, asked = (rows_of(run.network, pixels, config)["backbone"] for pixels, _ in (bank, test))
    neighbors = find_neighbors(known.numpy(), asked.numpy(), k=20, device="cpu")
    named = knn_classify(neighbors, bank[1].numpy(), ks=[20], temperature=0.07)[20]
    return float((named == test[1].numpy()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--steps", type=int, default=2500, help="of the first recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", default="../shared/data/cifar10")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as cache:
        bank, test = (
            read_pixels(f"{args.data}/cifar10-{part}-000000.tar.gz", Path(cache))
            for part in ("train", "test")
        )
        for seed in args.seeds:
            shared = [f"seed={seed}", "threads=1", f"out={cache}"]
            shared.append(f"data.paths=['{args.data}/cifar10-train-{{000000..000004}}.tar.gz']")

            def start(name: str, steps: int, shared: list = shared) -> tuple:
                changes = [*shared, f"steps={steps}"]
                config = load_config(TrainingConfig, find_recipe("training", name), changes)
                return config, Training(config, Path(cache) / name)  # never saved

            probes = {name: start(name, args.steps)[1] for name in args.recipes}
            seconds = seconds_per_step(probes, 10)
            del probes
            for name in args.recipes:
                steps = round(args.steps * seconds[args.recipes[0]] / seconds[name])
                config, run = start(name, steps)
                started = time.process_time()
                for _ in range(steps):
                    run.step()
                spent = round(time.process_time() - started, 1)
                accuracy = knn_accuracy(run, config, bank, test)
                results.append(
                    {"recipe": name, "seed": seed, "steps": steps, "cpu_s": spent, "knn": accuracy}
                )
                print(results[-1], flush=True)
            print(write_result("equal_time", {"settings": vars(args), "runs": results}))
    for name in args.recipes:
        print(name, np.mean([run["knn"] for run in results if run["recipe"] == name]))


if __name__ == "__main__":
    main()
