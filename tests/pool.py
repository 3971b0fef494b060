"""A small pool of real pictures with everything in it that a curation has to cope with.

Tiles of photographs in class folders, two tars (one compressed), copies, files that do not decode,
pictures that the filter refuses, seeds, a benchmark that leaks. Every time stamp is the same, so
that two pools made apart are equal for the curation.
"""

import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinoforge.config import load_config
from dinoforge.curated import ledger_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import curate
from dinoforge.runs import Run
from dinoforge.shards.reading import read_samples
from dinoforge.sources.photographs import write_tiles
from dinoforge.stages import make_executor
from dinoforge.tables import read_table

_SPEC = importlib.util.spec_from_file_location(
    "kill", Path(__file__).parents[1] / "benchmarks/kill.py"
)
kill = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(kill)

MODIFIED = 1_700_000_000  # seconds; of every file

# What makes small data go through several partitions, blocks and shards.
SMALL = (
    *("partition_images=48", "duplicates.block_images=32", "duplicates.blocks_per_partition=3"),
    *("export.shard_images=25", "plant.count=12", "filter.min_side=24", "seed=3"),
    *("retrieve.mode=seeds", "retrieve.k=6"),
)


@dataclass(frozen=True)
class Pool:
    """Folders of a pool; ``leaked`` is the pool image whose copy lies in the benchmark."""

    folder: Path
    leaked: str
    copied: str

    @property
    def sources(self) -> list[dict[str, Any]]:
        paths = {"seed": "seeds", "pool": "pool", "reference": "test"}
        return [{"role": r, "paths": [str(self.folder / p)]} for r, p in paths.items()]


def make_pool(folder: Path) -> Pool:
    """Write a pool; the files inside are the same bytes whenever and wherever it is called."""
    write_tiles(folder, tile=48, stride=150)
    (folder / "tiles.json").unlink()
    pool = folder / "pool"
    photographs = sorted(path.name for path in pool.iterdir())
    first = min((pool / photographs[0]).iterdir())
    shutil.copy(first, pool / "copied.png")
    # Photographs by class folder: the last two go into tars, with labels instead.
    (pool / "tars").mkdir()
    (pool / "tars/classes.txt").write_text(f"{photographs[-2]}\n{photographs[-1]}\n")
    _into_tar(pool, photographs[-1], "sound.tar", labels="1")
    _into_tar(pool, photographs[-2], "cut.tar.gz", labels="0", cut=2000)
    leaked = min((pool / photographs[3]).iterdir())
    shutil.copy(leaked, folder / "test/leaked.png")
    _oddities(pool, first.read_bytes())
    for path in sorted(folder.rglob("*")):
        os.utime(path, (MODIFIED, MODIFIED))
    return Pool(folder, f"{photographs[3]}/{leaked.stem}", f"{photographs[0]}/{first.stem}")


def _oddities(pool: Path, picture: bytes) -> None:
    nested = pool / "a/b/c"
    nested.mkdir(parents=True)
    (nested / "wrong_suffix.jpg").write_bytes(picture)
    (nested / "no_suffix").write_bytes(picture)
    (pool / "text.jpg").write_text("<html>not found</html>")
    (pool / "empty.png").write_bytes(b"")
    (pool / "half.png").write_bytes(picture[: len(picture) // 2])
    (pool / "notes.txt").write_text("no image\n")
    (pool / ".hidden.png").write_bytes(picture)
    for name, shape in (("tiny", (8, 8)), ("long", (24, 400)), ("flat", (64, 64))):
        ramp = np.zeros((*shape, 3), np.uint8)
        ramp += np.uint8(90) if name == "flat" else np.arange(shape[1], dtype=np.uint8)[:, None]
        Image.fromarray(ramp).save(pool / f"{name}.png")


def _into_tar(pool: Path, name: str, tar_name: str, *, labels: str, cut: int = 0) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted((pool / name).iterdir()):
            for member, data in ((path.name, path.read_bytes()), (f"{path.stem}.cls", labels)):
                raw = data if isinstance(data, bytes) else data.encode()
                entry = tarfile.TarInfo(member)
                entry.size = len(raw)
                tar.addfile(entry, io.BytesIO(raw))
    data = file.getvalue()
    if cut:
        data = data[: -(10240 + cut)]
    if tar_name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    (pool / "tars" / tar_name).write_bytes(data)
    shutil.rmtree(pool / name)


def recipe(sources: list[dict[str, Any]], out: Path, *more: str) -> CurationConfig:
    """Resolve the small recipe with changes, as the command does."""
    return load_config(
        CurationConfig, None, [f"sources={json.dumps(sources)}", f"out={out}", *SMALL, *more]
    )


def curated(
    config: CurationConfig,
    *,
    on: str = "in-process",
    on_change: str = "refuse",
    executor: Any = None,
) -> Any:
    """Run a curation in this process; returns its summary."""
    executor = executor or make_executor(on)
    try:
        with Run.open(Path(config.out), config, command="curate", on_change=on_change) as run:
            return curate(config, run, executor)
    finally:
        executor.close()


def ledger(run: Path) -> list[dict[str, Any]]:
    """Rows of the ledger of a run."""
    return read_table(ledger_path(run)).to_pylist()


def samples(run: Path) -> dict[str, bytes]:
    """Key -> bytes of the image, of every sample in the shards of a run."""
    result = {}
    for tar in sorted((run / "shards").glob("*.tar")):
        for key, members in read_samples(tar):
            result[key] = next(d for name, d in members.items() if name not in ("cls", "json"))
    return result


def differences(a: Path, b: Path) -> list[str]:
    """Names of the files in which two runs differ, but for what may differ."""
    first, second = kill.state(a), kill.state(b)
    assert {Path(name).suffix for name in first} >= {".done", ".parquet", ".npy", ".tar", ".json"}
    return [n for n in sorted(first.keys() | second.keys()) if first.get(n) != second.get(n)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
