"""Curations of up to millions of images with synthetic embeddings: CPU seconds, bytes and memory.

    python benchmarks/curation_scale.py 250000 500000 1000000 2000000 --work FOLDER

Every image is a PNG of 8 x 8 pixels that holds its number, in tars; the encoder, a function named
in the recipe, reads the embedding of that number from a file. So all stages are those of any
curation, run by ``dinoforge curate --on local:2``, each size in a process of its own. Figures are
those of the markers: per stage CPU seconds, bytes, and the largest peak of a partition. The
exponent of a figure is the slope of its logarithm over that of the number of pool images.

Embeddings: topics of Zipf's frequencies, so that cells are uneven; of every 50,000 images a fifth
are near-copies (cosine 0.97) in groups of 2 to 2,000, numbers of groups falling with the 2.5th
power of their size. 2,000 seeds are near topics, and half of 2,000 references have a copy in the
first 250,000 pool images. Needs 6 GB of disk for 2 M images, and 4 GB for their run.
"""

import argparse
import json
import os
import shutil
import struct
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from measuring import blas, print_table, run_child, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.curation.pipeline import STAGES
from dinoforge.shards.writer import ShardWriter
from dinoforge.tables import read_table

DIM = 256
CHUNK = 50_000  # images per tar; groups of copies are inside one
EXTRA = 2000  # seeds, and as many references
TOPICS = 4096
COPIES = 0.2  # share of the images that are in groups
LARGEST = 2000
NOISE = 0.18  # norm of what a copy adds to its unit vector: cosine of two copies 0.97
EMBEDDINGS = "CURATION_SCALE_EMBEDDINGS"  # path of float16 [n, DIM]
RECIPE = [
    "duplicates.encoder=python:curation_scale:read_embedding",
    "duplicates.join=cells",
    "filter.min_side=8",
    *("retrieve.mode=seeds", "retrieve.k=8", "retrieve.policy=fill", "retrieve.keep=all"),
]


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="+", type=int, help="pool images, multiples of 50,000")
    parser.add_argument("--work", type=Path, required=True, help="folder for sources and runs")
    parser.add_argument("--on", default="local:2")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("words", nargs="*", metavar="key=value", help=argparse.SUPPRESS)
    args, words = parser.parse_known_args()
    os.environ[EMBEDDINGS] = str(args.work / "embeddings.npy")
    tree = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = f"{tree}:{tree / 'benchmarks'}"
    make_sources(args.work, max(args.sizes))
    runs = []
    for num in args.sizes:
        runs.append(curate(args.work, num, words, args.on))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
        if not args.keep:
            shutil.rmtree(args.work / f"run-{num}")
    figures = {"on": args.on, "dim": DIM, "words": words, "runs": runs, "blas": blas()}
    if len(runs) > 1:
        figures["exponents"] = fit(runs)
    show(runs, figures.get("exponents", {}))
    print(write_result("curation_scale", figures).name)


# --- the encoder


@cache
def _rows() -> NDArray[np.float16]:
    return np.load(os.environ[EMBEDDINGS], mmap_mode="r")


def read_embedding(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return the embeddings of images by the number in their first two pixels."""
    numbers = [int.from_bytes(image[0, :2].tobytes()[:4], "big") for image in images]
    rows = _rows()
    return rows[np.array(numbers) % len(rows)].astype(np.float32)


# --- the sources


def make_sources(work: Path, num: int) -> None:
    """Write embeddings and tars of ``num`` pool images, unless they are there."""
    path = work / "embeddings.npy"
    if path.is_file() and len(np.load(path, mmap_mode="r")) >= num + 2 * EXTRA:
        return
    work.mkdir(parents=True, exist_ok=True)
    topics = unit(np.random.default_rng(0).normal(size=(TOPICS, DIM)))
    temporary = work / "embeddings.tmp.npy"
    shape = (2 * EXTRA + num, DIM)
    rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
    seeds, references = np.arange(EXTRA), np.arange(EXTRA, 2 * EXTRA)
    rng = np.random.default_rng(1)
    rows[seeds] = draw(rng, topics, EXTRA)
    rows[references] = draw(rng, topics, EXTRA)
    leaked = rng.choice(min(num, 250_000), EXTRA // 2, replace=False) + 2 * EXTRA
    for start in chunk_starts(num):
        part = pool_chunk(np.random.default_rng(start), topics)
        here = np.flatnonzero((leaked >= start) & (leaked < start + CHUNK))
        part[leaked[here] - start] = near(rng, rows[references[here]].astype(np.float64))
        rows[start : start + CHUNK] = part
    rows.flush()
    for name, first, stop in [
        ("seeds", 0, EXTRA),
        ("references", EXTRA, 2 * EXTRA),
        *((f"pool-{at // CHUNK:03d}", at, at + CHUNK) for at in chunk_starts(num)),
    ]:
        with ShardWriter(work / "tars", name, CHUNK, 1 << 62) as writer:
            for number in range(first, stop):
                writer.write(f"{number:09d}", {"png": png(number)})
    temporary.replace(path)


def draw(rng: np.random.Generator, topics: NDArray[np.float64], num: int) -> NDArray[np.float64]:
    """Return unit vectors that have a cosine of about 0.6 to their topic."""
    share = 1 / np.arange(1, TOPICS + 1)
    topic = rng.choice(TOPICS, num, p=share / share.sum())
    return unit(0.6 * topics[topic] + 0.8 * unit(rng.normal(size=(num, DIM))))


def near(rng: np.random.Generator, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return unit(rows + NOISE * unit(rng.normal(size=rows.shape)))


def pool_chunk(rng: np.random.Generator, topics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the embeddings of one tar, copies among others in random places."""
    sizes = group_sizes(rng)
    rows = draw(rng, topics, CHUNK)
    group = np.repeat(np.arange(len(sizes)), sizes)
    at = rng.permutation(CHUNK)[: len(group)]
    rows[at] = near(rng, draw(rng, topics, len(sizes))[group])
    return rows


def group_sizes(rng: np.random.Generator) -> NDArray[np.int64]:
    sizes = np.arange(2, LARGEST + 1)
    share = sizes**-2.5
    drawn = rng.choice(sizes, CHUNK, p=share / share.sum())
    return drawn[np.cumsum(drawn) <= COPIES * CHUNK]


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def png(number: int) -> bytes:
    """Return a PNG of 8 x 8 pixels: a checkerboard, and a number in the first bytes."""
    pixels = np.indices((8, 8)).sum(axis=0) % 2 * np.uint8(255)
    raw = np.repeat(pixels[:, :, None], 3, axis=2).astype(np.uint8).reshape(8, 24)
    data = b"".join(b"\0" + line.tobytes() for line in raw)
    data = data[:1] + number.to_bytes(4, "big") + data[5:]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(data, 1)),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- the runs


