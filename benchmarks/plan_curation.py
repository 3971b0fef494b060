"""``dinoforge plan`` of curations against finished runs: ratios planned / measured, by stage.

    python benchmarks/plan_curation.py runs/cifar10-curated runs/precise
    python benchmarks/plan_curation.py runs/precise --trials runs/precise-400

The plan gets what it cannot know of a data set, counted in the run: images by role, mean bytes and
pixels, how well keys compress. Measured: partitions, files and bytes of all outputs, CPU seconds,
from the markers. A run in one process with one thread (OMP_NUM_THREADS=1) is comparable.

Plans are in seconds of one core. Machines differ in two speeds: of arithmetic on arrays (products,
transforms) and of all else (decoding, tables, Python). Both are fitted here, each as the median
over the stages that consist of it, and the last column has the ratios at these speeds. Nothing is
fitted where a plan is corrected by a trial, a finished curation of a sample of the same images.
"""

import argparse
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring import print_table
from recording import write_result

from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.plan import StagePlan, Trial, plan_curation, read_trial
from dinoforge.curation.plan.trial import Measured
from dinoforge.device import GPUS

# Stages that spend most of their time in products and transforms of arrays.
ARRAYS = {"graph", "assign", "recall", "search", "clusters", "keypoints", "votes-index"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--trials", nargs="+", type=Path, metavar="RUN", help="one per run")
    args = parser.parse_args()
    trials = [read_trial(trial) for trial in args.trials or ()] or [None] * len(args.runs)
    pairs = zip(args.runs, trials, strict=True)
    runs = {run.name: compare(run, trial) for run, trial in pairs}
    long = [row for rows in runs.values() for row in rows if row["ratio"]["cpu_s"]]
    speeds = {
        kind: 1.0
        if args.trials
        else statistics.median(row["ratio"]["cpu_s"] for row in long if row["kind"] == kind)
        for kind in ("arrays", "other")
    }
    for name, rows in runs.items():
        print(name)
        for row in rows:
            ratio = row["ratio"]["cpu_s"]
            row["ratio"]["cpu_s_at_speed"] = ratio and round(ratio / speeds[row["kind"]], 3)
        header = ["stage", "partitions", "planned", "files", "bytes", "CPU s", "planned", "ratio"]
        shown = [[*r.pop("shown"), r["ratio"]["cpu_s_at_speed"] or ""] for r in rows]
        print_table(
            [*header, "at speed"],
            [[r["stage"], *cells] for r, cells in zip(rows, shown, strict=True)],
        )
    if not args.trials:
        print(
            f"this core is {speeds['arrays']:.2f} times as fast on arrays as that of the plan, "
            f"{speeds['other']:.2f} times else"
        )
    figures = {"speeds": {kind: round(speed, 3) for kind, speed in speeds.items()}, "runs": runs}
    print(write_result("plan_curation-trials" if args.trials else "plan_curation", figures).name)


def compare(run: Path, trial: Trial | None) -> list[dict[str, Any]]:
    config = load_config(CurationConfig, run / "config.yaml")
    of_run = read_trial(run)
    plan = plan_curation(config, of_run.images, gpu=GPUS["h100"], trial=trial)
    planned = {stage.stage: stage for stage in plan.stages}
    if missing := of_run.measured.keys() ^ planned.keys():
        raise SystemExit(f"planned or measured alone: {', '.join(sorted(missing))}")
    return [ratios_of(one, of_run.measured[name]) for name, one in planned.items()]


def ratios_of(planned: StagePlan, measured: Measured) -> dict[str, Any]:
    ratio = {name: getattr(planned, name) / getattr(measured, name) for name in ("files", "bytes")}
    cpu_s = None if planned.core_hours is None else planned.core_hours * 3600
    # Of less than a second the clock and the imports are a good part.
    is_long = cpu_s is not None and measured.cpu_s >= 1
    ratio["cpu_s"] = cpu_s / measured.cpu_s if is_long and cpu_s is not None else None
    shown = [measured.partitions, planned.partitions, f"{ratio['files']:.2f}"]
    shown += [f"{ratio['bytes']:.2f}", f"{measured.cpu_s:.2f}"]
    shown += ["-" if cpu_s is None else f"{cpu_s:.2f}"]
    shown += ["" if ratio["cpu_s"] is None else f"{ratio['cpu_s']:.2f}"]
    return {
        "stage": planned.stage,
        "kind": "arrays" if planned.stage in ARRAYS else "other",
        "measured": asdict(measured),
        "planned": {"partitions": planned.partitions, "cpu_s": cpu_s and round(cpu_s, 3)},
        "ratio": {name: value and round(value, 3) for name, value in ratio.items()},
        "shown": shown,
    }


if __name__ == "__main__":
    main()
