"""Generate sources with every oddity and compare what is put in with what each command reports.

    python benchmarks/fuzz_sources.py --sources 2000 --seed 0 --record

Every image put into a source (by its suffix or its content) must be a row with its own bytes, or be
named by a problem: itself, the folder or tar that holds it, or, in a tar that was damaged, the tar
as incomplete. No other row may appear. The generator keeps its own list; nothing of it comes from
the product. `curate`, `train`, `evaluate` and `embed` each list every source in this process; every
hundredth source goes through the whole commands, whose ``run.json`` must state the same counts.
Exit 1 when anything is missing or unnamed.
"""

import argparse
import bz2
import collections
import contextlib
import functools
import gzip
import io
import json
import logging
import lzma
import os
import random
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.files import path_of_text, sha256_file
from dinoforge.shards.index import INCOMPLETE, NOTES

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF"}
STEMS = ["a", "b", "a.2", "photo.2019.00", "photo.2019.01", "x y", "#1", "p=q", "100%", "ü", "日本"]
STEMS += ["line\nbreak", os.fsdecode(b"caf\xe9"), "UPPER", "-dash", "~", "q?", "[0]", "n" * 90]
FOLDERS = ["", "cat", "dog", "cat/deep", "7", "x.jpg", "y.tar", "-1", os.fsdecode(b"\xff")]
LABELS = ["0", "1", "7", "-1", "cat", "", "99999999999", "\ufeff3", "é", "e\u0301", "x" * 300]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


@dataclass(frozen=True)
class Put:
    """An image that was put into a source."""

    path: str  # file or tar
    member: str  # "": a file of its own
    offset: int
    data: bytes
    expect: str  # row, problem, or either: behind damage


@dataclass
class Source:
    """A generated folder, and what is in it."""

    folder: Path
    images: list[Put] = field(default_factory=list)


