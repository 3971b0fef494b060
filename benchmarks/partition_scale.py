"""The driver of a curation of 1.3 billion images: seconds and memory of all plans, what they cover.

    python benchmarks/partition_scale.py --work FOLDER

A synthetic crawl: 143,000 tars of up to 10,000 images, of which a varying share failed. Its recipe
is `lvd142m`, with encoders of 512 and 1,280 dimensions that are functions here. Every stage is
planned by the product's own code, in order, as `dinoforge curate` does it; what plans read of
earlier stages (row counts, facts, sizes of cells, ids that are mapped) is put in place in between,
which is not timed. Cells have sizes with a long tail. Checked: every image, block, cell and shard
is in exactly one partition of a stage. Also `dinoforge plan` of the same recipe.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measuring import print_table, run_child, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import PIPELINE, STAGES
from dinoforge.curation.tables import CurationInputs
from dinoforge.processes import forget_peak_memory, peak_memory
from dinoforge.stages import Json, make_inputs
from dinoforge.stages.pipeline import StagePlan, plan_stage
from dinoforge.stages.stage import part_name
from dinoforge.tables import write_tables

SHARDS, PER_SHARD = 143_000, 10_000
EXPORTED = 142_000_000
JOINED = 0.95  # share of the images that are a content of their own


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=SHARDS)
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    sys.path.append(str(Path(__file__).parent))
    shutil.rmtree(args.work, ignore_errors=True)
    rng = np.random.default_rng(0)
    images = int(rng.binomial(PER_SHARD, rng.beta(20, 2, args.shards)).sum())
    of_command = plan_command(images)  # first: a child inherits the peak of its parent
    config = recipe(args.work, args.shards)
    rows, cpu_s, wall_s = [], 0.0, 0.0
    fingerprints: dict[str, list[str]] = {}
    inputs = make_inputs(PIPELINE.name, STAGES, args.work / "run", config)
    world = World(config, images)
    forget_peak_memory()
    for stage in STAGES:
        cpu, wall = time.process_time(), time.monotonic()
        plan = plan_stage(stage, inputs, fingerprints)
        fingerprints[stage.name] = [task.fingerprint for task in plan.tasks]
        plan.folder.mkdir(parents=True)
        plan.write()
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        cpu_s, wall_s = cpu_s + cpu, wall_s + wall
        if plan.payloads:
            row = {"stage": stage.name, "partitions": len(plan.payloads), "cpu_s": round(cpu, 2)}
            rows.append(row | world.check(plan))
            print(rows[-1], file=sys.stderr, flush=True)
        world.finish(plan, inputs)
    figures = {
        "images": images,
        "rows": world.total,
        "shards": args.shards,
        "cpu_s": round(cpu_s, 1),
        "wall_s": round(wall_s, 1),
        "peak_mib": peak_memory() >> 20,
        "stages": rows,
        "dinoforge_plan": of_command,
    }
    names = ("stage", "partitions", "cpu_s", "unit", "total", "largest_over_mean")
    print_table(names, [[row.get(name, "") for name in names] for row in rows])
    print({name: value for name, value in figures.items() if name != "stages"})
    print(write_result("partition_scale", figures).name)


def plan_command(images: int) -> dict[str, float]:
    """Measure `dinoforge plan` for so many pool images."""
    command = ["-m", "dinoforge", "plan", "lvd142m", "--images", f"pool={images}", "--gpu", "h100"]
    cpu_s, peak_mib = run_child([sys.executable, *command], stdout=os.devnull)
    return {"cpu_s": round(cpu_s, 1), "peak_mib": round(peak_mib)}


def copies(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.ones((len(images), 512), np.float32)


def meaning(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.ones((len(images), 1280), np.float32)


def recipe(work: Path, shards: int) -> CurationConfig:
    """Read the recipe and put empty files where its sources are."""
    path = Path(__file__).parents[1] / "configs/curation/lvd142m.yaml"
    words = [f"data.root={work / 'data'}", "device=cpu"]
    words += ["duplicates.encoder=python:partition_scale:copies"]
    words += ["retrieve.encoder=python:partition_scale:meaning"]
    config = load_config(CurationConfig, path, words)
    for source in config.sources:
        for folder in map(Path, source.paths_in(config.data.root)):
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(shards if source.role == "pool" else 1):
                (folder / f"{number:06d}.tar").touch()
    return config


class World:
    """What the stages would have found: as little of it as plans read."""

    def __init__(self, config: CurationConfig, images: int) -> None:
        self.config = config
        named = dict.fromkeys(("as_is", "seed", "reference"), 0)
        for source in config.sources:
            if source.role != "pool":
                named[source.role] += source.images or 10_000
        self.roles = named | {"pool": images}
        self.total = sum(self.roles.values())
        self.joined = int(JOINED * (self.total - named["reference"]))
        self.cells = 0
        self.sizes = np.empty(0, np.int64)
        lengths = np.random.default_rng(1).integers(3000, 6000, EXPORTED // 3000)
        ends = np.cumsum(lengths)
        self.starts = np.r_[0, ends[ends < EXPORTED]]

    def finish(self, plan: StagePlan, inputs: CurationInputs) -> None:
        """Put in place what later plans read of a stage."""
        name, num = plan.stage.name, len(plan.payloads)
        facts: list[Json] = [{}] * min(num, 4096)  # no plan reads those of larger stages
        if name == "discover":
            facts = [{"ranges": [[0, at, at + 1] for at in range(-(-self.total // 10**6))]}]
        elif name == "ingest":
            write_index(inputs.file("ingest", "index.parquet"), self.total)
        elif name == "assign":
            facts = self.assign(plan)
        elif name == "cells":
            self.cells = plan.payloads[0]["cells"]
            facts = [{"cells": self.cells}]
        elif name == "select":
            parts = ["pool"] * len(self.starts)
            starts = {"shard_starts": self.starts.tolist(), "shard_parts": parts}
            facts = [{"exported": EXPORTED} | starts]
        elif name in {"exact", "survivors"}:
            joined = {"images": self.joined, "references": self.roles["reference"]}
            for array, num in (joined if name == "exact" else self.roles).items():
                sparse(inputs.file(name, f"{array}.npy"), num)
            facts = [{f"joined_{side}": num for side, num in joined.items()}]
        elif name.startswith("embed"):
            facts = [{"dim": 512 if name == "embed" else 1280}] * num
        mark(plan, facts[:num])

    def assign(self, plan: StagePlan) -> list[Json]:
        """Write the sizes of the cells per partition, few that differ; returns the facts."""
        rng = np.random.default_rng(2)
        share = rng.lognormal(0, 1, self.cells)
        mean = self.joined * self.config.duplicates.cells_per_image / len(plan.payloads)
        drawn = [rng.poisson(share / share.sum() * mean) for _ in range(8)]
        for number in range(len(plan.payloads)):
            path = plan.folder / f"{part_name(number)}.starts.npy"
            if number < len(drawn):
                np.save(path, np.cumsum(np.r_[0, drawn[number]]))
            else:
                path.hardlink_to(plan.folder / f"{part_name(number % 8)}.starts.npy")
        uses = np.bincount(np.arange(len(plan.payloads)) % 8, minlength=8)
        self.sizes = sum(times * sizes for times, sizes in zip(uses, drawn, strict=True))
        return [{"images": p["stop"] - p["first"]} for p in plan.payloads]

    def check(self, plan: StagePlan) -> dict[str, Any]:
        """Check that partitions cover all there is once; how much larger the largest is."""
        name, payloads = plan.stage.name, plan.payloads
        if "start" in payloads[0]:
            return covered("images", self.total, ((p["start"], p["stop"]) for p in payloads))
        if name in {"assign", "recall"}:
            return covered("images", self.joined, ((p["first"], p["stop"]) for p in payloads))
        if name == "search":
            sets: dict[str, list[tuple[int, int]]] = {}
            for payload in payloads:
                sets.setdefault(payload["set"], []).append((payload["first"], payload["stop"]))
            reports = [covered("images", self.roles["pool"], ranges) for ranges in sets.values()]
            return reports[0] | {"seed_sets": len(reports)}
        if name == "export":
            shards = [(p["first"], p["stop"]) for p in payloads if "shard" in p]
            return covered("files", EXPORTED, shards)
        return self.check_graph(payloads) if name == "graph" else {}

    def check_graph(self, payloads: list[Json]) -> dict[str, Any]:
        """Check block pairs of images and references, ranges of cells, and large cells."""
        size = self.config.duplicates.block_images
        blocks = -(-self.joined // size) * -(-self.roles["reference"] // size)
        whole = [(p["first"], p["stop"]) for p in payloads if "cell" not in p and "first" in p]
        covered("block pairs", blocks, whole)
        ranges = [(p["first_cell"], p["stop_cell"]) for p in payloads if "first_cell" in p]
        large: dict[int, list[tuple[int, int]]] = {}
        for p in payloads:
            if "cell" in p:
                large.setdefault(p["cell"], []).append((p["first"], p["stop"]))
        for cell, parts in large.items():
            num = -(-int(self.sizes[cell]) // size)
            covered("block pairs", num * (num + 1) // 2, parts)
        every = sorted([*ranges, *((cell, cell + 1) for cell in large)])
        report = covered("cells", self.cells, every)
        work = [float((self.sizes[a:b] ** 2).sum() / 2) for a, b in ranges]
        work += [(b - a) * float(size) ** 2 for parts in large.values() for a, b in parts]
        work += [(b - a) * float(size) ** 2 for a, b in whole]
        return report | {
            "with_references": len(whole),
            "in_large_cells": sum(map(len, large.values())),
            "largest_over_mean": round(max(work) / float(np.mean(work)), 2),
        }


def covered(unit: str, total: int, ranges: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Check that ranges follow one another from 0 to the total."""
    bounds = np.array(list(ranges), np.int64).reshape(-1, 2)
    assert (bounds[1:, 0] == bounds[:-1, 1]).all(), f"{unit}: a gap, or twice in partitions"
    assert not len(bounds) or (bounds[0, 0], bounds[-1, 1]) == (0, total), f"{unit}: not {total}"
    lengths = bounds[:, 1] - bounds[:, 0]
    assert (lengths > 0).all(), f"{unit}: an empty partition"
    ratio = round(float(lengths.max() / lengths.mean()), 2) if len(lengths) else 0.0
    return {"unit": unit, "total": total, "largest_over_mean": ratio}


def write_index(path: Path, num: int) -> None:
    """Write an index of so many rows, with two columns."""
    schema = pa.schema([("size", pa.int64()), ("source", pa.string())])
    block = pa.table([np.zeros(1 << 18, np.int64), ["crawl"] * (1 << 18)], schema=schema)
    write_tables(path, (block.slice(0, num - at) for at in range(0, num, 1 << 18)), schema)


def sparse(path: Path, num: int) -> None:
    """Write an array of ids that takes no space on the disk: plans read its length."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=(num,)).flush()


def mark(plan: StagePlan, facts: list[Json]) -> None:
    """Write markers with these facts; most are links, as many as a file may have."""
    for number, one in enumerate(facts):
        path = plan.folder / f"{part_name(number)}.done"
        origin = plan.folder / f"{part_name(number // 50_000 * 50_000)}.done"
        if path != origin and one == facts[0]:
            path.hardlink_to(origin)
            continue
        marker = {"stage": plan.stage.name, "version": plan.stage.version, "partition": number}
        marker |= {"fingerprint": plan.tasks[number].fingerprint, "outputs": [], "facts": one}
        path.write_text(json.dumps(marker))


if __name__ == "__main__":
    main()
