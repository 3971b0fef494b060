"""``dinoforge embed``: one vector per image, by any encoder, into a NumPy file and a table."""

import argparse
import functools
from dataclasses import asdict
from pathlib import Path

from dinoforge.cli.arguments import (
    Command,
    add_decoding_arguments,
    add_output_arguments,
    load_flags,
    path_argument,
    print_json,
    source_argument,
)
from dinoforge.encoders.make import ENCODERS

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=path_argument)
    parser.add_argument(
        "paths",
        nargs="+",
        type=source_argument,
        metavar="IMAGES",
        help="folders, tars, curation runs, or their URLs",
    )
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
    parser.add_argument(
        "--precision",
        default="float32",
        help="float32 (default), bfloat16 or float16: of the products of the network",
    )
    add_decoding_arguments(parser)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.config import to_plain
    from dinoforge.config.paths import EncoderSpec, expand_paths
    from dinoforge.encoders.embedding import EmbedConfig, embed_images
    from dinoforge.runs import Run

    flags = ("device", "workers", "precision")
    config = load_flags(args, EmbedConfig, flags)
    settings = {name: getattr(args, name) for name in ("paths", "encoder", "batch_size")}
    settings |= to_plain(config)
    del settings["workers"]  # the same vectors with any number
    with Run.start(Path(args.out), command="embed", settings=settings) as run:
        summary = embed_images(
            args.paths,
            encoder=expand_paths(args.encoder, EncoderSpec),
            out=run.folder,
            batch_size=args.batch_size,
            config=config,
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
