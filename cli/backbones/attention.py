"""``dinoforge attention``: where the class token looks, as pictures per head."""

import argparse
import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import (
    Command,
    add_decoding_arguments,
    add_output_arguments,
    load_flags,
    path_argument,
    print_json,
    source_argument,
)

if TYPE_CHECKING:
    from dinoforge.attention.images import AttentionSummary
    from dinoforge.attention.video import VideoSummary

__all__ = ["COMMAND"]

_FPS = (0.01, 1000)  # least and most that are written as fractions


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_path = parser.add_argument, functools.partial(parser.add_argument, type=path_argument)
    add(
        "paths",
        nargs="+",
        type=source_argument,
        metavar="IMAGES",
        help="images, folders, tars, curation runs, or their URLs; or one video file",
    )
    add_path(
        "--checkpoint",
        required=True,
        metavar="SOURCE",
        help="training run, file of weights, folder of transformers",
    )
    add_path("--out", required=True, metavar="FOLDER", help="output folder")
    add("--step", type=int, metavar="N", help="export of a run (default: newest)")
    add(
        "--positions",
        metavar="MODE",
        help="how positions are resampled, for a file that does not specify it",
    )
    add(
        "--size",
        default="480",
        metavar="PIXELS",
        help="resize the shorter side to this (default: 480; 0: as it is)",
    )
    add(
        "--threshold",
        default="0",
        metavar="SHARE",
        help="also masks of the patches that hold this share of the attention, e.g. 0.6",
    )
    add("--smooth", action="store_true", help="interpolate between patches (default: squares)")
    video = "IMAGES are the frames of a video, in order of their names"
    add("--video", action="store_true", help=video)
    rate = "frames per second of the video (default: of the video file, or 30)"
    add("--fps", type=float, metavar="RATE", help=rate)
    add("--array", action="store_true", help="also attention.npy: float32 [heads, rows, columns]")
    add_decoding_arguments(parser)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.attention.images import map_images
    from dinoforge.attention.maps import AttentionConfig
    from dinoforge.attention.video import map_video
    from dinoforge.config import to_plain
    from dinoforge.exports.source import open_source
    from dinoforge.runs import Run

    video = _check_video(args)
    flags = ("size", "threshold", "smooth", "array", "device", "workers")
    config = load_flags(args, AttentionConfig, flags)
    source = open_source(Path(args.checkpoint), step=args.step, positions=args.positions)
    settings = {"paths": args.paths, "checkpoint": str(source.path), **to_plain(config)}
    summary: AttentionSummary | VideoSummary
    with Run.start(Path(args.out), command="attention", settings=settings) as run:
        if video:
            summary = map_video(args.paths, source, run.folder, config, fps=args.fps)
        else:
            summary = map_images(args.paths, source, run.folder, config)
    if args.json:
        print_json(asdict(summary))
    else:
        before = f" ({n:,} done before)" if (n := summary.num_done_before) else ""
        unit = "frames" if video else "images"
        print(f"{summary.num_mapped:,} {unit} mapped{before}, {summary.num_bad:,} without a map")
        for line in _places(summary):
            print(line)
    return 0


def _check_video(args: argparse.Namespace) -> bool:
    """Return whether a video is wanted, after checking the flags that depend on it."""
    from dinoforge.attention.video import is_video
    from dinoforge.errors import Fault, UsageError

    video: bool = args.video or any(map(is_video, args.paths))
    faults = []
    if video and args.array:
        faults.append(Fault("`--array` is for images", "command line", "leave it out"))
    if args.fps is not None and not video:
        faults.append(Fault("`--fps` is for a video", "command line", "add --video"))
    do = "give {:g} to {:g}".format(*_FPS)
    if args.fps is not None and not _FPS[0] <= args.fps <= _FPS[1]:
        faults.append(Fault(f"`--fps` is {args.fps:g}", "command line", do))
    if faults:
        raise UsageError(faults=faults)
    return video


def _places(summary: "AttentionSummary | VideoSummary") -> list[str]:
    from dinoforge.attention.images import AttentionSummary

    if isinstance(summary, AttentionSummary):
        return [f"maps: {summary.out}/IMAGE/sheet.png"]
    video = f"video: {summary.video}" if summary.video else f"no video: {summary.remedy}"
    return [f"frames: {summary.frames}", video]


COMMAND = Command(
    sentence="draw the attention of the class token in the last block, one map per head",
    examples=(
        "dinoforge attention photo.jpg --checkpoint runs/vits14 --out runs/attention",
        "dinoforge attention photos/ --checkpoint model.safetensors --threshold 0.6 --out maps",
        "dinoforge attention film.mp4 --checkpoint runs/vits14 --out runs/film",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
