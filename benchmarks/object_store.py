"""A curation from and to a bucket of a real S3 server on loopback, with failures and kills.

    python benchmarks/object_store.py --images 2000 --share 0.05 --kills 20 --record

A proxy before the server answers a share of the requests with 503, or cuts their connection before
or within the answer. The command is killed at random moments and started again. *Equal* means: the
shards, the tables of the run (URLs in place of paths) and what is in the bucket are, byte for byte,
those of a curation of the same images in folders. Half of the images are in tars.
"""

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

import kill
import object_store

from dinoforge.curated import UPLOADED, ledger_path
from dinoforge.remote.store import delete_object, list_objects, open_store
from dinoforge.sources.photographs import write_tiles
from dinoforge.tables import read_table

WORDS = ("partition_images=256", "export.shard_images=250", "filter.min_side=8", "seed=3")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.05, help="of requests that fail")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="object-store-"))
    try:
        write_pool(folder / "images", args.images)
        with (
            object_store.s3_server() as port,
            object_store.FaultyProxy(port, seed=args.seed).running() as proxy,
        ):
            os.environ.update(object_store.environment(proxy.port))
            open_store("s3://data").mkdir("data")
            object_store.copy_folder(folder / "images", "s3://data/images")
            figures = measure(proxy, folder, args)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures |= {"images": args.images, "share": args.share}
    print(json.dumps(figures, indent=1))
    if args.record:
        from recording import write_result

        print(write_result("object-store", figures))
    return 0 if not figures["different"] else 1


def write_pool(folder: Path, num: int) -> None:
    """Write tiles of photographs: class folders, and every second one in tars of 100."""
    write_tiles(folder / "tiles", tile=32, stride=32)
    tiles = sorted((folder / "tiles/pool").rglob("*.png"))
    tiles = random.Random(0).sample(tiles, num)
    for at, tile in enumerate(tiles):
        target = folder / "pool" / tile.parent.name / tile.name
        target.parent.mkdir(parents=True, exist_ok=True)
        tile.rename(target)
        if at % 2:
            with tarfile.open(folder / f"pool/tiles-{at // 200:06d}.tar", "a") as tar:
                tar.add(target, f"{at:09d}.png")
            target.unlink()
    shutil.rmtree(folder / "tiles")


def measure(proxy: object_store.FaultyProxy, folder: Path, args: argparse.Namespace) -> dict:
    """Curate the folder, then the bucket until it was killed often enough; compare."""
    draw = random.Random(args.seed)
    local = [json.dumps([{"role": "pool", "paths": [str(folder / "images/pool")]}])]
    remote = [json.dumps([{"role": "pool", "paths": ["s3://data/images/pool"]}])]
    local_s = finish(["curate", f"sources={local[0]}", *WORDS], folder / "local")
    words = ["curate", f"sources={remote[0]}", *WORDS, "publish.to=s3://data/out"]
    proxy.requests.clear()
    calm_s = finish(words, folder / "run")
    calm_requests = len(proxy.requests)
    different = compare(folder)
    result = collections.Counter[str]()
    stages: list[str | None] = []
    proxy.share = args.share
    proxy.requests.clear()
    while result["kills"] < args.kills:
        clear(folder)
        while True:
            result["starts"] += 1
            process = kill.start(words, folder / "run")
            moment = draw.uniform(2, 0.8 * calm_s) if result["kills"] < args.kills else None
            try:
                code = process.wait(timeout=moment)
            except kill.subprocess.TimeoutExpired:
                kill.kill(process, draw)
                result["kills"] += 1
                stages.append(kill.last_stage(folder / "run"))
                continue
            if code:
                raise SystemExit(f"start {result['starts']} ended with {code}")
            break
        proxy.share = 0.0
        different += compare(folder)
        proxy.share = args.share
        result["finished"] += 1
    proxy.share = 0.0
    puts = collections.Counter(
        line.split()[1].split("?")[0] for line in proxy.requests if line.startswith("PUT")
    )
    data = [count for name, count in puts.items() if "/shards/" in name]
    return dict(result) | {
        "local_s": round(local_s, 1),
        "undisturbed_s": round(calm_s, 1),
        "undisturbed_requests": calm_requests,
        "requests": len(proxy.requests),
        "faults": dict(collections.Counter(proxy.faults)),
        "stages": dict(collections.Counter(filter(None, stages))),
        "puts_of_shard_files": sum(data),
        "shard_files": len(data) * result["finished"],
        "different": different,
    }


def finish(words: list[str], out: Path) -> float:
    started = time.monotonic()
    if code := kill.start(words, out).wait():
        raise SystemExit(f"{out.name} ended with {code}")
    return time.monotonic() - started


def clear(folder: Path) -> None:
    """Remove the run, and what it published."""
    shutil.rmtree(folder / "run")
    for one in list_objects("s3://data/out"):
        delete_object(one.url)


def compare(folder: Path) -> list[str]:
    """Name what differs from the curation of folders: shards, ledger, objects; and secrets."""
    local, run = folder / "local", folder / "run"
    different = [
        path.name
        for path in sorted((local / "shards").iterdir())
        if path.read_bytes() != (run / "shards" / path.name).read_bytes()
    ]
    ledgers = [read_table(ledger_path(each)).to_pydict() for each in (local, run)]
    top = str(folder / "images")
    ledgers[0]["shard"] = [name.replace(top, "s3://data/images") for name in ledgers[0]["shard"]]
    different += [name for name in ledgers[0] if ledgers[0][name] != ledgers[1][name]]
    files = {
        path.relative_to(run).as_posix(): path
        for name in ("shards", "published")
        for path in (run / name).rglob("*")
        if path.is_file()
    }
    store = open_store("s3://data")
    uploaded = {one.url.removeprefix("s3://data/out/") for one in list_objects("s3://data/out")}
    different += sorted(uploaded ^ {*files, UPLOADED})
    for name in uploaded & files.keys():
        if store.cat_file(f"data/out/{name}") != files[name].read_bytes():
            different.append(name)
    secrets = [object_store.SECRET.encode(), object_store.ACCESS.encode()]
    for path in run.rglob("*"):
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets):
            different.append(f"secret in {path.name}")
    return different


if __name__ == "__main__":
    sys.exit(main())
