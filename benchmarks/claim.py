"""Does curation pay? Table 2 of DINOv2 in small: six arms at equal training compute.

    python benchmarks/claim.py cifar10 ../shared/data runs/claim --steps 2500
    python benchmarks/claim.py cifar10 ../shared/data runs/claim --foreign 0.5 --arms raw curated
    python benchmarks/claim.py photographs ../shared/data runs/claim

One dirty pool (`claim_pools.py`) is trained on as it is (raw), and as `dinoforge curate` leaves it:
deduplicated alone, with a threshold far too low, or deduplicated and retrieved by seeds (curated).
Beside them a random choice as large as the curated one, and the images before they got dirty
(clean). `dinoforge train` gives each the same steps, `dinoforge evaluate` measures them, and
`dinoforge compare` pairs them over test images. An interval over seeds is added to that.

Whatever is finished stays: run it again to go on. Runs are in order of seeds, so that what is
finished is balanced; ``--seeds 2 --arms raw`` is one of them.
"""

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import claim_pools
import numpy as np
from recording import write_result
from scipy import stats

from dinoforge.curated import ledger_path, summary_path
from dinoforge.records import read_records
from dinoforge.tables import read_table

ARMS = ("raw", "random", "deduplicated", "overdeduplicated", "curated", "clean")
# Keys of the curations; their recipe is that of the pool.
ONLY_POOL = ("sources=[{role: pool, name: crawl, paths: [pool.tar]}]", "retrieve.mode=none")
CURATIONS = {
    "deduplicated": ONLY_POOL,
    # The threshold is far too low, and components are not taken apart.
    "overdeduplicated": (
        *ONLY_POOL,
        "duplicates.threshold=0.5",
        "duplicates.floor=0.5",
        "duplicates.max_component=0",
    ),
    "curated": (),
}
FEATURES, K = "both", 20
MAX_SIDE = 48  # photographs are cropped to 32 pixels


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One comparison: a pool, and how long each arm is trained."""

    name: str  # cifar10, photographs
    data: Path
    folder: Path  # of this comparison
    dirt: dict[str, float]  # keywords of `claim_pools.cifar10`
    steps: int
    batch: int

    @property
    def pool(self) -> Path:
        """Folder of the pool and its curations; the comparisons of one pool share it."""
        parts = [self.name, *(f"{name}-{value:g}" for name, value in self.dirt.items())]
        return self.folder / "pools" / "-".join(parts)

    def run(self, arm: str, seed: int) -> Path:
        """Folder of a training and its evaluation; clean ones do not depend on the dirt."""
        of = self.name if arm == "clean" else self.pool.name
        return self.folder / "runs" / f"{of}-{self.steps}x{self.batch}" / arm / f"seed-{seed}"


def dinoforge(words: Sequence[str], folder: Path) -> None:
    """Run a command in a folder, on one thread; its output goes to ``log.txt`` there."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "dinoforge", *words]
        rc = subprocess.call(command, cwd=folder, stdout=log, stderr=log, env=environment)
    if rc:
        lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
        sys.exit(f"dinoforge {words[0]} exited with {rc}: {lines[-1]}")


def prepare(claim: Claim, arm: str) -> str:
    """Make what an arm trains on, unless it is there; return its path."""
    folder = claim.pool
    if not (folder / "pool.tar").is_file():  # written last
        make = getattr(claim_pools, claim.name)
        make(claim.data, **claim.dirt).write(folder)
    if arm in {"raw", "clean"}:
        return str(folder / f"{'pool' if arm == 'raw' else arm}.tar")
    if arm == "random":
        if not (folder / "random.tar").is_file():
            write_random_subset(claim)
        return str(folder / "random.tar")
    if not summary_path(folder / arm).is_file():
        dinoforge(["curate", f"claim_{claim.name}", *CURATIONS[arm], f"out={arm}"], folder)
    return str(folder / arm)


def write_random_subset(claim: Claim) -> None:
    """Write as many random images of the pool as were curated."""
    curated = Path(prepare(claim, "curated"))
    count = json.loads(summary_path(curated).read_text(encoding="utf-8"))["kept"]
    images = claim_pools.read_labeled([claim.pool / "pool.tar"])
    chosen = np.random.default_rng(0).choice(len(images), count, replace=False)
    claim_pools.write_tar(claim.pool / "random.tar", [images[at] for at in chosen])


