"""Crops per core-second of the DINOv2 recipe: JPEG -> 2 x 224 + 8 x 98 normalized float tensors.

    python benchmarks/crops.py --peers ../shared/peers ../shared/data/imagenet-sample/*.tar

dinoforge: `TrainingData`, that is reading, order, boxes, decode, crops and colors
of a batch in one process. Peers, out of ``bench_aug.py``: the published recipe (torchvision on
PIL images), its own OpenCV pipeline, and lightly-train if it is installed. All in one process,
one thread, the same images every round; the peers drop each image, dinoforge hands over a batch.
Ratio: images per CPU second of dinoforge / of the peer.

torchvision 0.28.0 imports beside torch 2.13.0+cpu without its compiled operators, which no
transform uses (`measuring.load_script`). An environment of its own for the peers:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install torch==2.13.0 -e ".[cpu]"
    /tmp/peers/bin/pip install opencv-python-headless
    /tmp/peers/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.31 lightly==1.6.0 \
        lightly-train==0.18.0 albumentations==2.0.8 albucore==0.0.24 pytorch-lightning ...
        # and what the imports then ask for, always with --no-deps
"""

import argparse
import importlib.metadata
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measuring import blas, interleave, load_script, print_table, ratios, spread, start_clean
from recording import write_result

from dinoforge.images import Undecodable
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.training.config import CropsConfig
from dinoforge.training.data.dataset import TrainingData
from dinoforge.training.data.order import ImageOrder
from dinoforge.training.data.parts import DataConfig

OURS = "dinoforge"
PUBLISHED = "published recipe, torchvision on PIL"
# The names of bench_aug.py for the blur probabilities.
BLUR = {"as_written": "paper", "as_published": "effective"}
PACKAGES = ("torchvision", "opencv-python-headless", "opencv-python", "lightly-train")
PACKAGES += ("albumentations", "simplejpeg")


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of bench_aug.py")
    parser.add_argument("--num", type=int, default=64, help="images; a multiple of the batch")
    parser.add_argument("--batch", type=int, default=64, help="of dinoforge")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blur", choices=BLUR, default="as_written")
    parser.add_argument("images", nargs="+", help="tars or folders of JPEG files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    images = some_images(args.images, args.num)
    files = [images.read(index) for index in range(len(images))]
    contestants = {OURS: actual(images, args)} | peers(args, files)
    for run in contestants.values():
        run()
    seconds, _ = interleave(contestants, args.rounds)
    figures = {
        "images": args.num,
        "mean_bytes": round(sum(map(len, files)) / len(files)),
        "batch": args.batch,
        "blur": args.blur,
        "rounds": args.rounds,
        "packages": installed(),
        "blas": blas(),
        "pipelines": {
            name: {
                "images_per_cpu_s": spread([args.num / each for each in seconds[name]], 1),
                "ratio": ratios(seconds[name], seconds[OURS]),
            }
            for name in contestants
        },
    }
    show(figures)
    print(write_result(f"crops-{args.blur}-batch{args.batch}", figures).name)


def some_images(paths: list[str], num: int) -> ImageSet:
    """Choose ``num`` RGB images that decode, always the same ones."""
    everything = open_images(paths, cache=Path("/nonexistent"))
    chosen: list[int] = []
    for index in np.random.default_rng(0).permutation(len(everything)):
        try:
            everything.decode(int(index))
        except Undecodable:
            continue
        chosen.append(int(index))
        if len(chosen) == num:
            break
    return ImageSet(everything.table.take(pa.array(chosen)), everything.policy)


def actual(images: ImageSet, args: argparse.Namespace) -> Callable[[], None]:
    config = DataConfig(paths=args.images, cache="none")
    order = ImageOrder(config.mixture, [len(images)], batch_size=args.batch, seed=0)
    data = TrainingData(images, CropsConfig(blur=args.blur), config, order=order)
    steps = args.num // args.batch
    done = 0

    def run() -> None:
        nonlocal done  # the next pass over the images: other crops
        for step in range(done, done + steps):
            batch = data.batch(step)
            assert len(batch.local_crops) == 8 * args.batch, "8 local crops per image"
        done += steps

    return run


def peers(args: argparse.Namespace, files: list[bytes]) -> dict[str, Callable[[], None]]:
    peer = load_script(args.peers / "bench_aug.py")
    blur = peer["BLUR"][BLUR[args.blur]]
    opencv = peer["cv2_pipeline"](blur, random.Random(0))
    result = {
        PUBLISHED: (peer["dec_pil"], peer["pil_pipeline"](blur)),
        "OpenCV, cv2 decode": (peer["dec_cv2"], opencv),
        "OpenCV, libjpeg-turbo": (peer["dec_turbo"], opencv),
        "OpenCV, turbo, scaled decode": (peer["dec_turbo_scaled"], opencv),
    }
    if args.blur == "as_written":  # its default probabilities
        try:
            result["lightly-train"] = (peer["dec_pil_np"], peer["lightly_pipeline"]())
        except ImportError as error:
            print(f"lightly-train left out: {error}", file=sys.stderr)

    def running(decode: Callable[[bytes], Any], crop: Callable[[Any], Any]) -> Callable[[], None]:
        def run() -> None:
            for data in files:
                assert len(list(crop(decode(data)))) == 10, "2 global and 8 local crops"

        return run

    return {name: running(*parts) for name, parts in result.items()}


def installed() -> dict[str, str]:
    result = {}
    for name in PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def show(figures: dict[str, Any]) -> None:
    rows = []
    for name, pipeline in figures["pipelines"].items():
        rate, ratio = pipeline["images_per_cpu_s"], pipeline["ratio"]
        rows.append(
            [
                name,
                f"{rate['median']:.1f} [{rate['min']:.1f}..{rate['max']:.1f}]",
                f"{ratio['median']:.2f} [{ratio['min']:.2f}..{ratio['max']:.2f}]",
            ]
        )
    print(f"{figures['images']} images, mean {figures['mean_bytes'] // 1000} kB, {figures['blur']}")
    print_table(["pipeline", "images per CPU s", "ratio"], rows)


if __name__ == "__main__":
    main()
