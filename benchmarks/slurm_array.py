"""Arrays on a real SLURM: how long 5,000 partitions take to submit, what a wave costs, status.

    python benchmarks/slurm_array.py --partitions 5000 --status 100000 --record

Needs a cluster (``SLURM_CONF``, or the default place). Torch-free partitions that write one small
array each. Figures: seconds to submit, seconds until all are done, sbatch calls; seconds of a wave
(one element, one partition, no work) beyond the same stage in process; seconds of
``dinoforge status`` on a run of ``--status`` partitions.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "slurm"))
import toys

from dinoforge.slurm.control import cancel_run
from dinoforge.slurm.status import read_status
from dinoforge.slurm.store.events import AttemptWriter
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State
from dinoforge.slurm.submit import SubmitRequest, submit
from dinoforge.stages import make_executor, run_pipeline

PROFILE = """\
default: {{partition: {partition}, memory_gb: 0.5, minutes: 30}}
stages: {{square: {{partitions_per_element: {per_element}}}}}
probe: false
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=5000)
    parser.add_argument("--per-element", type=int, default=10)
    parser.add_argument("--status", type=int, default=100_000)
    parser.add_argument("--waves", type=int, default=5)
    parser.add_argument("--partition", default="cpu", help="partition of the cluster")
    parser.add_argument("--folder", type=Path, help="shared folder; default: a temporary one")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = f"{root}:{root / 'tests' / 'slurm'}"
    folder = Path(tempfile.mkdtemp(prefix="slurm-array-", dir=args.folder))
    try:
        figures = {
            "status": measure_status(folder / "status", args.status),
            "wave": measure_wave(folder, args),
            "submission": measure_submission(folder, args),
            "array": measure_array(folder, args),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=1))
    if args.record:
        from recording import write_result

        print(write_result("slurm-array", figures))
    return 0


def measure_status(run: Path, partitions: int) -> dict:
    """Time the status of a stage that is half done, with 1,000 attempts that run and 20 failed."""
    folder = SlurmFolder(run)
    stage = run / "toy" / "10-square"
    stage.mkdir(parents=True)
    folder.root.mkdir()
    folder.write_launch(
        Launch(
            run_id="status-0", command="toy", pipeline="toys:PIPELINE", device="cpu", folder="/",
            python_path=[], python="python", stages={"square": "toy/10-square"},
        )
    )  # fmt: skip
    folder.write_state(State(state="running", stage="square"))
    payloads = [{"low": n, "high": n + 1} for n in range(partitions)]
    (stage / "plan.json").write_text(json.dumps({"payloads": payloads}, indent=1))
    half = partitions // 2
    for index in range(half):
        (stage / f"part-{index:05d}.done").touch()
        (stage / f"part-{index:05d}.values.npy").touch()
    for index in range(half, half + 1000):
        writer = AttemptWriter(folder.attempt("square", index), plan="df-a", job=f"7_{index}")
        writer.start(memory_gb=1, minutes=5)
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        status = read_status(run)
        seconds.append(time.monotonic() - began)
    assert status.stages[0].done == half
    return {
        "partitions": partitions,
        "median_s": round(statistics.median(seconds), 3),
        "least_s": round(min(seconds), 3),
        "asked_slurm": status.asked_slurm,
    }


def measure_wave(folder: Path, args: argparse.Namespace) -> dict:
    """Time runs of two stages of one partition, on the cluster and in process."""
    here, there = [], []
    for number in range(args.waves):
        keys = {"numbers": 1, "per_partition": 1}
        began = time.monotonic()
        run = folder / f"here-{number}"
        config = toys.ToyConfig(out=str(run), **keys)
        run_pipeline(toys.PIPELINE, run, config, make_executor("in-process"))
        here.append(time.monotonic() - began)
        began = time.monotonic()
        start(folder / f"wave-{number}", args, **keys)
        wait(folder / f"wave-{number}")
        there.append(time.monotonic() - began)
    waves = 2  # the element, which does both stages, and the gate that finishes
    imports = imports_s()
    beyond = (statistics.median(there) - statistics.median(here)) / waves - imports
    return {
        "in_process_s": round(statistics.median(here), 3),
        "cluster_s": round(statistics.median(there), 3),
        "waves": waves,
        "imports_s": imports,
        "beyond_imports_per_wave_s": round(beyond, 3),
    }


def imports_s() -> float:
    """Time the start of Python with the imports of an element and of a gate, as they are now."""
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        words = [
            sys.executable,
            "-c",
            "import toys, dinoforge.slurm.node.worker, dinoforge.slurm.driver",
        ]
        subprocess.run(words, check=True)
        seconds.append(time.monotonic() - began)
    return round(statistics.median(seconds), 3)


def measure_submission(folder: Path, args: argparse.Namespace) -> dict:
    """Time the submission with one partition per element, the most that the queue can get."""
    run = folder / "submission"
    one = argparse.Namespace(**(vars(args) | {"per_element": 1}))
    began = time.monotonic()
    start(run, one, numbers=args.partitions, per_partition=1)
    seconds = time.monotonic() - began
    began = time.monotonic()
    cancel_run(run)
    return {
        "elements": args.partitions,
        "submit_s": round(seconds, 2),
        "cancel_s": round(time.monotonic() - began, 2),
    }


def measure_array(folder: Path, args: argparse.Namespace) -> dict:
    run = folder / "array"
    began = time.monotonic()
    start(run, args, numbers=args.partitions, per_partition=1)
    submitted = time.monotonic() - began
    wait(run)
    ended = time.monotonic() - began
    jobs = SlurmFolder(run).submissions.read()
    done = len(list((run / "toy" / "10-square").glob("*.done")))
    kept = json.loads((run / "toy" / "summary.json").read_text())["kept"]
    # Squares of 0 .. n-1 above 3: all but those of 0 and 1.
    assert (done, kept) == (args.partitions, args.partitions - 2)
    return {
        "partitions": args.partitions,
        "per_element": args.per_element,
        "submit_s": round(submitted, 2),
        "all_done_s": round(ended, 1),
        "sbatch_calls": len(jobs),
        "elements": sum(job.elements for job in jobs if job.stage == "square"),
    }


def start(run: Path, args: argparse.Namespace, **keys: int) -> None:
    profile = run.parent / f"{run.name}.yaml"
    profile.write_text(PROFILE.format(partition=args.partition, per_element=args.per_element))
    config = toys.ToyConfig(out=str(run), **keys)
    wish = SubmitRequest(
        command="toy", config=config, profile=str(profile), pipeline="toys:PIPELINE"
    )
    submit(wish)


def wait(run: Path) -> None:
    while (state := SlurmFolder(run).read_state()).state == "running":
        time.sleep(0.1)
    assert state.state == "finished", state


if __name__ == "__main__":
    sys.exit(main())
