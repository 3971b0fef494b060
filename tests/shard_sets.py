"""Tars with side data, shards made of them in this process, and what these hold."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from dinoforge.config import load_config
from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.curation.sharding.pipeline import PIPELINE
from dinoforge.runs import Run
from dinoforge.shards.reading import read_samples
from dinoforge.stages import make_executor, run_pipeline


def picture(number, side=24, suffix="jpeg"):
    """Bytes of a picture that no other number gives."""
    draw = np.random.default_rng(number)
    pixels = draw.integers(0, 255, (side, side + number % 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


def write_tar(path, samples):
    """Write samples, {key: {extension: bytes}}, with owners and times that a copy must not have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime, info.uname = len(data), 12345, "someone"
                tar.addfile(info, io.BytesIO(data))
    return path


def samples_of(first, stop):
    """Samples in the layout of DataComp: a picture, a caption, side data with a uid."""
    return {
        f"{at:08d}": {
            "jpg": picture(at),
            "txt": f"caption {at}".encode(),
            "json": json.dumps({"uid": f"{at:032x}", "url": f"http://x/{at}"}).encode(),
        }
        for at in range(first, stop)
    }


def run_shard(out: Path | ShardingConfig, *words: str, on: str = "in-process"):
    """Run the pipeline in a folder with some keys, or a whole recipe; returns the summary."""
    config = out
    if not isinstance(out, ShardingConfig):
        config = load_config(ShardingConfig, None, [f"out={out}", *words])
    executor = make_executor(on)
    try:
        with Run.open(Path(config.out), config, command="shard", on_change="update") as run:
            return run_pipeline(PIPELINE, run.folder, config, executor)
    finally:
        executor.close()


def written(out: Path):
    """All samples of the shards of a run, in order: key and bytes by extension."""
    shards = sorted((out / "shards").glob("*.tar"))
    return [sample for shard in shards for sample in read_samples(shard)]


def files_of(out: Path):
    """Name and bytes of everything beside the shards."""
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}
