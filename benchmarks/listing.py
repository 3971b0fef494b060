"""Listing a pool of small images in tars: images per second of `discover`, `list` and `ingest`.

    python benchmarks/listing.py --images 200000

Each image is a JPEG of 32 pixels with a text beside it, 10,000 per tar. The stages run as in a
curation, on one thread, from paths to the index (key, class, where its bytes are; nothing is
decoded). The peer goes through the same tars with Python's `tarfile`, groups members by key and
writes one Parquet file of keys, offsets and sizes. Interleaved; CPU seconds and wall time. The bar
is 13,000 images per second of wall time; on a shared machine, measure it with ``--first`` (root).
"""

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import print_table, ratios, run_first, spread, start_clean
from PIL import Image
from recording import write_result

from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import PIPELINE, STAGES
from dinoforge.stages import make_executor, make_inputs
from dinoforge.stages.pipeline import run_stages

PER_TAR = 10_000
LISTING = ("discover", "list", "ingest")
BAR = 13_000  # images per second


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first", action="store_true", help="scheduled before other processes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="listing-") as folder:
        root = Path(folder)
        write_pool(root / "pool", args.images)
        if args.first:
            run_first()
        contestants: dict[str, Callable[[], dict[str, Any]]] = {
            "stages": lambda: by_stages(root, args.images),
            "tarfile": lambda: by_tarfile(root, args.images),
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
        for number in range(args.rounds):
            for name in sorted(contestants, reverse=bool(number % 2)):
                rounds[name].append(timed(contestants[name], args.images))
                print(f"round {number + 1}: {name}: {rounds[name][-1]}", file=sys.stderr)
    figures = {
        "images": args.images,
        "scheduled first": args.first,
        "bar, images/s": BAR,
        "contestants": {
            name: {key: spread([one[key] for one in ones], 1) for key in ones[0]}
            for name, ones in rounds.items()
        },
        "cpu_s, tarfile / stages": ratios(
            *([one["cpu_s"] for one in rounds[name]] for name in ("tarfile", "stages"))
        ),
    }
    keys = ["images_per_s", "images_per_cpu_s", "cpu_s"]
    rows = [[n, *(c[key]["median"] for key in keys)] for n, c in figures["contestants"].items()]
    print_table(["", *keys], rows)
    print(json.dumps(figures["contestants"]["stages"]))
    print(write_result("listing", figures).name)


def timed(run: Callable[[], dict[str, Any]], images: int) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    more = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "images_per_s": images / wall,
        "images_per_cpu_s": images / cpu,
        "cpu_s": cpu,
        "wall_s": wall,
        **more,
    }


def write_pool(folder: Path, images: int) -> None:
    """Write the tars; the pictures repeat, their keys do not."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
        pictures.append(file.getvalue())
    for start in range(0, images, PER_TAR):
        with tarfile.open(folder / f"{start // PER_TAR:05d}.tar", "w", tarfile.USTAR_FORMAT) as tar:
            for number in range(start, min(start + PER_TAR, images)):
                for suffix, data in (("jpg", pictures[number % 64]), ("txt", b"a caption")):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def by_stages(root: Path, images: int) -> dict[str, Any]:
    run = Path(tempfile.mkdtemp(dir=root))
    sources = [{"role": "pool", "paths": [str(root / "pool")]}]
    words = [f"sources={json.dumps(sources)}", f"out={run}", "plant.count=0"]
    config = load_config(CurationConfig, None, words)
    until = [stage.name for stage in STAGES].index(LISTING[-1]) + 1
    results = run_stages(PIPELINE.name, STAGES[:until], run, config, make_executor("in-process"))
    assert tuple(results) == LISTING, "other stages"
    assert results["ingest"].facts[0]["images"] == images, "not all are listed"
    inputs = make_inputs(PIPELINE.name, STAGES, run, config)
    peaks = {}
    for name in LISTING:
        markers = [json.loads(path.read_text()) for path in inputs.files(name, "done")]
        peaks[f"{name}_cpu_s"] = sum(one["measured"]["cpu_seconds"] for one in markers)
    shutil.rmtree(run)
    return peaks


def by_tarfile(root: Path, images: int) -> dict[str, Any]:
    samples: dict[str, dict[str, tuple[str, int, int]]] = {}
    for path in sorted((root / "pool").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                place = (str(path), member.offset_data, member.size)
                samples.setdefault(key, {})[suffix] = place
    rows = [(key, *parts["jpg"]) for key, parts in samples.items()]
    assert len(rows) == images, "not all are listed"
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    names = ["key", "shard", "offset", "size"]
    pq.write_table(pa.table(columns, names=names), root / "tarfile.parquet", compression="zstd")
    return {}


if __name__ == "__main__":
    main()
