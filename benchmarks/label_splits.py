"""Draw which images keep their labels, as files for `support.subset` and `subsets` of evaluations.

    python benchmarks/label_splits.py "../shared/data/cifar10/cifar10-train-{000000..000004}.tar.gz"

Writes ``FOLDER/NAME-PER_CLASS-SEED.txt``: keys of images, as many of each class, class by class.
Draws of a seed are nested: those of 4 per class are among those of 25.
"""

import argparse
import tempfile
from pathlib import Path

from dinoforge.evaluation.methods.low_shot import draw_few
from dinoforge.images import DecodePolicy
from dinoforge.sources.image_set import open_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", help="folders, tars or globs with labels")
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--per-class", type=int, nargs="+", default=[4, 25])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("configs/training/labels"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        images = open_images(args.paths, cache=Path(cache), policy=DecodePolicy())
    keys = images.table["key"].to_pylist()
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for per_class in args.per_class:
            rows = draw_few(images.labels, per_class, seed)
            file = args.folder / f"{args.name}-{per_class}-{seed}.txt"
            file.write_text("".join(f"{keys[row]}\n" for row in rows.tolist()), encoding="utf-8")


if __name__ == "__main__":
    main()
