"""Record what trained networks score, with the CPU time of the training and the curve on the way.

    dinoforge train cifar10_cpu seed=0 out=runs/seed0
    dinoforge evaluate cifar10_cpu checkpoint=runs/seed0 checkpoints=all out=runs/seed0-evaluated
    python benchmarks/training_scores.py --topic cifar10-scores runs/seed0 runs/seed0-evaluated ...

Folders come in pairs: a training run and its evaluation. CPU seconds are those of the training
process (data, steps, checkpoints left out), summed over ``metrics.jsonl``.
"""

import argparse
import json
from pathlib import Path

import yaml
from recording import write_result

from dinoforge.records import read_records

K = 20


def scores(training: Path, evaluation: Path) -> dict:
    recipe = yaml.safe_load((training / "config.yaml").read_text())
    rows = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    records = [r for r in read_records(evaluation / "records.jsonl") if r.settings.get("k") == K]
    accuracies = [r for r in records if r.metric == "accuracy"]
    return {
        "seed": recipe["seed"],
        "steps": rows[-1]["step"],
        "images": rows[-1]["step"] * recipe["batch_size"],
        "threads": recipe["threads"],
        "cpu_minutes": round(sum(row["clock/cpu_s"] for row in rows) / 60, 1),
        "losses": {name: rows[-1][f"loss/{name}"] for name in ("dino", "ibot", "koleo")},
        "accuracy": [
            {
                "model": r.model,
                "features": r.settings["features"],
                "step": r.settings.get("step"),
                "value": r.value,
                "interval": r.interval,
            }
            for r in accuracies
        ],
        "differences": [
            {**r.settings, "value": r.value, "interval": r.interval}
            for r in records
            if r.metric != "accuracy"
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topic", required=True)
    parser.add_argument("folders", nargs="+", type=Path)
    args = parser.parse_args()
    pairs = zip(args.folders[::2], args.folders[1::2], strict=True)
    result = [scores(training, evaluation) for training, evaluation in pairs]
    for run in result:
        print(f"seed {run['seed']}: {run['steps']} steps, {run['cpu_minutes']} CPU minutes")
        for row in run["accuracy"]:
            print(f"  {row['model']:18s} {row['features']:10s} step {row['step']}: "
                  f"{row['value']:.4f} {row['interval']}")  # fmt: skip
    print(write_result(args.topic, result))


if __name__ == "__main__":
    main()
