"""Attention of every frame of a video, and a video of it, for ``dinoforge attention``."""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinoforge.attention.drawing import draw_maps, shaded, write_png
from dinoforge.attention.ffmpeg import VideoFile, find_ffmpeg, write_video
from dinoforge.attention.images import image_facts, settings_of
from dinoforge.attention.maps import AttentionConfig, AttentionMaps, Decoder, Mapped, map_each
from dinoforge.attention.masks import attention_masks
from dinoforge.errors import UsageError
from dinoforge.exports.source import Source
from dinoforge.files import hash_json, read_object, write_json
from dinoforge.progress import Progress
from dinoforge.runs import record_facts
from dinoforge.shards.index import Problem, problem
from dinoforge.sources.accounting import Account, name_undecodable, write_problems
from dinoforge.sources.image_set import open_images
from dinoforge.sources.outputs import mark_cache

__all__ = ["VideoSummary", "is_video", "map_video"]

_log = logging.getLogger(__name__)

_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}
_FOLDER, _VIDEO, _MARKER = "attention", "attention.mp4", "frames.json"
_FPS = 30.0  # of frames without a video, as DINO's video_generation.py


@dataclass(frozen=True)
class VideoSummary:
    """Where the frames and the video are, and counts of frames."""

    frames: str  # folder
    video: str  # "" if it was not assembled
    fps: float
    num_frames: int
    num_mapped: int  # earlier starts included
    num_done_before: int
    num_bad: int  # undecodable, smaller than a patch or too large: not in the video
    num_other_size: int  # not in the video: the first frame has another size
    remedy: str  # why there is no video, and what to do; "" if there is one


@dataclass(frozen=True)
class _Frames:
    """Frames by number, of a file or of images."""

    total: int
    fps: float
    identity: Any  # for the fingerprint
    read: Callable[[Collection[int]], Iterator[tuple[int, Decoder]]]  # all but these
    problems: Sequence[Problem]  # of what is no image
    name: Callable[[dict[int, str]], list[Problem]]  # why frames have no map


def is_video(path: str) -> bool:
    """Return whether a path is that of a video file, by its suffix."""
    return Path(path).suffix.lower() in _SUFFIXES


def map_video(
    paths: Sequence[str],
    source: Source,
    out: Path,
    config: AttentionConfig,
    *,
    fps: float | None = None,
) -> VideoSummary:
    """Draw the attention of every frame, then assemble ``attention.mp4`` in ``out``.

    ``paths`` are one video file, which needs the extra ``video``, or images, whose order is that of
    their keys, numbers by value. ``attention/frame-000000.png`` ... show frame and mean over heads
    side by side, with a threshold also the patches that hold this share of the mean. A later call
    with the same settings goes on with the next frame. Without the extra there is no video.

    Raises
    ------
    UsageError
        For bad paths, a damaged video, a device that is unavailable, or if no frame has a map.
    """
    mark_cache(out / "cache")
    frames = _open_file(paths) if any(map(is_video, paths)) else _open(paths, out, source, config)
    folder = out / _FOLDER
    _start(folder, hash_json([settings_of(source, config), frames.identity]))
    files = [folder / f"frame-{number:06d}.png" for number in range(frames.total)]
    done = {number for number, path in enumerate(files) if path.exists()}
    problems: dict[int, str] = {}
    maps = AttentionMaps(source, config.device)
    with Progress(frames.total, unit="frames", label="attention", done=len(done)) as progress:
        for numbered in map_each(frames.read(done), maps, config, problems):
            if numbered is not None:
                write_png(files[numbered[0]], _draw(numbered[1], config))
            progress.advance()
    account = Account.of(frames.total, frames.problems, undecodable=len(problems))
    record_facts(out, sources=account.as_json())
    account.log()
    write_problems(out, [*frames.problems, *frames.name(problems)])
    drawn = [path for number, path in enumerate(files) if number not in problems]
    if not drawn:
        what = f"none of the {frames.total} frames can be mapped ({problems[min(problems)]})"
        do = "give other frames, or another --size"
        raise UsageError(what=what, where=", ".join(paths), do=do)
    num_other_size, remedy = 0, ""
    try:
        program = find_ffmpeg(str(out / _VIDEO))
    except UsageError as missing:
        remedy = str(missing)
    else:
        num_other_size = _assemble(program, drawn, out / _VIDEO, fps or frames.fps)
    return VideoSummary(
        frames=str(folder),
        video="" if remedy else str(out / _VIDEO),
        fps=fps or frames.fps,
        num_frames=frames.total,
        num_mapped=len(drawn),
        num_done_before=len(done),
        num_bad=len(problems),
        num_other_size=num_other_size,
        remedy=remedy,
    )


