"""Curation without the encoder: images per CPU second stage by stage, and peak memory.

    python benchmarks/curate_cifar10.py cifar10_cpu retrieve.encoder= --against ../before

``--against`` names another checkout, whose curation runs in turn with this one.

Runs ``dinoforge curate RECIPE key=value ... out=TEMPORARY --on in-process`` in one process of its
own and reads what the markers of the stages measured. Stages ``embed*`` are the encoder: left out
of the rate. What no marker covers (planning, uncompressing, start of Python) is in "rest".
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import blas, print_table, run_child, spread, start_clean
from recording import write_result


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="TREE", help="a checkout to compare with")
    parser.add_argument("words", nargs="+", metavar="WORD", help="recipe, key=value ...")
    args = parser.parse_args()
    tree = Path(__file__).resolve().parents[1]
    runs, others = [], []
    for _ in range(args.rounds):
        runs.append(curate(args.words, tree))
        if args.against:
            others.append(curate(args.words, args.against.resolve()))
    figures = {
        "images": runs[0]["images"],
        "rounds": args.rounds,
        "images_per_cpu_s": spread([run["images"] / run["cpu_s"] for run in runs], 1),
        "cpu_s": spread([run["cpu_s"] for run in runs]),
        "encoder_cpu_s": spread([run["encoder_cpu_s"] for run in runs]),
        "peak_mib": spread([run["peak_mib"] for run in runs], 0),
        "on": f"in-process, {os.environ['OMP_NUM_THREADS']} thread",
        "stages": [together(stages) for stages in zip(*(r["stages"] for r in runs), strict=True)],
        "blas": blas(),
    }
    if others:
        pairs = zip(others, runs, strict=True)
        figures["against"] = {
            "commit": commit_of(args.against),
            "cpu_s": spread([run["cpu_s"] for run in others]),
            "ratio": spread([other["cpu_s"] / run["cpu_s"] for other, run in pairs]),
        }
    rows = [
        [s["stage"], s["partitions"], *(f"{s['cpu_s'][k]:.2f}" for k in ("median", "min", "max"))]
        for s in figures["stages"]
    ]
    print_table(["stage", "partitions", "CPU s", "min", "max"], rows)
    rate, peak = figures["images_per_cpu_s"], figures["peak_mib"]["median"]
    print(f"{figures['images']:,} images, peak {peak:.0f} MiB; without the encoder:")
    print(f"{rate['median']:.0f} [{rate['min']:.0f}..{rate['max']:.0f}] images per CPU second")
    if others:
        print(f"rate against {figures['against']['commit']}: {figures['against']['ratio']}")
    print(write_result("curation", figures).name)


def commit_of(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def curate(words: list[str], tree: Path) -> dict[str, Any]:
    """Run the command of a checkout once, in a process and a folder of its own."""
    os.environ["PYTHONPATH"] = str(tree)
    folder = Path(tempfile.mkdtemp(prefix="curation-"))
    try:
        # -P: the tree of PYTHONPATH, not that of the working directory.
        command = ["-P", "-m", "dinoforge", "curate", *words, f"out={folder / 'run'}", "-q"]
        cpu_s, peak_mib = run_child([sys.executable, *command], stdout=os.devnull)
        folders = sorted(path for path in (folder / "run/curation").iterdir() if path.is_dir())
        stages = [stage for stage in map(read_stage, folders) if stage["partitions"]]
        summary = json.loads((folder / "run/published/summary.json").read_text())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    encoder = sum(s["cpu_s"] for s in stages if s["stage"].partition("-")[2].startswith("embed"))
    rest = cpu_s - sum(stage["cpu_s"] for stage in stages)
    return {
        "images": summary["images"],
        "cpu_s": cpu_s - encoder,
        "encoder_cpu_s": encoder,
        "peak_mib": max(peak_mib, *(stage["peak_mib"] for stage in stages)),
        "stages": [*stages, {"stage": "rest", "partitions": 0, "cpu_s": rest}],
    }


def read_stage(folder: Path) -> dict[str, Any]:
    markers = [json.loads(path.read_text()) for path in sorted(folder.glob("part-*.done"))]
    return {
        "stage": folder.name,
        "partitions": len(markers),
        "cpu_s": sum(marker["measured"]["cpu_seconds"] for marker in markers),
        "peak_mib": max((m["measured"]["peak_rss_mib"] for m in markers), default=0),
    }


def together(stages: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return stages[0] | {"cpu_s": spread([stage["cpu_s"] for stage in stages])}


if __name__ == "__main__":
    main()
