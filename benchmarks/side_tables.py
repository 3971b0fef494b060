"""Tables joined to images by a column (`side.tables`): CPU seconds and memory, against the plan.

    python benchmarks/side_tables.py --images 1000000 --columns 20

Images and tables are made up: a row per image, half of the columns text, in the order of the images
and in random order, and what lies beside the images is their uid alone. The stage reads and writes
its tables as in a run; each order is measured in a process of its own. The plan knows the numbers
of images, rows and columns.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conditions import plan
from measuring import start_clean
from recording import write_result

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, SideConfig, SourceConfig
from dinoforge.curation.pipeline import PIPELINE, STAGES
from dinoforge.curation.plan.reading import READING_COSTS
from dinoforge.curation.plan.sizes import Images, Sizes
from dinoforge.curation.stages.measures.side_tables import SideTablesStage
from dinoforge.stages import make_inputs
from dinoforge.stages.stage import Output, part_name
from dinoforge.tables import write_table

FILES = 10  # of the tables
ORDERS = ("images", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--order", choices=ORDERS, help="measure one, and print it")
    args = parser.parse_args()
    if args.order:
        print(json.dumps(measure(args.images, args.columns, args.order)))
        return
    words = [f"--images={args.images}", f"--columns={args.columns}"]
    figures = {
        order: json.loads(
            subprocess.run(
                [sys.executable, __file__, *words, f"--order={order}"],
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        for order in ORDERS
    }
    print(json.dumps(figures, indent=1))
    print(write_result("side_tables", {"images": args.images, "columns": args.columns} | figures))


def measure(num: int, num_columns: int, order: str) -> dict[str, float]:
    start_clean()
    with tempfile.TemporaryDirectory() as folder:
        config = CurationConfig(
            sources=[SourceConfig(paths=["made up"])],
            side=SideConfig(columns=["*"], tables=[f"{folder}/*.parquet"]),
        )
        inputs = make_inputs(PIPELINE.name, STAGES, Path(folder) / "run", config)
        rng = np.random.default_rng(0)
        uids = np.array([f"{number:032x}" for number in rng.permutation(num).tolist()])
        ranges = tables.split_range(num, config.partition_images)
        plan(inputs, "side", len(ranges))
        for part, (start, stop) in enumerate(ranges):
            side = pa.table({"image_id": np.arange(start, stop), "uid": uids[start:stop]})
            path = inputs.folder("side") / part_name(part)
            write_table(path.with_suffix(".side.parquet"), side, side.schema)
            path.with_suffix(".done").write_text('{"facts": {}}')
        rows = np.arange(num) if order == "images" else rng.permutation(num)
        for number, some in enumerate(np.array_split(rows, FILES)):
            write_columns(Path(folder) / f"{number}.parquet", uids, some, num_columns)
        stage = SideTablesStage()
        scoped = inputs.scoped(stage)
        out = Output(Path(folder) / "run", inputs.folder(stage.name), 0)
        out.folder.mkdir(parents=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        payloads = stage.plan(scoped)
        facts = [
            stage.run(payload, scoped, Output(out.run_folder, out.folder, number))
            for number, payload in enumerate(payloads)
        ]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(path.stat().st_size for path in out.folder.iterdir())
        missing = sum(one["in_no_table"] for one in facts)
        assert (sum(one["images"] for one in facts), missing) == (num, 0)
        sizes = Sizes(
            config=config, images=Images(pool=num, side_rows=num, side_columns=num_columns)
        )
        cost = READING_COSTS["side-tables"](sizes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "partitions": len(payloads),
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "bytes": size,
        "memory_mib": (peak - before) >> 10,
        "planned_cpu_s": round(cost.core_s, 2),
        "planned_bytes": round(cost.bytes),
        "planned_memory_mib": round(cost.memory / (1 << 20)),
    }


def write_columns(path: Path, uids: np.ndarray, rows: np.ndarray, num_columns: int) -> None:
    rng = np.random.default_rng(len(rows))
    columns = {"uid": uids[rows]}
    for number in range(num_columns - 1):
        match number % 4:
            case 0:
                columns[f"score{number}"] = rng.random(len(rows), np.float32)
            case 1:
                texts = (f"https://host{x % 97}.example/{x}/picture.jpg" for x in rows.tolist())
                columns[f"url{number}"] = list(texts)
            case 2:
                columns[f"size{number}"] = rng.integers(32, 4000, len(rows), np.int32)
            case 3:
                columns[f"text{number}"] = [f"a picture of number {x}, in words" for x in rows]
    pq.write_table(pa.table(columns), path, row_group_size=50_000)


if __name__ == "__main__":
    main()