def _start(folder: Path, fingerprint: str) -> None:
    """Remove the video, and frames of other settings."""
    (folder.parent / _VIDEO).unlink(missing_ok=True)
    if read_object(folder / _MARKER) != {"fingerprint": fingerprint}:
        for path in folder.glob("frame-*.png"):
            path.unlink()
        write_json(folder / _MARKER, {"fingerprint": fingerprint})


def _open(paths: Sequence[str], out: Path, source: Source, config: AttentionConfig) -> _Frames:
    images = open_images(paths, cache=out / "cache", policy=config.decode)
    keys = images.table.column("key").to_pylist()
    order = sorted(range(len(keys)), key=lambda index: _natural(keys[index]))
    numbers = {index: number for number, index in enumerate(order)}

    def read(done: Collection[int]) -> Iterator[tuple[int, Decoder]]:
        todo = (index for number, index in enumerate(order) if number not in done)
        for index, decode in images.decoders_of(todo):
            yield numbers[index], decode

    def name(problems: dict[int, str]) -> list[Problem]:
        reasons = {order[number]: why for number, why in problems.items()}
        return name_undecodable(images.table, reasons)

    identity = list(image_facts(images, source, config))
    return _Frames(len(images), _FPS, identity, read, images.problems, name)


def _natural(key: str) -> list[tuple[int, str]]:
    """Sort ``frame_10`` after ``frame_2``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def _open_file(paths: Sequence[str]) -> _Frames:
    path = Path(paths[0])
    if len(paths) > 1 or not path.is_file():
        what = f"{len(paths)} paths with a video" if len(paths) > 1 else "no such video file"
        do = "give one video file, or frames with --video"
        raise UsageError(what=what, where=", ".join(paths), do=do)
    video = VideoFile(path)

    def read(done: Collection[int]) -> Iterator[tuple[int, Decoder]]:
        for number, frame in enumerate(video.read()):
            if number not in done:
                yield number, partial(np.asarray, frame)

    def name(problems: dict[int, str]) -> list[Problem]:
        return [
            problem(str(path), f"frame {number}", "undecodable", why)
            for number, why in problems.items()
        ]

    stat = path.stat()
    identity = [str(path.absolute()), stat.st_size, stat.st_mtime_ns]
    return _Frames(video.total, video.fps, identity, read, [], name)


def _draw(mapped: Mapped, config: AttentionConfig) -> NDArray[np.uint8]:
    image, mean_1XY = mapped.image, mapped.attention.astype(np.float64).mean(axis=0)[None]
    masks = attention_masks(mean_1XY, mass=config.threshold) if config.threshold else None
    drawn = draw_maps(image, mean_1XY, masks, smooth=config.smooth)
    panels = [image, drawn["mean"]]
    if masks is not None:
        panels.append(shaded(image, drawn["mask-00"]))
    return np.concatenate(panels, axis=1)


def _assemble(program: str, frames: Sequence[Path], path: Path, fps: float) -> int:
    """Write a video of the frames that have the size of the first; count the others."""
    sizes = [_size(frame) for frame in frames]
    same = [frame for frame, size in zip(frames, sizes, strict=True) if size == sizes[0]]
    width, height = (side // 2 * 2 for side in sizes[0])  # its colors have half the resolution
    pictures = (_read(frame)[:height, :width] for frame in same)
    write_video(program, pictures, path, size=(width, height), fps=fps)
    if others := len(frames) - len(same):
        _log.warning("%d frames have another size than the first: not in the video", others)
    return others


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.array(image)
