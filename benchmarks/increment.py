"""Adding 1 % and 10 % to a finished curation against curating everything again, in CPU seconds.

    python benchmarks/increment.py ../shared/data/cifar10 duplicates.encoder=pixels

Training images in a random order: 90 % are the base, with the test images as references. The runs
that add the rest, and the one of all images at once, take turns. They share their other keys.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import blas, print_table, run_child, spread, start_clean
from recording import write_result

SHARES = (0.01, 0.10)  # of all images: the increments


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("folder", type=Path, help="CIFAR-10 as tars")
    parser.add_argument("words", nargs="*", metavar="key=value", help="keys of all runs")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    work = Path(tempfile.mkdtemp(prefix="increment-"))
    try:
        figures = measure(args, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = [
        [
            *(name, run["images"]),
            *(f"{run[key]['median']:.1f}" for key in ("cpu_s", "stages_cpu_s")),
            f"{run['share']['median']:.3f}",
        ]
        for name, run in figures["runs"].items()
    ]
    print_table(["run", "new images", "CPU s", "of this stages", "of all at once"], rows)
    print(f"of this the start of the command: {figures['start_cpu_s']['median']:.1f}")
    print(write_result("increment", figures).name)


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    tests = work / "test.tar"
    write_tar(tests, list(members(sorted(args.folder.glob("*test*.tar.gz")))))
    images = list(members(sorted(args.folder.glob("*train*.tar.gz"))))
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    base = work / "base.tar"
    write_tar(base, [images[at] for at in order[: round(0.9 * len(images))]])
    added = {f"{share:.0%} added": work / f"{share}.tar" for share in SHARES}
    for share, tar in zip(SHARES, added.values(), strict=True):
        write_tar(tar, [images[at] for at in order[-round(share * len(images)) :]])
    write_tar(work / "all.tar", [images[at] for at in order])
    base_run = curate(work / "base", [base], [tests], args.words)
    runs: dict[str, list[dict[str, Any]]] = {"all at once": [], **{name: [] for name in added}}
    for _ in range(args.rounds):
        for name, done in runs.items():
            out = work / "run"
            if name in added:
                keys = [f"base={work / 'base'}", *args.words]
                run = curate(out, [added[name]], [], keys)
            else:
                run = curate(out, [work / "all.tar"], [tests], args.words)
            done.append(run)
            shutil.rmtree(out)
            print(f"{name}: {run['cpu_s']:.1f} CPU s", file=sys.stderr)
    command = [sys.executable, "-m", "dinoforge", "curate", "--list"]
    start = [run_child(command, stdout=os.devnull)[0] for _ in range(args.rounds)]
    whole = runs["all at once"]
    return {
        "base": {"images": base_run["summary"]["images"], "kept": base_run["summary"]["kept"]},
        "rounds": args.rounds,
        "start_cpu_s": spread(start),  # of a command that curates nothing
        "runs": {
            name: {
                "images": done[0]["summary"]["images"],
                "kept": done[0]["summary"]["kept"],
                **{key: spread([run[key] for run in done]) for key in ("cpu_s", "stages_cpu_s")},
                "share": spread(
                    [a["cpu_s"] / b["cpu_s"] for a, b in zip(done, whole, strict=True)]
                ),
            }
            for name, done in runs.items()
        },
        "on": f"in-process, {os.environ['OMP_NUM_THREADS']} thread",
        "blas": blas(),
    }


def members(tars: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of the images in tars."""
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None, "a regular file"
                    yield member.name, file.read()


def write_tar(path: Path, images: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in images:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def curate(out: Path, pool: list[Path], references: list[Path], words: list[str]) -> dict[str, Any]:
    """Run the command once, in a process of its own."""
    sources = [
        {"role": role, "paths": [str(path)]}
        for role, paths in (("pool", pool), ("reference", references))
        for path in paths
    ]
    command = ["-m", "dinoforge", "curate", f"sources={json.dumps(sources)}", f"out={out}", *words]
    cpu_s, _ = run_child([sys.executable, *command, "-q"], stdout=os.devnull)
    markers = [json.loads(path.read_text()) for path in (out / "curation").glob("*/part-*.done")]
    return {
        "cpu_s": cpu_s,
        "stages_cpu_s": sum(marker["measured"]["cpu_seconds"] for marker in markers),
        "summary": json.loads((out / "published/summary.json").read_text()),
    }


if __name__ == "__main__":
    main()
