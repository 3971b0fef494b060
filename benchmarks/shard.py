"""``dinoforge shard`` against webdataset's ShardWriter, byte by byte, in any order, and in memory.

    python benchmarks/shard.py speed --cifar ../shared/data/cifar10 --rounds 3
    python benchmarks/shard.py account --cifar ../shared/data/cifar10 --photographs FOLDER...
    python benchmarks/shard.py memory --images 1000000

``speed``: the same tars through ``WebDataset`` into ``ShardWriter`` and through the pipeline,
interleaved. ``account``: build, reshard, shuffle, subset and merge; every member of every sample is
compared with the sources by SHA-256, and the random order is tested for uniformity. ``memory``: the
peak of a process that shuffles synthetic images.
"""

import argparse
import gzip
import hashlib
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import interleave, ratios, spread
from recording import write_result
from scipy import stats

from dinoforge.config import load_config
from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.curation.sharding.pipeline import PIPELINE
from dinoforge.runs import Run
from dinoforge.shards.reading import read_samples
from dinoforge.shards.writer import ShardWriter
from dinoforge.stages import make_executor, run_pipeline

BINS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic", choices=["speed", "account", "memory", "one"])
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--photographs", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", nargs="*", default=[], help="of `one`: the run that is measured")
    args = parser.parse_args()
    if args.topic == "one":
        out, *words = args.words
        shard(Path(out), *words)
        # A partition forgets the peak of those before it.
        markers = (json.loads(path.read_text()) for path in Path(out).rglob("part-*.done"))
        peaks = [marker["measured"]["peak_rss_mib"] for marker in markers]
        print(max(*peaks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
        return
    folder = Path(tempfile.mkdtemp(prefix="shard-"))
    try:
        figures = {"speed": speed, "account": account, "memory": memory}[args.topic](folder, args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=1))
    print(write_result(f"shard-{args.topic}", figures))


def shard(out: Path, *words: str) -> object:
    """Run the pipeline in this process."""
    config = load_config(ShardingConfig, None, [f"out={out}", *words])
    with Run.open(out, config, command="shard") as run:
        return run_pipeline(PIPELINE, run.folder, config, make_executor("in-process"))


def unpack(cifar: Path, folder: Path) -> list[Path]:
    """Uncompress the training shards: merged_sources programs then read the same plain tars."""
    folder.mkdir()
    tars = []
    for path in sorted(cifar.glob("cifar10-train-*.tar.gz")):
        tars.append(folder / path.name.removesuffix(".gz"))
        tars[-1].write_bytes(gzip.decompress(path.read_bytes()))
    return tars


def speed(folder: Path, args: argparse.Namespace) -> dict:
    tars = unpack(args.cifar, folder / "in")
    source = f"sources=[{folder / 'in'}]"
    wall: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            started = time.monotonic()
            run()
            wall.setdefault(name, []).append(time.monotonic() - started)

        return call

    contestants = {
        "webdataset": lambda: through_webdataset(tars, folder / "out"),
        "dinoforge": lambda: shard(folder / "out", source, "shard_images=5000"),
        "dinoforge_random": lambda: shard(
            folder / "out", source, "shard_images=5000", "order=random"
        ),
    }
    seconds, _ = interleave({n: timed(n, run) for n, run in contestants.items()}, args.rounds)
    measured = [name for name in contestants if name != "webdataset"]
    return {
        "images": 50_000,
        "cpu_s": {name: spread(values, 2) for name, values in seconds.items()},
        "wall_s": {name: spread(values, 2) for name, values in wall.items()},
        "cpu_ratio": {name: ratios(seconds["webdataset"], seconds[name]) for name in measured},
        "wall_ratio": {name: ratios(wall["webdataset"], wall[name]) for name in measured},
    }


def through_webdataset(tars: list[Path], out: Path) -> None:
    import webdataset

    out.mkdir()
    samples = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    pattern = str(out / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=5000, encoder=False, verbose=0) as writer:
        for sample in samples:
            writer.write({k: v for k, v in sample.items() if k == "__key__" or k[0] != "_"})


def digests(folder: Path, skip: tuple[str, ...] = ()) -> Counter:
    """Count (key, extension, SHA-256) of all members below a folder."""
    counts: Counter = Counter()
    for tar in sorted(folder.rglob("*.tar")):
        for key, members in read_samples(tar):
            counts.update(
                (key, extension, hashlib.sha256(data).hexdigest())
                for extension, data in members.items()
                if extension not in skip
            )
    return counts


def keys_in_order(folder: Path) -> list[str]:
    return [key for tar in sorted(folder.rglob("*.tar")) for key, _ in read_samples(tar)]


def account(folder: Path, args: argparse.Namespace) -> dict:
    unpack(args.cifar, folder / "cifar")
    (folder / "photos").mkdir()
    for path in [tar for some in args.photographs for tar in sorted(some.glob("*.tar"))]:
        (folder / "photos" / path.name).symlink_to(path.absolute())
    files = folder / "files"  # the photographs as files, one folder per tar
    for tar in sorted((folder / "photos").glob("*.tar")):
        for key, members in read_samples(tar):
            for extension, data in members.items():
                path = files / tar.stem / f"{key.replace('/', '_')}.{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    merged_sources = f"sources=[{folder / 'cifar'},{folder / 'photos'}]"
    rename = ("repeated_keys=rename", "classes=ignore")
    cifar, photos = digests(folder / "cifar"), digests(folder / "photos")
    by_content = Counter((e, h) for _, e, h in (cifar + photos).elements())
    figures: dict = {"members": sum((cifar + photos).values()), "different": {}}

    def compare(name: str, expected: Counter, actual: Counter) -> None:
        missing, extra = expected - actual, actual - expected
        figures["different"][name] = sum(missing.values()) + sum(extra.values())

    def contents(out: Path) -> Counter:
        return Counter((e, h) for _, e, h in digests(out).elements())

    shard(folder / "built", f"sources=[{files}]", *rename)
    kept = Counter((e, h) for _, e, h in photos.elements())
    compare("build", kept, contents(folder / "built"))
    shard(folder / "merged", merged_sources, *rename)
    compare("merge", by_content, contents(folder / "merged"))
    for size in (500, 3000, 20_000):
        words = (f"sources=[{folder / 'merged/shards'}]", f"shard_images={size}", "classes=ignore")
        shard(folder / str(size), *words)
        compare(f"reshard {size}", digests(folder / "merged"), digests(folder / str(size)))
        shutil.rmtree(folder / str(size))
    shard(folder / "mixed", merged_sources, *rename, "order=random")
    compare("shuffle", digests(folder / "merged"), digests(folder / "mixed"))
    listed = keys_in_order(folder / "merged")
    figures["uniformity"] = [uniformity(listed, keys_in_order(folder / "mixed"))]
    for seed in (1, 2):
        shutil.rmtree(folder / "mixed")
        shard(
            folder / "mixed",
            merged_sources,
            *rename,
            "order=random",
            f"seed={seed}",
            "sidecar=false",
        )
        figures["uniformity"].append(uniformity(listed, keys_in_order(folder / "mixed")))
    chosen = set(random.Random(0).sample(listed, 5000))
    (folder / "ids.txt").write_text("\n".join(sorted(chosen)))
    words = (f"sources=[{folder / 'merged/shards'}]", f"ids.file={folder / 'ids.txt'}")
    shard(folder / "subset", *words, "classes=ignore")
    every = digests(folder / "merged")
    some = Counter({entry: count for entry, count in every.items() if entry[0] in chosen})
    compare("subset", some, digests(folder / "subset"))
    return figures | {"samples": len(listed)}


def uniformity(listed: list[str], mixed: list[str]) -> dict:
    """Chi-square of pairs: source and new position, source positions of neighbors."""
    position = {key: at for at, key in enumerate(listed)}
    source = np.array([position[key] for key in mixed])
    assert len(set(source.tolist())) == len(listed), "a sample is missing or repeated"
    bins = source * BINS // len(source)
    places = np.arange(len(source)) * BINS // len(source)
    result = {}
    for name, a, b in (("moved", bins, places), ("neighbors", bins[0:-1:2], bins[1::2])):
        table = np.zeros((BINS, BINS))
        np.add.at(table, (a[: len(b)], b[: len(a)]), 1)
        test = stats.chi2_contingency(table)
        result[name] = {"chi2": round(float(test.statistic), 1), "p": round(float(test.pvalue), 4)}
    return result | {"degrees": (BINS - 1) ** 2}


def memory(folder: Path, args: argparse.Namespace) -> dict:
    """Shuffle synthetic images of about 300 bytes, with a class each."""
    draw = np.random.default_rng(0)
    header = bytes.fromhex("ffd8ffe000104a46494600010100000100010000")
    with ShardWriter(folder / "in", "pool", 10_000, 1 << 40) as writer:
        for at in range(args.images):
            data = header + draw.bytes(300) + b"\xff\xd9"
            writer.write(f"{at:09d}", {"jpg": data, "cls": str(at % 10).encode()})
    peaks = {}
    for order in ("listed", "random"):
        words = [str(folder / order), f"sources=[{folder / 'in'}]", f"order={order}"]
        started = time.monotonic()
        command = [sys.executable, __file__, "one", "--words", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figure = {"peak_mib": int(done.stdout.split()[-1])}
        peaks[order] = figure | {"wall_s": round(time.monotonic() - started, 1)}
        print(order, peaks[order], file=sys.stderr, flush=True)
        shutil.rmtree(folder / order)
    return {"images": args.images, **peaks}


if __name__ == "__main__":
    main()