def train_words(claim: Claim, seed: int, path: str, out: Path) -> list[str]:
    # Patches of 16 pixels and no iBOT: as good in half of the time, in runs as short as these.
    recipe = ["cifar10_cpu", "model.patch_size=16", "loss.ibot=0", f"data.max_side={MAX_SIDE}"]
    every = [f"checkpoint.{key}={claim.steps}" for key in ("every", "export_every")]
    return [
        *("train", *recipe, f"steps={claim.steps}", f"batch_size={claim.batch}", f"seed={seed}"),
        *(*every, "threads=1", f"data.paths=[{path}]", f"out={out}"),
    ]


def evaluate_words(claim: Claim, checkpoint: Path, out: Path) -> list[str]:
    """Evaluate on test images that no arm trains on; banks are labeled, and equal for all arms."""
    data, pool = claim.data.resolve(), claim.pool
    if claim.name == "cifar10":
        # 10,000 of the 50,000 labeled images: the arms are compared, at a fifth of the cost.
        shards = [f"{data}/cifar10/cifar10-{part}-000000.tar.gz" for part in ("train", "test")]
        sets = [f"{key}=[{shard}]" for key, shard in zip(("train", "test"), shards, strict=True)]
        sets = ["cifar10_cpu", "name=cifar10", *sets]
    else:
        shards = [f"{data}/imagenette-144/imagenette144-{p}-000000.tar" for p in ("train", "val")]
        animals = [str(pool / f"animals4-{part}.tar") for part in ("train", "test")]
        sets = ["imagenette144", "name=imagenette", f"train=[{shards[0]}]", f"test=[{shards[1]}]"]
        sets += [f"sets={{animals4: {{train: [{animals[0]}], test: [{animals[1]}]}}}}"]
    return [
        *("evaluate", *sets, "protocols=[knn,logistic]", f"features=[{FEATURES}]", "baselines=[]"),
        *(f"knn.k=[{K}]", "logistic={c_min: 0.01, c_max: 100, c_count: 5}", "batch_size=64"),
        *(f"checkpoint={checkpoint}", f"out={out}"),
    ]


def run_arm(claim: Claim, arm: str, seed: int) -> None:
    """Train and evaluate one arm with one seed; nothing is done twice."""
    folder = claim.run(arm, seed).resolve()
    if (folder / "evaluation/records.jsonl").is_file():
        return
    path = Path(prepare(claim, arm)).resolve()
    dinoforge(train_words(claim, seed, str(path), folder / "training"), folder)
    export = folder / f"training/export/step-{claim.steps:09d}/model.safetensors"
    dinoforge(evaluate_words(claim, export, folder / "evaluation"), folder)
    shutil.rmtree(folder / "training/checkpoints", ignore_errors=True)
    print(f"{claim.pool.name}: {arm}, seed {seed}: {scores(folder)}", flush=True)


def scores(folder: Path) -> dict[str, float]:
    """Return the accuracy of a finished run per benchmark."""
    records = read_records(folder / "evaluation/records.jsonl")
    return {r.benchmark: r.value for r in records if r.metric == "accuracy"}


def contents(claim: Claim, arm: str) -> dict[str, int]:
    """Count what an arm trains on by the names of its images."""
    path = Path(prepare(claim, arm))
    if path.is_dir():
        rows = read_table(ledger_path(path), ["key", "decision"]).to_pylist()
        names = [row["key"] for row in rows if row["decision"] == "kept"]
    else:
        names = [image.name for image in claim_pools.read_labeled([path])]
    kinds = Counter(name.partition("-")[0] for name in names)
    distinct = {name.split("-")[1] for name in names if not name.startswith("foreign")}
    distinct = {number for number in distinct if number.isdigit()}  # others: copies of foreign ones
    return {"images": len(names), **{kind: kinds[kind] for kind in ("own", "copy", "foreign")},
            "distinct": len(distinct)}  # fmt: skip


