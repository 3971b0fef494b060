"""A curation as arrays on a real SLURM against the same one in process: equal bytes, and times.

    python benchmarks/slurm_curation.py --profile profile.yaml --record cifar10_cpu

Needs a cluster (``SLURM_CONF``, or the default place) that sees the working folder. Exit 1 when a
table, an array, a shard or a marker (outside ``measured``) differs.
"""

import argparse
import collections
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill import state
from recording import write_result

from dinoforge.slurm.store.layout import SlurmFolder

RESULTS = ("curation", "shards")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--folder", type=Path, help="shared folder; default: a temporary one")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("words", nargs="+", help="recipe, key=value ...")
    args = parser.parse_intermixed_args()
    folder = Path(tempfile.mkdtemp(prefix="slurm-curation-", dir=args.folder))
    try:
        on_slurm = ["--on", f"slurm:{args.profile}", "--wait"]
        figures = {
            "arrays_s": curate(args.words, folder / "arrays", *on_slurm),
            "in_process_s": curate(args.words, folder / "here"),
            **jobs(folder / "arrays"),
            **compare(folder),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=1))
    if args.record:
        print(write_result("slurm-curation", figures))
    return 1 if figures["different"] else 0


def curate(words: list[str], out: Path, *options: str) -> float:
    started = time.monotonic()
    command = [sys.executable, "-m", "dinoforge", "curate", *words, f"out={out}", *options, "-q"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return round(time.monotonic() - started, 1)


def jobs(run: Path) -> dict[str, object]:
    """Count what was submitted, and where it ran."""
    sent = SlurmFolder(run).submissions.read()
    markers = [json.loads(path.read_text()) for path in run.rglob("*.done")]
    return {
        "submissions": dict(collections.Counter(entry.kind for entry in sent)),
        "elements": sum(entry.elements for entry in sent if entry.kind == "array"),
        "partitions": len(markers),
        "nodes": len({marker["measured"]["host"] for marker in markers}),
    }


def compare(folder: Path) -> dict[str, object]:
    arrays, here = (
        {name: value for name, value in state(folder / which).items() if is_result(name)}
        for which in ("arrays", "here")
    )
    names = sorted(arrays.keys() | here.keys())
    different = [name for name in names if arrays.get(name) != here.get(name)]
    return {"files": len(here), "different": different}


def is_result(name: str) -> bool:
    return Path(name).parts[0] in RESULTS


if __name__ == "__main__":
    sys.exit(main())