class Generator:
    """Makes one source; every choice is drawn from ``number`` and the seed."""

    def __init__(self, folder: Path, seed: int, number: int) -> None:
        self.draw = random.Random(f"{seed}/{number}")
        self.source = Source(folder)
        self._count = 0

    def make(self) -> Source:
        """Fill the folder."""
        draw = self.draw
        self.source.folder.mkdir(parents=True)
        self._file("always.png", self._picture("PNG"), "row")
        for _ in range(draw.randrange(12)):
            self._loose()
        for _ in range(draw.randrange(4)):
            self._tar()
        for extra in (self._output, self._hidden, self._special, self._list):
            if draw.random() < 0.3:
                extra()
        return self.source

    def _picture(self, format_: str) -> bytes:
        self._count += 1
        pixels = np.random.default_rng(self._count).integers(0, 256, (12, 12, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format_)
        # Behind the end of the picture: makes its bytes unique, which decoders ignore.
        return file.getvalue() + b"%d" % self._count

    def _place(self, suffix: str, stem: str = "") -> str:
        """Choose a new path below the folder."""
        folder = self.source.folder / self.draw.choice(FOLDERS)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            path = folder / f"{stem or self.draw.choice(STEMS)}{number or ''}{suffix}"
            if not os.path.lexists(path):
                return str(path)
        raise AssertionError("no free name")

    def _file(self, path: str | Path, data: bytes, expect: str) -> None:
        path = str(self.source.folder / path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
        self.source.images.append(Put(path, "", 0, data, expect))

    def _loose(self) -> None:
        draw = self.draw
        suffix = draw.choice(list(FORMATS))
        kind = draw.choice(["plain", "plain", "plain", "upper", "text", "empty", "none", "other"])
        if kind == "plain":
            self._file(self._place(f".{suffix}"), self._picture(FORMATS[suffix]), "row")
        elif kind == "upper":
            self._file(self._place(f".{suffix.upper()}"), self._picture("PNG"), "row")
        elif kind == "none":
            self._file(self._place(draw.choice(["", ".bin", ".v1"])), self._picture("JPEG"), "row")
        elif kind in ("text", "empty"):
            self._file(self._place(f".{suffix}"), b"text" if kind == "text" else b"", "row")
        else:
            Path(self._place(draw.choice([".txt", ".json", ".cls", ""]))).write_bytes(b"text")

    def _output(self) -> None:
        """Write what a run leaves: it must be named, not read."""
        run = Path(self._place("", "run"))
        run.mkdir()
        facts = {"command": "curate", "versions": {"dinoforge": "0"}}
        (run / "run.json").write_text(json.dumps(facts))
        self._file(run / "shards/x.png", self._picture("PNG"), "problem")

    def _hidden(self) -> None:
        self._file(self._place(".png", ".hidden"), self._picture("PNG"), "problem")
        self._file(Path(self._place("", ".folder")) / "x.png", self._picture("PNG"), "problem")

    def _special(self) -> None:
        for suffix in (".jpg", ".tar"):
            pipe = self._place(suffix)
            os.mkfifo(pipe)
            self.source.images.append(Put(pipe, "", 0, b"", "problem"))
        link = self._place(".png")
        Path(link).symlink_to("nowhere")
        self.source.images.append(Put(link, "", 0, b"", "problem"))
        link = self._place(".png", "link")
        Path(link).symlink_to(self.source.folder / "always.png")
        # A row of its own, but for a curation, which has one row per file.
        self.source.images.append(Put(link, "", 0, self.source.images[0].data, "either"))
        with contextlib.suppress(FileExistsError):
            (self.source.folder / "loop").symlink_to(self.source.folder)

    def _list(self) -> None:
        (self.source.folder / "classes.txt").write_text("bird\nboat\n", encoding="utf-8")

    def _tar(self) -> None:
        """Write a tar, perhaps damaged, compressed or followed by another."""
        draw = self.draw
        data, puts = self._archive()
        stem = self._place("", f"shard{self._count}-")
        how = draw.choice(["whole", "whole", "cut", "two", "junk", "flip", "no end"])
        if how == "two":
            more, more_puts = self._archive()
            puts += [(n, at + len(data), d, e) for n, at, d, e in more_puts]
            data += more
        end = len(data)
        if how == "cut":
            end = draw.randrange(1, len(data))
            data = data[:end]
        elif how == "junk":
            data += draw.choice([b"junk", b"x" * 1000])
        elif how == "flip":
            end = draw.choice(puts)[1] - 512  # the header of an image
            data = data[: end + 3] + b"\xff" + data[end + 4 :]
        elif how == "no end":
            data = data.rstrip(b"\0")
            data += bytes(-len(data) % 512)
        suffix = ".tar"
        if draw.random() < 0.3:
            suffix = draw.choice(list(COMPRESS))
            data = COMPRESS[suffix](data)
            if draw.random() < 0.3:
                data, end = data[: draw.randrange(20, len(data))], 0
            suffix = draw.choice([suffix, ".tar"])
        path = f"{stem}{suffix}"
        Path(path).write_bytes(data)
        for name, at, content, expect in puts:
            is_before = at + len(content) <= end
            said = expect if is_before else "either"
            self.source.images.append(Put(path, name, at, content, said))

    def _archive(self) -> tuple[bytes, list[tuple[str, int, bytes, str]]]:
        """Make a tar; returns its bytes and name, offset, data and expectation of its images."""
        draw = self.draw
        file = io.BytesIO()
        puts: list[tuple[str, bytes, str]] = []
        format_ = draw.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
        with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
            for _ in range(draw.randrange(1, 9)):
                for name, data, expect in self._sample():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    if expect == "link":
                        entry.type, entry.linkname = draw.choice([b"1", b"2", b"6"]), "a.jpg"
                    tar.addfile(entry, io.BytesIO(data))
                    if expect:
                        puts.append((name, data, "problem" if expect == "link" else expect))
        raw = file.getvalue()
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            offsets = [(entry.name, entry.offset_data) for entry in tar]
        # Members of one name come in the order in which they were written.
        by_name = collections.defaultdict(collections.deque)
        for name, at in offsets:
            by_name[name].append(at)
        placed = []
        for name, data, expect in puts:
            placed.append((name, by_name[name].popleft(), data, expect))
        return raw, placed

    def _sample(self) -> Iterator[tuple[str, bytes, str]]:
        """Yield members: name, data, and what is expected of it, empty for no image."""
        draw = self.draw
        folder = draw.choice(["", "cat/", "deep/er/", "./", "../", "/abs/"])
        stem = f"{folder}{draw.choice(STEMS)}"
        suffix = draw.choice(list(FORMATS))
        kind = draw.choice(["one", "one", "maps", "two", "twice", "none", "hidden", "link", "text"])
        yield f"{stem}.{suffix}", self._picture(FORMATS[suffix]), "row"
        if draw.random() < 0.5:
            yield f"{stem}.cls", draw.choice(LABELS).encode(), ""
        if kind == "maps":
            yield f"{stem}.seg.png", self._picture("PNG"), "row"
            yield f"{stem}.json", b"{}", ""
        elif kind == "two":
            yield f"{stem}.bmp2.png", self._picture("PNG"), "row"
            yield f"{stem}.gif", b"GIF89a no picture", "row"
        elif kind == "twice":
            yield f"{stem}.{suffix}", self._picture(FORMATS[suffix]), "row"
        elif kind == "none":
            yield f"{folder}bare{draw.randrange(1000)}", self._picture("JPEG"), "row"
        elif kind == "hidden":
            yield f"{folder}.hidden.jpg", self._picture("JPEG"), "problem"
        elif kind == "link":
            yield f"{stem}.link.jpg", b"", "link"
        elif kind == "text":
            yield "README", b"text", ""


def faults(
    source: Source, rows: Iterable[tuple[str, int, bytes]], problems: list[Any]
) -> list[str]:
    """Compare: ``rows`` are path, offset and bytes; returns what is wrong, empty if nothing."""
    listed = collections.Counter((path, offset) for path, offset, _ in rows)
    data_of = {(path, offset): data for path, offset, data in rows}
    lost = [p for p in problems if p["reason"] not in NOTES]
    named = collections.Counter((path_of_text(p["shard"]), p["member"]) for p in lost)
    places = {path_of_text(p["shard"]) for p in problems if not p["member"]}
    incomplete = {path_of_text(p["shard"]) for p in problems if p["reason"] in INCOMPLETE}
    wrong = [f"listed {count} times: {place}" for place, count in listed.items() if count > 1]
    for image in source.images:
        place = (image.path, image.offset)
        is_row = place in listed
        if is_row and data_of[place] != image.data:
            wrong.append(f"other bytes: {image.path} {image.member}")
        member = os.fsencode(image.member).decode("utf-8", "backslashreplace")
        folders = map(str, Path(image.path).parents)
        is_named = named[image.path, member] > 0 or not places.isdisjoint(folders)
        if not is_row:
            named[image.path, member] -= 1  # a problem names one image
        if image.expect == "either":
            is_named = is_named or image.path in incomplete
        if not is_row and not is_named:
            wrong.append(f"neither row nor problem: {image.path} {image.member}")
        if is_row and image.expect == "problem":
            wrong.append(f"must not be a row: {image.path} {image.member}")
        if not is_row and image.expect == "row":
            wrong.append(f"must be a row: {image.path} {image.member}")
    there = {(image.path, image.offset) for image in source.images}
    wrong += [f"nothing was put there: {place}" for place in listed.keys() - there]
    return wrong


def rows_of(source: Source, shards: list[str], offsets: list[int], data: list[bytes]) -> list[Any]:
    """Name unpacked copies by the tars that they were made of."""
    copies = {}
    for path in {image.path for image in source.images if image.member}:
        copies[sha256_file(Path(path))[:8]] = path
    rows = []
    for shard, offset, content in zip(shards, offsets, data, strict=True):
        copy = re.fullmatch(r".*/unpacked/.*-([0-9a-f]{8})\.tar", shard, re.DOTALL)
        rows.append((copies[copy[1]] if copy else path_of_text(shard), offset, content))
    return rows


@functools.cache
def load_once(config: type, *words: str, recipe: Path | None = None) -> Any:
    """Load a recipe, which takes longer than to list a source."""
    from dinoforge.config import load_config

    return load_config(config, recipe, list(words))


def list_curate(source: Source, work: Path) -> tuple[list[Any], list[Any]]:
    from dinoforge.curated import resolve_shard
    from dinoforge.curation.config import CurationConfig
    from dinoforge.curation.pipeline import STAGES
    from dinoforge.shards.reading import RangeReader
    from dinoforge.stages import make_executor, make_inputs
    from dinoforge.stages.pipeline import run_stages
    from dinoforge.tables import read_table

    base = load_once(CurationConfig, "sources=[{role: pool, paths: [x]}]", "out=x")
    pool = replace(base.sources[0], paths=(str(source.folder),))
    config = replace(base, sources=(pool,), out=str(work))
    run_stages("curation", STAGES[:3], work, config, make_executor("in-process"))
    inputs = make_inputs("curation", STAGES, work, config)
    index = read_table(inputs.file("ingest", "index.parquet"))
    reader = RangeReader()
    places = [index.column(name).to_pylist() for name in ("shard", "offset", "size")]
    data = [
        reader.read(resolve_shard(work, shard), offset, size)
        for shard, offset, size in zip(*places, strict=True)
    ]
    problems = read_table(inputs.file("ingest", "problems.parquet")).to_pylist()
    return rows_of(source, places[0], places[1], data), problems


def of_set(source: Source, images: Any) -> tuple[list[Any], list[Any]]:
    shards, offsets = (images.table.column(name).to_pylist() for name in ("shard", "offset"))
    data = [images.read(at) for at in range(len(images))]
    return rows_of(source, shards, offsets, data), images.problems


def list_embed(source: Source, work: Path) -> tuple[list[Any], list[Any]]:
    from dinoforge.sources.image_set import open_images

    return of_set(source, open_images([str(source.folder)], cache=work / "cache"))


def list_evaluate(source: Source, work: Path) -> tuple[list[Any], list[Any]]:
    from dinoforge.evaluation.config import SetConfig
    from dinoforge.evaluation.data import Rules, arrange, open_sets
    from dinoforge.evaluation.settings import SplitConfig
    from dinoforge.images import DecodePolicy

    one = SetConfig(train=[str(source.folder)])
    sets = open_sets(one, work / "cache", DecodePolicy())
    arrange(sets, one, Rules(SplitConfig(), 0, ["knn"]))
    return of_set(source, sets[0])


def list_train(source: Source, work: Path) -> tuple[list[Any], list[Any]]:
    import torch

    from dinoforge.training.config import TrainingConfig
    from dinoforge.training.data.dataset import open_training_data
    from dinoforge.training.distributed.ranks import RankInfo

    words = ("data.paths=[x]", "out=x", "data.cache=none", "data.num_workers=0")
    base = load_once(TrainingConfig, *words, recipe=TINY)
    config = replace(base, data=replace(base.data, paths=(str(source.folder),)))
    data = open_training_data(config, work / "cache", RankInfo(), torch.device("cpu"))
    return of_set(source, data.images)


LISTINGS = {
    "curate": list_curate,
    "train": list_train,
    "evaluate": list_evaluate,
    "embed": list_embed,
}
TINY = Path(__file__).resolve().parent.parent / "tests/training/tiny.yaml"
WORDS = {
    "curate": ["sources=[{{role: pool, paths: [{source}]}}]", "out={out}"],
    "train": [
        str(TINY),
        *("data.paths=[{source}]", "data.num_workers=0", "data.max_bad_share=1"),
        *("steps=1", "out={out}"),
    ],
    "evaluate": ["train=[{source}]", "out={out}", "protocols=[knn]", "knn.k=[1]"],
    "embed": ["{source}", "--out", "{out}"],
}


def run_command(command: str, source: Source, work: Path) -> dict[str, Any] | str:
    """Run a whole command; returns what it recorded about its sources, or its error."""
    from dinoforge.cli.main import main
    from dinoforge.runs import read_facts

    words = [word.format(source=source.folder, out=work) for word in WORDS[command]]
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main([command, *words, "-q"])
    if code:
        return f"exit {code}: {errors.getvalue().strip()}"
    return read_facts(work)["sources"]


def fuzz(
    number: int, seed: int, *, commands: Iterable[str] = tuple(LISTINGS), whole: bool = False
) -> tuple[collections.Counter[str], list[str]]:
    """Try one source with some commands; returns counts and faults."""
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name)
        source = Generator(root / "source", seed, number).make()
        counts["images in"] = len(source.images)
        for command in commands:
            try:
                rows, problems = LISTINGS[command](source, root / command)
            except UsageError as error:
                counts[f"{command}: refused"] += 1
                counts[f"refused: {re.sub('[0-9]+', 'N', error.faults[0].what)[:60]}"] += 1
                continue
            counts[f"{command}: rows"] += len(rows)
            counts[f"{command}: named"] += len(source.images) - len(rows)
            for problem in problems if command == "embed" else ():
                counts[f"problem: {problem['reason']}"] += 1
            wrong += [f"source {number}, {command}: {f}" for f in faults(source, rows, problems)]
            if whole:
                recorded = run_command(command, source, root / f"{command}-whole")
                counts[f"{command}: whole"] += 1
                reasons = collections.Counter(entry["reason"] for entry in problems)
                if isinstance(recorded, str):
                    wrong.append(f"source {number}, {command}: {recorded}")
                elif (recorded["images"], recorded["problems"]) != (len(rows), reasons):
                    wrong.append(f"source {number}, {command}: run.json states {recorded}")
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", type=int, default=100, help="whole commands every N sources")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    args = parser.parse_args()
    logging.getLogger("dinoforge").setLevel(logging.ERROR)
    started, total, wrong = time.monotonic(), collections.Counter(), []
    for number in range(args.first, args.first + args.sources):
        counts, new = fuzz(number, args.seed, whole=number % args.whole == 0)
        total += counts
        wrong += new
        for line in new[:5]:
            print(line, flush=True)
    figures = {
        "seed": args.seed,
        "sources": args.sources,
        "unaccounted": len(wrong),
        "seconds": round(time.monotonic() - started),
        "counts": dict(sorted(total.items())),
    }
    print(json.dumps(figures, indent=1))
    if args.record:
        from recording import write_result

        print(write_result("fuzz_sources", figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
