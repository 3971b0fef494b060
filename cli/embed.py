"""``dinoforge embed``: one vector per image, by any encoder, into a NumPy file and a table."""

import argparse
import functools
from dataclasses import asdict
from pathlib import Path

from dinoforge.cli.arguments import Command, add_output_arguments, path_argument, print_json
from dinoforge.encoders.make import ENCODERS

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=path_argument)
    add("paths", nargs="+", metavar="IMAGES", help="folders, tars, curation runs")
    parser.add_argument(
        "--encoder",
        default="pixels",
        metavar="SPEC",
        help=f"encoder: {', '.join(ENCODERS)} (default: pixels)",
    )
    add("--out", required=True, metavar="FOLDER", help="output folder")
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images per batch (default: 64)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--decode",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as decode.KEY of a recipe, e.g. range=[0,4095]; may be repeated",
    )
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.config import load_config, to_plain
    from dinoforge.config.paths import EncoderSpec, expand_paths
    from dinoforge.encoders.embedding import EmbedConfig, embed_images
    from dinoforge.runs import Run
    from dinoforge.sources.outputs import check_out

    check_out(args.paths, args.out)
    words = [f"device={args.device}", *(f"decode.{word}" for word in args.decode)]
    config = load_config(EmbedConfig, None, words)
    settings = {name: getattr(args, name) for name in ("paths", "encoder", "batch_size")}
    settings |= to_plain(config)
    with Run.start(Path(args.out), command="embed", settings=settings) as run:
        summary = embed_images(
            args.paths,
            encoder=expand_paths(args.encoder, EncoderSpec),
            out=run.folder,
            batch_size=args.batch_size,
            device=config.device,
            decode=config.decode,
        )
    if args.json:
        print_json(asdict(summary))
    else:
        print(f"{summary.num_embedded:,} images embedded, {summary.num_bad:,} undecodable")
        print(f"vectors: {summary.embeddings}  (float32 [{summary.num_rows}, {summary.dim}])")
        print(f"rows:    {summary.rows}")
    return 0


COMMAND = Command(
    sentence="embed images with any encoder into one array and one table of rows",
    examples=(
        "dinoforge embed photos/ --out runs/photos-embedded",
        "dinoforge embed shards/*.tar --encoder mobilenetv2 --out runs/semantic",
        "dinoforge embed photos/ --encoder checkpoint:model.safetensors --out runs/features",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
