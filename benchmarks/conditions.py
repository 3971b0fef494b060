"""The filter over side data: seconds for a million images, through the stage itself.

    python benchmarks/conditions.py --images 1000000

Index, facts and side data are made up (four columns of side data, in partitions as a run has them);
the stage reads, compares, and writes its tables as in a run. The bar is 5 s of wall time; on a
shared machine, measure it with ``--first`` (root).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from measuring import run_first, start_clean
from recording import write_result

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig, FilterConfig, SideConfig, SourceConfig
from dinoforge.curation.pipeline import PIPELINE, STAGES
from dinoforge.curation.stages.filter import FilterStage
from dinoforge.curation.tables import CurationInputs
from dinoforge.stages import make_inputs
from dinoforge.stages.stage import Output, part_name
from dinoforge.tables import write_table

WHERE = "punsafe < 0.1 and width >= 64 and not url.contains('99') and similarity > 0.2"
SIZE = 4096


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--first", action="store_true", help="scheduled before other processes")
    args = parser.parse_args()
    config = CurationConfig(
        sources=[SourceConfig(paths=["made up"])],
        side=SideConfig(columns=["*"]),
        filter=FilterConfig(where=WHERE),
    )
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(PIPELINE.name, STAGES, Path(folder), config)
        write_tables(inputs, args.images)
        stage = FilterStage()
        out = Output(Path(folder), inputs.folder(stage.name), 0)
        out.folder.mkdir(parents=True)
        if args.first:
            run_first()
        wall, cpu = time.perf_counter(), time.process_time()
        facts = stage.run({}, inputs.scoped(stage), out)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {"images": args.images, "where": WHERE, "wall_s": wall, "cpu_s": cpu, "facts": facts}
    figures["scheduled first"] = args.first
    print(json.dumps(figures, indent=1))
    print(write_result("conditions", figures))


def write_tables(inputs: CurationInputs, num: int) -> None:
    rng = np.random.default_rng(0)
    ranges = tables.split_range(num, SIZE)
    for stage, parts in (
        *(("ingest", 1), ("plant", 0), ("inspect", len(ranges))),
        *(("score", 0), ("side-tables", 0)),
    ):
        plan(inputs, stage, parts)
    plan(inputs, "side", len(ranges))
    ids = np.arange(num)
    index = {name: pa.nulls(num, kind) for name, kind in schema_items(tables.INDEX_SCHEMA)}
    index |= {"image_id": ids, "role": pa.array(["pool"]).take(pa.array(np.zeros(num, int)))}
    index |= {"key": pa.array(ids).cast(pa.string()), "size": rng.integers(1000, 1 << 20, num)}
    write_table(
        inputs.folder("ingest") / f"{part_name(0)}.index.parquet",
        pa.table(index),
        tables.INDEX_SCHEMA,
    )
    for number, (start, stop) in enumerate(ranges):
        n = stop - start
        facts = {name: pa.nulls(n, kind) for name, kind in schema_items(tables.FACTS_SCHEMA)}
        facts |= {side: rng.integers(32, 2000, n).astype(np.int32) for side in ("width", "height")}
        facts["std"] = rng.uniform(5, 80, n).astype(np.float32)
        side = {
            "image_id": np.arange(start, stop),
            "caption": [f"a picture of the thing number {x}" for x in range(n)],
            "punsafe": rng.random(n),
            "similarity": rng.random(n),
            "url": [f"https://host{x % 97}.example/{start + x}/picture.jpg" for x in range(n)],
        }
        name = part_name(number)
        path = inputs.folder("inspect") / name
        write_table(path.with_suffix(".facts.parquet"), pa.table(facts), tables.FACTS_SCHEMA)
        path.with_suffix(".done").write_text(json.dumps({"facts": {"undecodable": {}}}))
        table = pa.table(side)
        write_table(inputs.folder("side") / f"{name}.side.parquet", table, table.schema)


def plan(inputs: CurationInputs, stage: str, parts: int) -> None:
    folder = inputs.folder(stage)
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"payloads": [{}] * parts}))


def schema_items(schema: pa.Schema) -> Iterable[tuple[str, pa.DataType]]:
    return zip(schema.names, schema.types, strict=True)


if __name__ == "__main__":
    main()
