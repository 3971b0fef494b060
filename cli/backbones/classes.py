"""``dinoforge classes``: how classes lie in the features of encoders, against a taxonomy."""

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

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_path = parser.add_argument, functools.partial(parser.add_argument, type=path_argument)
    add(
        "paths",
        nargs="+",
        type=source_argument,
        metavar="IMAGES",
        help="labeled images: folders of classes, tars with .cls, curation runs, or their URLs",
    )
    add(
        "--encoder",
        action="append",
        required=True,
        metavar="[NAME=]SPEC",
        help="encoder, as in `dinoforge embed`; may be repeated: the first is compared with others",
    )
    taxonomy = (
        "imagenet, cifar10 (from WordNet), a file of nodes and parents, or a .csv of distances"
    )
    add_path("--taxonomy", required=True, metavar="TAXONOMY", help=taxonomy)
    add_path("--out", required=True, metavar="FOLDER", help="output folder")
    add("--layout", default="pca", help="of the map: pca (default) or tsne (extra `tsne`)")
    several = functools.partial(add, metavar="N")
    several("--resamples", default="1000", help="of classes, for intervals (default: 1000)")
    several("--permutations", default="999", help="of classes, for p-values (default: 999)")
    several("--seed", default="0", help="of resamples, permutations and layouts (default: 0)")
    several("--batch-size", default="64", help="images per batch (default: 64)")
    add_decoding_arguments(parser)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.config import to_plain
    from dinoforge.config.paths import EncoderSpec, expand_paths
    from dinoforge.evaluation.class_structure.class_map import ClassesConfig, map_classes
    from dinoforge.runs import Run

    flags = ("layout", "resamples", "permutations", "seed", "batch_size", "device", "workers")
    config = load_flags(args, ClassesConfig, flags)
    settings = {"paths": args.paths, "encoder": args.encoder, "taxonomy": args.taxonomy}
    settings |= to_plain(config)
    encoders = [expand_paths(spec, EncoderSpec) for spec in args.encoder]
    with Run.start(Path(args.out), command="classes", settings=settings) as run:
        summary = map_classes(args.paths, encoders, args.taxonomy, run.folder, config)
    if args.json:
        print_json(asdict(summary))
    else:
        print(f"{summary.num_classes:,} classes of {summary.num_images:,} images")
        for name, scores in summary.scores.items():
            print(f"{name}: {', '.join(f'{m} {value:.3f}' for m, value in scores.items())}")
        print(f"page:    {summary.page}")
        print(f"records: {summary.records}")
    return 0


COMMAND = Command(
    sentence="compare how classes lie in features with a taxonomy: map, dendrogram, correlation",
    examples=(
        "dinoforge classes photos/ --encoder mobilenetv2 --taxonomy tree.tsv --out runs/classes",
        "dinoforge classes shards/*.tar --encoder new=checkpoint:model.safetensors "
        "--encoder mobilenetv2 --taxonomy imagenet --layout tsne --out runs/classes",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
