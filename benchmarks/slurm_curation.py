"""A curation as arrays on a real SLURM against the same one in process: equal bytes, and times.

    python benchmarks/slurm_curation.py --profile profile.yaml --record cifar10_cpu
    python benchmarks/slurm_curation.py --profile profile.yaml --kills 10 wide.yaml

Needs a cluster (``SLURM_CONF``, or the default place) that sees the working folder; one on this
machine for ``--kills``, which ends that many array elements by SIGKILL while they run. Exit 1 when
a table, an array, a shard or a marker (outside ``measured``) differs.
"""

import argparse
import collections
import datetime
import itertools
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kill import state
from recording import write_result

from dinoforge.slurm.cluster.limits import max_array_size
from dinoforge.slurm.store.events import read_lines
from dinoforge.slurm.store.layout import SlurmFolder

RESULTS = ("curation", "shards")
STATUS_EVERY_S = 15.0
_MOST_NAMED = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--folder", type=Path, help="shared folder; default: a temporary one")
    parser.add_argument("--kills", type=int, default=0, help="elements to end by SIGKILL")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--name", default="slurm-curation", help="of the record")
    parser.add_argument("words", nargs="+", help="recipe, key=value ...")
    args = parser.parse_intermixed_args()
    folder = Path(tempfile.mkdtemp(prefix="slurm-curation-", dir=args.folder))
    try:
        on_slurm = ["--on", f"slurm:{args.profile}", "--wait"]
        started = time.monotonic()
        process = start(args.words, folder / "arrays", *on_slurm)
        watched = watch(process, folder / "arrays", args.kills)
        figures = {
            "arrays_s": round(time.monotonic() - started, 1),
            # All children so far: the command that submits and waits is the largest by far.
            "login_peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
            **watched,
            **jobs(folder / "arrays"),
        }
        started = time.monotonic()
        if code := start(args.words, folder / "here").wait():
            raise SystemExit(f"the run in process ended with {code}")
        figures |= {"in_process_s": round(time.monotonic() - started, 1), **compare(folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=1))
    if args.record:
        print(write_result(args.name, figures))
    return 1 if figures["different"] else 0


def start(words: list[str], out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dinoforge", "curate", *words, f"out={out}", *options, "-q"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def watch(process: subprocess.Popen, run: Path, kills: int) -> dict[str, object]:
    """Wait for the command; meanwhile time ``dinoforge status`` and kill elements, if asked."""
    draw, seconds, lines = random.Random(0), [], []
    killed: list[str] = []
    while process.poll() is None:
        if (run / "slurm" / "launch.json").exists():
            began = time.monotonic()
            words = [sys.executable, "-m", "dinoforge", "status", str(run)]
            shown = subprocess.run(words, check=False, capture_output=True, text=True)
            seconds.append(time.monotonic() - began)
            lines.append(len(shown.stdout.splitlines()))
            # Twice per stage: a third failure without progress in between stops a run.
            elements = {
                pid: stage for pid, stage in running_elements(run) if killed.count(stage) < 2
            }
            if len(killed) < kills and elements:
                pid = draw.choice(sorted(elements))
                os.kill(pid, signal.SIGKILL)
                killed.append(elements[pid])
        time.sleep(STATUS_EVERY_S)
    if process.returncode:
        raise SystemExit(f"the run on the cluster ended with {process.returncode}")
    return {
        "status_median_s": round(statistics.median(seconds), 2),
        "status_most_s": round(max(seconds), 2),
        "status_most_lines": max(lines),
        "killed": dict(collections.Counter(killed)),
    }


def running_elements(run: Path) -> Iterator[tuple[int, str]]:
    """Find the array elements of a run on this machine: process id, stage."""
    folder = SlurmFolder(run)
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue  # no process, or it ended
        if entry.name.isdigit() and "dinoforge.slurm.node.worker" in words and str(run) in words:
            yield int(entry.name), folder.read_plan(words[-2]).stage


def jobs(run: Path) -> dict[str, object]:
    """Count what was submitted, where it ran, what was repeated, and what it left."""
    folder = SlurmFolder(run)
    sent = folder.submissions.read()
    arrays = [entry for entry in sent if entry.kind == "array" and entry.job]
    stages: dict[str, int] = {}
    nodes = set()
    for marker in sorted((run / "curation").glob("*/part-*.done")):
        facts = json.loads(marker.read_text())
        stages[facts["stage"]] = stages.get(facts["stage"], 0) + 1
        nodes.add(facts["measured"]["host"])
    attempts = [
        (path.parent.name, read_lines(path)) for path in folder.attempts.glob("*/part-*.jsonl")
    ]
    repeated = collections.Counter(
        stage
        for stage, lines in attempts
        if len({line["plan"] for line in lines if line["event"] == "start"}) > 1
    )
    return {
        "submissions": dict(collections.Counter(entry.kind for entry in sent)),
        "max_array_size": max_array_size(),
        "largest_array": max(entry.elements for entry in arrays),
        "elements": sum(entry.elements for entry in arrays),
        "partitions": sum(stages.values()),
        "partitions_of": stages,
        "repeated_partitions": dict(repeated),
        "gap_between_stages_median_s": gaps(run, attempts),
        "nodes": len(nodes),
        "files": sum(1 for path in run.rglob("*") if path.is_file()),
        "slurm_files": sum(1 for path in folder.root.rglob("*") if path.is_file()),
        "log_lines": sum(len(path.read_text().splitlines()) for path in run.glob("log/*.txt")),
        "element_log_lines": sum(
            len(path.read_text(errors="replace").splitlines()) for path in folder.logs.glob("*")
        ),
    }


def gaps(run: Path, attempts: list[tuple[str, list[dict]]]) -> float:
    """Seconds from the last marker of a stage to the first start in the next, median."""
    begins: dict[str, float] = {}
    for stage, lines in attempts:
        first = datetime.datetime.fromisoformat(lines[0]["time"]).timestamp()
        begins[stage] = min(begins.get(stage, first), first)
    ends = {
        stage: max(path.stat().st_mtime for path in run.glob(f"curation/*-{stage}/part-*.done"))
        for stage in begins
    }
    order = sorted(begins, key=lambda stage: begins[stage])
    return round(
        statistics.median(
            begins[after] - ends[before]
            for before, after in itertools.pairwise(order)
            if ends[before] < begins[after]
        ),
        1,
    )


def compare(folder: Path) -> dict[str, object]:
    arrays, here = (
        {name: value for name, value in state(folder / which).items() if is_result(name)}
        for which in ("arrays", "here")
    )
    names = sorted(arrays.keys() | here.keys())
    different = [name for name in names if arrays.get(name) != here.get(name)]
    return {
        "files_compared": len(here),
        "num_different": len(different),
        "different": different[:_MOST_NAMED],
    }


def is_result(name: str) -> bool:
    return Path(name).parts[0] in RESULTS


if __name__ == "__main__":
    sys.exit(main())