def over_seeds(values: dict[str, list[float]], baseline: str) -> dict[str, dict[str, Any]]:
    """Differences to a baseline with 95 % intervals over seeds.

    Student's t in a layout of arms x seeds without repetition: the arms of a seed share its
    weights and order, and the noise that is left is estimated from all arms together, with
    ``(arms - 1) (seeds - 1)`` degrees of freedom. Of one seed there is no interval.
    """
    table = np.array(list(values.values()))
    arms, seeds = table.shape
    noise = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (arms - 1) * (seeds - 1)
    half = np.inf
    if freedom:
        deviation = np.sqrt((noise**2).sum() / freedom)
        half = float(stats.t.ppf(0.975, freedom) * deviation * np.sqrt(2 / seeds))
    result = {}
    for arm, of_arm in values.items():
        each = (np.array(of_arm) - np.array(values[baseline])).round(4)
        mean = float(each.mean())
        interval = [round(mean - half, 4), round(mean + half, 4)] if freedom else None
        result[arm] = {"value": round(mean, 4), "each": each.tolist(), "over_seeds": interval}
    return result


def over_images(runs: dict[str, list[Path]], baseline: str) -> dict[tuple[str, str], list[float]]:
    """Differences to a baseline, paired over test images, by `dinoforge compare`."""
    words = [f"{arm}={f / 'evaluation'}" for arm, folders in runs.items() for f in folders]
    words += ["--baseline", baseline, "--features", FEATURES, "--k", str(K), "--no-published"]
    command = [sys.executable, "-m", "dinoforge", "compare", *words, "--format", "csv"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = csv.DictReader(io.StringIO(text))
    return {
        (row["benchmark"], row["model"]): [round(float(row[end]), 4) for end in ("low", "high")]
        for row in rows
        if row["kind"] == "difference"
    }


def tabulate(claim: Claim, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Read the seeds that all arms have finished: scores and differences per benchmark."""
    finished = [
        seed
        for seed in seeds
        if all((claim.run(arm, seed) / "evaluation/records.jsonl").is_file() for arm in arms)
    ]
    figures: dict[str, Any] = {
        "dirt": claim.dirt,
        "steps": claim.steps,
        "batch": claim.batch,
        "seeds": finished,
        "contents": {arm: contents(claim, arm) for arm in arms},
        "benchmarks": {},
    }
    if not finished:
        return figures
    runs = {arm: [claim.run(arm, seed) for seed in finished] for arm in arms}
    values = {arm: [scores(folder) for folder in folders] for arm, folders in runs.items()}
    images = {base: over_images(runs, base) for base in ("raw", "curated") if base in arms}
    for benchmark in values[arms[0]][0]:
        of = {arm: [one[benchmark] for one in each] for arm, each in values.items()}
        entry: dict[str, Any] = {"accuracy": of}
        for base, intervals in images.items():
            entry[f"minus_{base}"] = {
                arm: difference | {"over_images": intervals[benchmark, arm]}
                for arm, difference in over_seeds(of, base).items()
                if arm != base
            }
        figures["benchmarks"][benchmark] = entry
    return figures


def print_table(figures: dict[str, Any]) -> None:
    for benchmark, entry in figures["benchmarks"].items():
        print(f"\n{benchmark}, seeds {figures['seeds']}: points against raw, against curated")
        for arm, values in entry["accuracy"].items():
            line = f"{arm:17s} {figures['contents'][arm]['images']:6d} images {np.mean(values):.4f}"
            for base in ("raw", "curated"):
                if d := entry.get(f"minus_{base}", {}).get(arm):
                    line += f" | {base} {d['value']:+.4f}"
                    line += f" images {d['over_images']} seeds {d['over_seeds']}"
            print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", choices=("cifar10", "photographs"))
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("folder", type=Path, help="of pools, curations and runs")
    parser.add_argument("--foreign", type=float, default=0.8, help="share of the pool (cifar10)")
    parser.add_argument("--imbalance", type=float, default=100, help="largest / smallest class")
    parser.add_argument("--each", type=int, default=6, help="copies of each copied image")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time")
    parser.add_argument("--record", metavar="TOPIC", help="write the table to results/")
    args = parser.parse_args()
    dirt = {"foreign": args.foreign, "imbalance": args.imbalance, "each": args.each}
    claim = Claim(
        name=args.pool,
        data=args.data,
        folder=args.folder.resolve(),
        dirt=dirt if args.pool == "cifar10" else {},
        steps=args.steps,
        batch=args.batch,
    )
    for arm in args.arms:
        prepare(claim, arm)
    with ThreadPoolExecutor(args.workers) as executor:
        runs = [executor.submit(run_arm, claim, a, s) for s in args.seeds for a in args.arms]
        for run in runs:
            run.result()
    figures = tabulate(claim, args.arms, args.seeds)
    print_table(figures)
    if args.record:
        print(write_result(args.record, figures).name)


if __name__ == "__main__":
    main()
