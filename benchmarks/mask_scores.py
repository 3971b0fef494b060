"""J and F of DAVIS masks against the published scorer's formulas, written plainly.

    python benchmarks/mask_scores.py --data DAVIS_TARS --rounds 5 --record

The plain formulas are those of `tests/evaluation/metrics/test_masks.py`, with SciPy's dilation by a
disk, and with that of OpenCV (one thread), which the published scorer uses: `pip install
opencv-python-headless`. Every frame is scored against the one before it. Ratio: CPU seconds of the
plain formulas / those of dinoforge, in the same round.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import interleave, load_script, print_table, ratios, spread, start_clean
from recording import write_result

from dinoforge.evaluation.layouts.video import open_video_tars
from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.masks import boundary_f, jaccard

ORACLE = Path(__file__).parents[1] / "tests/evaluation/metrics/test_masks.py"
SIZES = ((480, 854), (240, 427))
NEW = "dinoforge"


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of tars of DAVIS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=12, help="of every video")
    parser.add_argument("--record", action="store_true", help="write it to results/")
    args = parser.parse_args()
    videos = open_video_tars(sorted(args.data.glob("*.tar")))
    figures: dict[str, Any] = {"rounds": args.rounds, "frames_per_video": args.frames}
    masks = {video.name: video.read_annotations()[: args.frames + 1] > 0 for video in videos}
    for height, width in SIZES:
        sized = [np.stack([resize_nearest(m, height, width) for m in ms]) for ms in masks.values()]
        figures[f"{height} x {width}"] = compare(sized, args.rounds)
    for size in (f"{height} x {width}" for height, width in SIZES):
        rows = [
            (k, v["ms_per_frame"]["median"], v["ratio"]["median"], v["largest_difference"])
            for k, v in figures[size].items()
        ]
        print_table((size, "CPU ms per object and frame", "ratio", "largest difference"), rows)
    if args.record:
        print(write_result("mask_scores", figures).name)


def compare(videos: list[Any], rounds: int) -> dict[str, Any]:
    """Time every way on the same masks; the values of all are compared."""
    contestants: dict[str, Callable[[], Any]] = {NEW: partial(score, videos)}
    contestants |= {name: partial(plainly, videos, way) for name, way in dilations().items()}
    seconds, values = interleave(contestants, rounds + 1)
    num_frames = sum(len(masks) - 1 for masks in videos)
    return {
        name: {
            "ms_per_frame": spread([1000 * s / num_frames for s in seconds[name][1:]]),
            "ratio": ratios(seconds[name][1:], seconds[NEW][1:]),
            "largest_difference": float(np.abs(values[name] - values[NEW]).max()),
        }
        for name in contestants
    }


def score(videos: list[Any]) -> Any:
    parts = [(jaccard(m[1:], m[:-1]), boundary_f(m[1:], m[:-1])) for m in videos]
    return np.concatenate([np.stack(part, axis=1) for part in parts])


def plainly(videos: list[Any], dilate: Callable[[Any, Any], Any]) -> Any:
    plain = load_oracle()
    void = np.zeros_like(videos[0][0])
    return np.array(
        [
            (plain["plain_j"](a, b, void), plain["plain_f"](a, b, void, dilate=dilate))
            for masks in videos
            for a, b in zip(masks[1:], masks[:-1], strict=True)
        ]
    )


_oracle: dict[str, Any] = {}


def load_oracle() -> dict[str, Any]:
    if not _oracle:
        _oracle.update(load_script(ORACLE))
    return _oracle


def dilations() -> dict[str, Callable[[Any, Any], Any]]:
    """Dilate a mask by a disk with SciPy, and with OpenCV if it is installed."""
    from scipy.ndimage import binary_dilation

    ways: dict[str, Callable[[Any, Any], Any]] = {"plain, SciPy": binary_dilation}
    try:
        import cv2
    except ImportError:
        return ways
    cv2.setNumThreads(1)
    ways["plain, OpenCV"] = lambda mask, disk: cv2.dilate(
        mask.astype(np.uint8), disk.astype(np.uint8)
    ).astype(bool)
    return ways


if __name__ == "__main__":
    main()