def curate(work: Path, num: int, words: list[str], on: str) -> dict[str, Any]:
    """Run the command once, in processes of its own."""
    tars = work / "tars"
    pool = [str(tars / f"pool-{at // CHUNK:03d}-000000.tar") for at in chunk_starts(num)]
    sources = [
        {"role": "pool", "paths": pool},
        {"role": "seed", "paths": [str(tars / "seeds-000000.tar")]},
        {"role": "reference", "paths": [str(tars / "references-000000.tar")]},
    ]
    out = work / f"run-{num}"
    command = ["-m", "dinoforge", "curate", f"sources={json.dumps(sources)}", f"out={out}"]
    command += [*RECIPE, *words, "--on", on, "-q", "--fresh"]
    cpu_s, _ = run_child([sys.executable, *command], stdout=os.devnull)
    summary = json.loads((out / "published/summary.json").read_text())
    groups = [group_sizes(np.random.default_rng(start)) for start in chunk_starts(num)]
    stages = {stage.name: measure(out, stage.number, stage.name) for stage in STAGES}
    return {
        "pool": num,
        "cpu_s": round(cpu_s, 1),  # of the command and its workers
        "kept": summary["kept"],
        "near_duplicates": summary["duplicates"]["near_duplicates"],
        "planted": sum(int(sizes.sum()) - len(sizes) for sizes in groups),  # beside the first
        "leaks": summary["leaks"]["images"],
        "pairs": count_pairs(out),
        "stages": {name: of_stage for name, of_stage in stages.items() if of_stage["partitions"]},
    }


def chunk_starts(num: int) -> range:
    """Return the number of the first image of every tar of the pool."""
    return range(2 * EXTRA, 2 * EXTRA + num, CHUNK)


def count_pairs(run: Path) -> int:
    files = sorted((run / "curation").glob("40-graph/*.pairs.parquet"))
    return sum(read_table(path, ["i"]).num_rows for path in files)


def measure(run: Path, number: int, name: str) -> dict[str, Any]:
    """Sum what the markers of a stage measured; the peak is that of its largest partition."""
    folder = run / "curation" / f"{number:02d}-{name}"
    markers = [json.loads(path.read_text()) for path in sorted(folder.glob("part-*.done"))]
    measured = [marker["measured"] for marker in markers]
    outputs = [output for marker in markers for output in marker["outputs"]]
    return {
        "partitions": len(markers),
        "cpu_s": round(sum(one["cpu_seconds"] for one in measured), 2),
        "wall_s": round(sum(one["seconds"] for one in measured), 2),
        "bytes": sum(output["bytes"] for output in outputs),
        "peak_mib": max((one["peak_rss_mib"] for one in measured), default=0),
    }


def fit(runs: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Fit exponents per stage: of the memory, to what is above the smallest peak of the run."""
    sizes = np.log([run["pool"] for run in runs])

    def slope(values: list[float], least: float) -> float | None:
        if min(values) < least:  # mostly the clock, or the process itself
            return None
        return round(float(np.polyfit(sizes, np.log(values), 1)[0]), 2)

    exponents = {}
    for name in runs[0]["stages"]:
        stages = [run["stages"][name] for run in runs]
        bases = [min(one["peak_mib"] for one in run["stages"].values()) for run in runs]
        grown = [one["peak_mib"] - base for one, base in zip(stages, bases, strict=True)]
        exponents[name] = {
            "cpu_s": slope([one["cpu_s"] for one in stages], 0.5),
            "bytes": slope([one["bytes"] for one in stages], 1e4),
            "peak": slope(grown, 20),
        }
    return exponents


def show(runs: list[dict[str, Any]], exponents: dict[str, dict[str, float | None]]) -> None:
    last = runs[-1]
    rows = []
    for name, one in last["stages"].items():
        fitted = exponents.get(name, dict.fromkeys(("cpu_s", "bytes", "peak"))).values()
        cells = [f"{one['cpu_s']:.1f}", f"{one['bytes'] / 1e6:.1f}", one["peak_mib"]]
        rows.append([name, one["partitions"], *cells, *("" if e is None else e for e in fitted)])
    print(f"{last['pool']:,} images, {last['cpu_s']:.0f} CPU s; exponents over all sizes")
    header = ["stage", "partitions", "CPU s", "MB", "peak MiB", "of CPU s", "of bytes", "of peak"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
