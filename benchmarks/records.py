"""Time to load many records into pandas, and to list many runs.

``python benchmarks/records.py`` writes 1,000 evaluations of 100 records each into a temporary
folder, which `dinoforge.records.load` reads (CPU seconds without the import of pandas); and 1,000
runs, every fourth a training that holds three evaluations, 50 files each, which ``dinoforge runs``
lists.
"""

import argparse
import contextlib
import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import print_table, spread, start_clean
from recording import write_result

from dinoforge.cli.main import main
from dinoforge.records import Record, load, write_records
from dinoforge.runs import now

MODELS = ("trained", "untrained", "pixels", "mobilenetv2")
FEATURES = ("cls", "patch_mean", "both")
KS = (1, 5, 10, 20, 100)


def write_evaluation(folder: Path, rng: random.Random, num_records: int) -> None:
    """Write records of the length that the command writes."""
    keys = [(m, f, k, d) for d in range(20) for m in MODELS for f in FEATURES for k in KS]
    write_records(
        folder / "records.jsonl",
        [
            Record(
                benchmark=f"knn/set{data}",
                model=model,
                metric="accuracy",
                value=(value := rng.random()),
                interval=(value - 0.02, value + 0.02),
                n=10_000,
                settings={
                    "features": features,
                    "k": k,
                    "bank": 50_000,
                    "temperature": 0.07,
                    "chance": 0.1,
                    "step": 12_500,
                    "without_leaked": value,
                    "units_left": 10_000,
                    "units_dropped": 0,
                },
                checkpoint="step-000012500:0123456789ab",
                data=f"{data:064x}",
                commit="0123456789ab",
            )
            for model, features, k, data in keys[:num_records]
        ],
    )


def write_runs(folder: Path, num_runs: int, num_files: int = 50) -> None:
    """Write trainings, each with three evaluations, with all files that the listing reads."""
    for number in range(num_runs):
        training = folder / f"training{number // 4:04d}"
        place = f"evaluation/step-{number % 4:09d}" if number % 4 else "."
        run = training / place
        (run / "parts").mkdir(parents=True)
        facts = {
            "command": "evaluate" if number % 4 else "train",
            "host": "node",
            "started": now(),
            "stopped": now(),
            "exit_code": 0,
            "parents": [str(training)] * (number % 4 > 0),
            "run_folder": str(run),
            "working_folder": str(folder),
        }
        (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        (run / "config.yaml").write_text("steps: 600\n" + "# key\n" * 150, encoding="utf-8")
        if number % 4:
            write_evaluation(run, random.Random(number), 60)
        else:
            row = json.dumps({"step": 600, **{f"loss/{n}": 0.123456789 for n in range(20)}})
            (run / "metrics.jsonl").write_text(f"{row}\n" * 60, encoding="utf-8")
        for part in range(num_files - 3):
            (run / "parts" / f"part-{part:05d}.done").touch()


def list_silently(folder: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        main(["runs", folder])


def measure(function: Callable[[], Any], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return seconds


def measure_all() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--records", type=int, default=100, help="records per evaluation")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    start_clean()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.runs):
            write_evaluation(Path(folder) / f"run{number:04d}", rng, args.records)
        load([])  # imports pandas
        loading = measure(lambda: load(folder), args.rounds)
        rows = len(load(folder))
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), args.runs)
        list_silently(folder)  # imports
        listing = measure(lambda: list_silently(folder), args.rounds)
    print_table(
        ["what", "median CPU s", "min", "max"],
        [["load", *spread(loading).values()], ["dinoforge runs", *spread(listing).values()]],
    )
    figures = {
        "load": {"records": rows, "files": args.runs, "cpu_s": spread(loading)},
        "dinoforge runs": {"runs": args.runs, "files per run": 50, "cpu_s": spread(listing)},
    }
    print(write_result("records", figures))


if __name__ == "__main__":
    measure_all()
