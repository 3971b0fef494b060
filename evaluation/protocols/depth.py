"""Linear depth: heads on cached patch tokens, the flip test, and simple baselines."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import open_extractor
from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.methods.dense.baselines import median_depths
from dinoforge.evaluation.methods.dense.depth_inputs import DepthInput, depth_input
from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.depth import (
    DEPTH_METRICS,
    MIN_DEPTH,
    depth_metrics,
    mean_depth_metrics,
)
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.protocols.dense import (
    head_notes,
    head_training,
    keep_head,
    read_truths,
    whole_patches,
)
from dinoforge.evaluation.protocols.dense_baselines import (
    baseline_grid,
    color_and_position,
    some_of,
)
from dinoforge.evaluation.settings import DepthConfig
from dinoforge.evaluation.stages.protocol import Task, TruthStage
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest
from dinoforge.images import resize

if TYPE_CHECKING:
    from torch import Tensor

    from dinoforge.evaluation.methods.dense.depth_head import DepthBins
    from dinoforge.evaluation.methods.dense.linear_head import LinearHead, PatchFeatures

__all__ = ["DepthStage"]

Views = Callable[[int], "list[Tensor]"]  # test image -> features [1, X, Y, C], also mirrored
# test image, size -> a map for each seed
Predictions = Callable[[int, tuple[int, int]], list[NDArray[Any]]]

_HEADLINE = "rmse"  # the metric with an interval; the others stand beside it

# Of images in the network, where the recipe names no size: the field's, or the data set's own.
_SIZE = (480, 640)
_SIZES = {"kitti": (352, 1216)}

# 57 numbers per patch: at 1e-3 a few hundred steps end below the median per position.
_BASELINE_RATE = 0.01


class DepthStage(TruthStage):
    """A head for each input; without a network medians, and a head on color and position."""

    name = "depth"
    number = 42
    keys = ("depth", "device")
    request_keys = ("depth",)

    def request(self, config: EvaluationConfig, model: Model, items: Items) -> TokenRequest:
        """Ask for the blocks of all heads, normed or raw."""
        inputs = [_input_of(head, model) for head in config.depth.heads]
        names = [name for seen in inputs for part in _arrays(seen) for name in part]
        return TokenRequest(
            arrays=tuple(dict.fromkeys(names)),
            size=whole_patches(_size(config.depth, items), model.patch_size),
            kitti_crop=items.layout == "kitti",
        )

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Train heads with every seed, keep the first of each, and measure the test images."""
        settings = config.depth
        train, test = task.truth
        request = self.request(config, task.model, task.items)
        grid = (request.size[0] // task.model.patch_size, request.size[1] // task.model.patch_size)
        depths = _read_depths(train, grid, settings)
        facts = _facts(settings, test) | {"size": list(request.size)}
        mirrored = _Mirrored(task, config, request) if settings.flip else None
        predictions = {}
        for name in settings.heads:
            seen = _input_of(name, task.model)
            known = _cached(task, seen, task.items.bank)
            heads = [
                _train(known, depths, settings, seed, task, batch_norm=seen.batch_norm)
                for seed in settings.head.seeds
            ]
            notes = head_notes(
                task,
                blocks=seen.blocks,
                final_norm=seen.final_norm,
                class_token=seen.class_token,
                input_size=request.size,
                bins=_bins(settings, test),
                protocol={"data": task.data, **facts},
            )
            keep_head(task, name, heads[0], notes)
            views = _views(_cached(task, seen, task.items.test), mirrored, seen)
            predictions[name] = _predict(heads, views, _bins(settings, test), task.device)
        return [
            outcome
            for name, table in _measured(predictions, test).items()
            for outcome in _outcomes(task, table, test, facts | {"features": name})
        ]

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the median depth, that of each position, and a head on color and position."""
        settings = config.depth
        few, test = some_of(task.truth[0]), task.truth[1]
        grid = baseline_grid(_size(settings, task.items))
        depths = _read_depths(few, grid, settings)
        overall, by_position = median_depths(depths, min_depth=MIN_DEPTH, max_depth=test.max_depth)
        known, asked = color_and_position(few, test, grid, config.decode)
        rate = max(settings.head.lr, _BASELINE_RATE)
        heads = [
            _train(known, depths, settings, seed, task, batch_norm=True, lr=rate)
            for seed in settings.head.seeds
        ]
        predictions: dict[str, Predictions] = {
            "median depth": lambda _, size: [np.full(size, overall)],
            "median per position": lambda _, size: [resize_nearest(by_position, *size)],
            "color and position": _predict(
                heads, _views(asked, None, None), _bins(settings, test), task.device
            ),
        }
        trained = _facts(settings, test) | {"lr": rate, "flip": False}
        return [
            outcome
            for name, table in _measured(predictions, test).items()
            for outcome in _outcomes(
                task.of(name),
                table,
                test,
                (trained if name == "color and position" else _rules(test)) | {"baseline": True},
            )
        ]


def _size(settings: DepthConfig, items: Items) -> Sequence[int]:
    return settings.size or _SIZES.get(items.layout, _SIZE)


def _input_of(head: str, model: Model) -> DepthInput:
    form, _, count = head.partition("-lin")
    return depth_input("v2" if form == "v2" else "v3", 4 if count == "4" else 1, model.depth)


def _arrays(seen: DepthInput) -> tuple[list[str], list[str]]:
    """Name the arrays of patches and of class tokens that a head sees."""
    patches, tokens = ("patches", "cls") if seen.final_norm else ("raw", "raw_cls")
    return (
        [f"{patches}-{block}" for block in seen.blocks],
        [f"{tokens}-{block}" for block in seen.blocks if seen.class_token],
    )


def _cached(task: Task, seen: DepthInput, rows: NDArray[np.int64]) -> "PatchFeatures":
    from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

    tokens = task.tokens
    assert tokens is not None, "a network gives tokens"
    return PatchFeatures(
        *([tokens.stacked(name, rows) for name in names] for names in _arrays(seen))
    )


def _read_depths(
    data: DenseSet, grid: tuple[int, int], settings: DepthConfig
) -> NDArray[np.float32]:
    depths = read_truths(data.read_depth, data.items, grid, settings.loss_scale)
    if not ((depths > MIN_DEPTH) & (depths < data.max_depth)).any():
        raise UsageError(
            what=f"no depth between {MIN_DEPTH:g} and {data.max_depth:g} m in the training images",
            where=str(data.items[0].depth),
            do=f"give maps with {data.depth_scale:g} steps per meter",
        )
    return depths


def _bins(settings: DepthConfig, data: DenseSet) -> "DepthBins":
    from dinoforge.evaluation.methods.dense.depth_head import DepthBins

    return DepthBins(
        max_depth=data.max_depth,
        min_depth=MIN_DEPTH,
        count=settings.bins,
        spacing=settings.spacing,
        normalization=settings.votes,
        scale=settings.upsample,
    )


def _train(
    features: "PatchFeatures",
    depths: NDArray[np.float32],
    settings: DepthConfig,
    seed: int,
    task: Task,
    *,
    batch_norm: bool,
    **changes: Any,
) -> "LinearHead":
    from dinoforge.evaluation.methods.dense.depth_head import DepthLoss, train_depth
    from dinoforge.evaluation.methods.dense.linear_head import keyed_batches

    training = head_training(settings.head, seed, **changes)
    head, _ = train_depth(
        keyed_batches(features, depths, training),
        dim=features.dim,
        bins=_bins(settings, task.truth[1]),
        settings=training,
        loss=DepthLoss(warmup=settings.loss_warmup, gradient_weight=settings.gradient_weight),
        batch_norm=batch_norm,
        device=task.device,
    )
    return head


class _Mirrored:
    """Tokens of mirrored test images, from the network; those of the last image are kept."""

    def __init__(self, task: Task, config: EvaluationConfig, request: TokenRequest) -> None:
        vit = open_extractor(task.model, device=task.device).vit
        assert vit is not None, "a network gives tokens"
        self._vit, self._request, self._policy = vit, request, config.decode
        self._test: DenseSet = task.truth[1]
        self._last = -1
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def features(self, image: int, seen: DepthInput) -> "PatchFeatures":
        """Return what a head sees of a test image that is mirrored left to right."""
        from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

        (height, width), patch = self._request.size, self._vit.patch_size
        if image != self._last:
            pixels = self._test.read_image(self._test.items[image], self._policy)
            view = resize(np.ascontiguousarray(pixels[:, ::-1]), width, height)
            self._arrays = self._vit.encode_patches(view, self._request.arrays)
            self._last = image
        patches, tokens = ([self._arrays[name] for name in names] for names in _arrays(seen))
        grid = (1, height // patch, width // patch, -1)
        return PatchFeatures([array.reshape(grid) for array in patches], tokens)


def _views(asked: "PatchFeatures", mirrored: _Mirrored | None, seen: DepthInput | None) -> Views:
    """Return a function from a test image to its features, and to those of it mirrored."""

    def views(image: int) -> "list[Tensor]":
        parts = [asked.rows(np.array([image]))]
        if mirrored is not None and seen is not None:
            parts.append(mirrored.features(image, seen).rows(np.array([0])))
        return parts

    return views


def _predict(
    heads: "Sequence[LinearHead]", views: Views, bins: "DepthBins", device: str
) -> Predictions:
    import torch

    from dinoforge.evaluation.methods.dense.depth_head import average_with_mirrored, predict_depth

    @torch.no_grad()
    def predict(image: int, size: tuple[int, int]) -> list[NDArray[Any]]:
        seen = [view.to(device) for view in views(image)]
        depths = [[predict_depth(head(view), bins, size)[0] for view in seen] for head in heads]
        return [one[0] if len(one) == 1 else average_with_mirrored(*one) for one in depths]

    return predict


def _measured(predictions: dict[str, Predictions], test: DenseSet) -> dict[str, NDArray[Any]]:
    """Measure every test image by every prediction: ``[n, S, M]``, NaN without a valid pixel."""
    rows: dict[str, list[Any]] = {name: [] for name in predictions}
    for image, item in enumerate(test.items):
        truth = test.read_depth(item)
        for name, predict in predictions.items():
            of_seeds = [
                depth_metrics(
                    depth, truth, max_depth=test.max_depth, crop=test.crop, where=str(item.depth)
                )
                for depth in predict(image, truth.shape)
            ]
            rows[name].append([[*metrics.values()] for metrics in of_seeds])
    return {name: np.array(values) for name, values in rows.items()}


def _outcomes(
    subject: Subject, table: NDArray[Any], test: DenseSet, facts: dict[str, Any]
) -> list[Outcome]:
    """Return RMSE with its value on every image, and the other metrics without an interval."""
    by_seed, is_valid = mean_depth_metrics(table)
    if not is_valid.any():
        raise UsageError(
            what=f"no test image has a depth below {test.max_depth:g} m inside the crop",
            where=str(test.items[0].depth),
            do=f"give maps with {test.depth_scale:g} steps per meter",
        )
    n = int(is_valid.sum())
    facts = facts | {"without_depth": len(table) - n}
    outcomes: list[Outcome] = []
    for number, metric in enumerate(DEPTH_METRICS):
        settings = dict(facts)
        if table.shape[1] > 1:
            deviation = float(np.std(by_seed[:, number], ddof=1))
            settings |= {"seeds": table.shape[1], "deviation": deviation}
        value = float(by_seed[:, number].mean())
        record = subject.record(DepthStage.name, metric, value, n, **settings)
        if metric == _HEADLINE:
            of_images = np.where(is_valid, table[..., number].mean(axis=1), 0)
            values = np.stack([of_images, is_valid], axis=1)
            record = replace(record, value=combine("ratio", values))
            outcomes.insert(0, Outcome(record, values, "ratio"))
        else:
            outcomes.append(Outcome(record))
    return outcomes


def _rules(test: DenseSet) -> dict[str, Any]:
    """Say which pixels count."""
    return {"crop": test.crop, "min_depth": MIN_DEPTH, "max_depth": test.max_depth}


def _facts(settings: DepthConfig, test: DenseSet) -> dict[str, Any]:
    return {
        "steps": settings.head.steps,
        "lr": settings.head.lr,
        "bins": settings.bins,
        "flip": settings.flip,
        "training": "cached features",
        **_rules(test),
    }
