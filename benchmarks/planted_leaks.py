"""Leaks on photographs: how many planted copies `dinoforge leaks` finds, and what else it reports.

    python benchmarks/planted_leaks.py --data ../shared/data --seeds 0 1 2
    python benchmarks/planted_leaks.py --data ../shared/data duplicates.verify.mode=none

The pool: 800 of the 1,000 photographs of imagenet-sample. Looked up: 100 edited copies of them, all
kinds of edit of `duplicate_pool.py` in turn, and the other 200 photographs. *Found*: a copy with
its original as the most similar image. *False*: any other image that is reported.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from duplicate_pool import KINDS, edit, read_photographs
from measuring import print_table
from recording import write_result

NUM_COPIES, NUM_STRANGERS = 100, 200


def main() -> None:
    """Measure every seed and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shared data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args, overrides = parser.parse_known_args()
    rows, figures = [], []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            truth = write_sets(args.data, Path(folder), seed)
            report = find_leaks(Path(folder), overrides)
        leaks = {leak["key"]: leak["pool_key"] for leak in report["leaks"]}
        correct = [key for key, original in leaks.items() if truth.get(key) == original]
        missed = sorted({key.rpartition("-")[0] for key in truth.keys() - leaks.keys()})
        false = len(leaks) - len(correct)
        rows.append([seed, len(correct), false, ", ".join(missed)])
        figures.append({"seed": seed, "found": len(correct), "false": false, "missed": missed})
    print_table(["seed", f"found of {NUM_COPIES}", "false", "kinds missed"], rows)
    print(write_result("planted_leaks", figures).name)


def write_sets(data: Path, folder: Path, seed: int) -> dict[str, str]:
    """Write the pool and the set to look up; returns the original of every copy by their keys."""
    rng = np.random.default_rng([seed, 17])
    photographs = [content for _, content in read_photographs(data / "imagenet-sample")]
    backgrounds = [content for _, content in read_photographs(data / "imagenette-144")]
    order = rng.permutation(len(photographs))
    strangers, pool = order[:NUM_STRANGERS], order[NUM_STRANGERS:]
    for name, rows in (("pool", pool), ("test", strangers)):
        (folder / name).mkdir()
        for row in rows:
            (folder / name / f"{row:04d}.jpg").write_bytes(photographs[row])
    truth = {}
    for at, row in enumerate(rng.choice(pool, NUM_COPIES, replace=False)):
        kind = KINDS[at % len(KINDS)]
        background = backgrounds[int(rng.integers(len(backgrounds)))]
        key = f"{kind}-{row:04d}"
        copy = edit(kind, photographs[row], rng, background)
        (folder / "test" / f"{key}.jpg").write_bytes(copy)
        truth[key] = f"{row:04d}"
    return truth


def find_leaks(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Run the command; returns what it prints."""
    command = [sys.executable, "-m", "dinoforge", "leaks", folder / "pool", folder / "test"]
    words = [*map(str, command), *overrides, "--out", str(folder / "run"), "--json", "-q"]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


if __name__ == "__main__":
    main()
