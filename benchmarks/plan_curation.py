"""``dinoforge plan`` of curations against finished runs: ratios planned / measured, by stage.

    python benchmarks/plan_curation.py runs/cifar10-curated runs/precise

The plan gets what it cannot know of a data set, counted in the run: images by role, mean bytes and
pixels, how well keys compress. Measured: partitions, files and bytes of all outputs, CPU seconds,
from the markers. A run in one process with one thread (OMP_NUM_THREADS=1) is comparable. The last
column divides the ratios of CPU seconds by their median, the speed of this machine.
"""

import argparse
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from measuring import print_table
from recording import write_result

from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.plan import Images, StagePlan, plan_curation
from dinoforge.device import GPUS
from dinoforge.tables import read_table, read_tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    runs = {run.name: compare(run) for run in args.runs}
    # Plans are in seconds of one core; how much faster this one is shows in all stages alike.
    every = [row["ratio"]["cpu_s"] for rows in runs.values() for row in rows]
    speed = statistics.median(ratio for ratio in every if ratio)
    for name, rows in runs.items():
        print(name)
        for row in rows:
            ratio = row["ratio"]["cpu_s"]
            row["ratio"]["cpu_s_at_speed"] = ratio and round(ratio / speed, 3)
        header = ["stage", "partitions", "planned", "files", "bytes", "CPU s", "planned", "ratio"]
        shown = [[*r.pop("shown"), r["ratio"]["cpu_s_at_speed"] or ""] for r in rows]
        print_table(
            [*header, "at speed"],
            [[r["stage"], *cells] for r, cells in zip(rows, shown, strict=True)],
        )
    print(f"this core is {speed:.2f} times as fast as that of the plan")
    print(write_result("plan_curation", {"speed": round(speed, 3), "runs": runs}).name)


def compare(run: Path) -> list[dict[str, Any]]:
    config = load_config(CurationConfig, run / "config.yaml")
    plan = plan_curation(config, images_of(run), gpu=GPUS["h100"])
    planned = {stage.stage: stage for stage in plan.stages}
    measured = {stage.name: read_markers(run, stage.number, stage.name) for stage in STAGES}
    if missing := {n for n, m in measured.items() if m["partitions"]} ^ planned.keys():
        raise SystemExit(f"planned or measured alone: {', '.join(sorted(missing))}")
    return [ratios_of(one, measured[name]) for name, one in planned.items()]


def images_of(run: Path) -> Images:
    listed = read_table(run / "curation/10-ingest/part-00000.index.parquet")
    files = sorted((run / "curation/20-inspect").glob("*.facts.parquet"))
    facts = read_tables(files, ["width", "height"])
    roles = Counter(listed.column("role").to_pylist())
    named = {
        role: Counter(
            listed.filter(pc.equal(listed.column("role"), role)).column("source").to_pylist()
        )
        for role in ("seed", "reference", "as_is")
    }
    keys = "\n".join(listed.column("key").to_pylist()).encode()
    pixels = pc.multiply(facts.column("width"), facts.column("height"))
    return Images(
        pool=roles["pool"],
        seeds=named["seed"],
        references=named["reference"],
        as_is=named["as_is"],
        file_bytes=pc.mean(listed.column("size")).as_py(),
        pixels=pc.mean(pixels).as_py(),
        key_bytes=len(pa.compress(keys, codec="zstd")) / listed.num_rows,
    )


def read_markers(run: Path, number: int, name: str) -> dict[str, Any]:
    folder = run / "curation" / f"{number:02d}-{name}"
    markers = [json.loads(path.read_text()) for path in folder.glob("part-*.done")]
    outputs = [output for marker in markers for output in marker["outputs"]]
    return {
        "partitions": len(markers),
        "files": len(outputs) + len(markers) + 1,
        "bytes": sum(output["bytes"] for output in outputs),
        "cpu_s": sum(marker["measured"]["cpu_seconds"] for marker in markers),
    }


def ratios_of(planned: StagePlan, measured: dict[str, Any]) -> dict[str, Any]:
    ratio = {name: getattr(planned, name) / measured[name] for name in ("files", "bytes")}
    cpu_s = None if planned.core_hours is None else planned.core_hours * 3600
    # Of less than a second the clock and the imports are a good part.
    is_long = cpu_s is not None and measured["cpu_s"] >= 1
    ratio["cpu_s"] = cpu_s / measured["cpu_s"] if is_long and cpu_s is not None else None
    shown = [measured["partitions"], planned.partitions, f"{ratio['files']:.2f}"]
    shown += [f"{ratio['bytes']:.2f}", f"{measured['cpu_s']:.2f}"]
    shown += ["-" if cpu_s is None else f"{cpu_s:.2f}"]
    shown += ["" if ratio["cpu_s"] is None else f"{ratio['cpu_s']:.2f}"]
    return {
        "stage": planned.stage,
        "measured": measured,
        "planned": {"partitions": planned.partitions, "cpu_s": cpu_s and round(cpu_s, 3)},
        "ratio": {name: value and round(value, 3) for name, value in ratio.items()},
        "shown": shown,
    }


if __name__ == "__main__":
    main()
