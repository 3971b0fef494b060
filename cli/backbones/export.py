"""``dinoforge export``: a backbone for timm, transformers, torch.hub, ONNX, TorchScript, DINO."""

import argparse
import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import (
    Command,
    add_output_arguments,
    path_argument,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from dinoforge.exports.export import Exported

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=path_argument)
    add("source", metavar="SOURCE", help="training run, file of weights, folder of transformers")
    parser.add_argument(
        "--to", required=True, metavar="FORMAT", help="timm, hf, hub, onnx, torchscript or dino"
    )
    add("--out", required=True, metavar="FOLDER", help="output folder")
    parser.add_argument("--step", type=int, metavar="N", help="export of a run (default: newest)")
    parser.add_argument(
        "--positions",
        metavar="MODE",
        help="how positions are resampled, for a file that does not specify it",
    )
    add(
        "--images",
        nargs="+",
        metavar="IMAGES",
        help="compare on the first eight of these images (default: generated ones)",
    )
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.exports.export import export_backbone, find_format
    from dinoforge.exports.images import read_images
    from dinoforge.exports.source import open_source

    find_format(args.to)  # before the weights are read
    source = open_source(Path(args.source), step=args.step, positions=args.positions)
    images = read_images(args.images) if args.images else None
    exported = export_backbone(source, args.to, Path(args.out), images=images)
    if args.json:
        print_json(asdict(exported))
    else:
        _print(exported, args.out)
    return 0


def _print(exported: "Exported", out: str) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            f"{one['height']} x {one['width']}",
            one["output"],
            f"{one['largest']:.2g}",
            f"{one['relative']:.2g}",
            "" if one["rounding"] is None else f"{one['rounding']:.2g}",
        )
        for one in exported.differences
    ]
    print_table(["image", "output", "largest difference", "relative", "rounding"], rows)
    if exported.resampled_as != exported.positions:
        side = exported.image_size
        print(
            f"equal only at {side} x {side} pixels: {exported.format} resamples positions as "
            f"`{exported.resampled_as}`, this backbone as `{exported.positions}`"
        )
    print(f"{exported.backbone} for {exported.format}: {out}")
    print(f"open it: {exported.use.replace('FOLDER', out)}")


COMMAND = Command(
    sentence="export a backbone for timm, transformers, torch.hub, ONNX, TorchScript or DINO",
    examples=(
        "dinoforge export runs/vits14 --to timm --out exported/timm",
        "dinoforge export runs/vits14 --step 12500 --to hub --out exported/hub",
        "dinoforge export model.safetensors --to onnx --out exported/onnx",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
