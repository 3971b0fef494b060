"""Linear segmentation: heads on cached patch tokens of the last blocks, and simple baselines."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import open_extractor
from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.protocols.dense import (
    areas_per_unit,
    last_blocks,
    name_blocks,
    segmentation_outcome,
    units_of,
)
from dinoforge.evaluation.settings import SegmentationConfig
from dinoforge.evaluation.stages.protocol import Task, TruthStage, Units
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest
from dinoforge.files import sha256_file
from dinoforge.images import resize
from dinoforge.stages import part_name

if TYPE_CHECKING:
    from dinoforge.evaluation.methods.dense.head_files import HeadNotes
    from dinoforge.evaluation.methods.dense.linear_head import LinearHead, PatchFeatures

__all__ = ["SegmentationStage"]

_BASELINE_PATCH = 14  # pixels a side of the cells whose colors are a baseline

Predict = Callable[[int, tuple[int, int]], NDArray[np.int64]]  # test image, size -> labels


class SegmentationStage(TruthStage):
    """A head for each number of blocks; without a network majority class, position and color."""

    name = "segmentation"
    number = 40
    keys = ("segmentation", "device")
    request_keys = ("segmentation",)
    has_baselines = True

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> TokenRequest:
        """Ask for the last blocks, with the final LayerNorm."""
        patch = model.patch_size
        height, width = (max(side // patch, 1) * patch for side in config.segmentation.size)
        blocks = last_blocks(model, max(config.segmentation.blocks))
        arrays = tuple(f"patches-{block}" for block in blocks)
        return TokenRequest(arrays=arrays, fit="stretch", size=(height, width))

    def units(self, task: Task) -> Units:
        """Resample images, or blocks of neighboring frames."""
        return units_of(task)

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Train heads with every seed, keep the first of each, and measure the test images."""
        from dinoforge.evaluation.methods.dense.head_files import save_head
        from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

        settings = config.segmentation
        train, test = task.truth
        assert task.tokens is not None, "a network gives tokens"
        outcomes = []
        for count in settings.blocks:
            blocks = last_blocks(task.model, count)
            known, asked = (
                PatchFeatures([task.tokens.stacked(f"patches-{block}", rows) for block in blocks])
                for rows in (task.items.bank, task.items.test)
            )
            runs = []
            for seed in settings.head.seeds:
                head = _train(known, train, settings, seed, task.device)
                notes = _notes(task, settings, blocks)
                if settings.test == "whole":
                    predict = _from_cache(head, asked, task.device)
                else:
                    predict = _in_windows(task, config, head, notes)
                runs.append(areas_per_unit(predict, test))
                if seed == settings.head.seeds[0]:
                    name = f"{part_name(task.output.index)}.head-{count}.safetensors"
                    save_head(task.output.folder / name, head, notes)
                    task.output.add(task.output.folder / name)
            facts = _facts(settings) | {"features": name_blocks(count)}
            outcomes.append(segmentation_outcome(task, self.name, runs, test, **facts))
        return outcomes

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the majority class, that of each position, and heads on color and position."""
        from dinoforge.evaluation.methods.dense.baselines import (
            ClassesByPosition,
            color_features,
            position_features,
        )
        from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures
        from dinoforge.evaluation.methods.dense.segmentation_head import resize_labels

        settings = config.segmentation
        train, test = task.truth
        rows, columns = (max(side // _BASELINE_PATCH, 1) for side in settings.size)
        counts = ClassesByPosition(
            (rows * settings.loss_scale, columns * settings.loss_scale), len(test.classes)
        )
        for mask in _labels(train, (rows, columns), settings.loss_scale):
            counts.add(mask)
        position = counts.majority_per_position()
        outcomes = []
        for name, labels in (
            ("majority class", np.full(position.shape, counts.majority)),
            ("majority per position", position),
        ):

            def constant(_: int, size: tuple[int, int], labels: Any = labels) -> NDArray[Any]:
                return resize_labels(labels, *size)

            areas = areas_per_unit(constant, test)
            of = segmentation_outcome(task.of(name), self.name, [areas], test, baseline=True)
            outcomes.append(of)
        place = position_features((rows, columns))[None]
        known, asked = (
            PatchFeatures(
                [
                    np.stack(
                        [color_features(data.read_image(i), (rows, columns)) for i in data.items]
                    ),
                    np.broadcast_to(place, (len(data.items), *place.shape[1:])),
                ]
            )
            for data in (train, test)
        )
        runs = [
            areas_per_unit(
                _from_cache(_train(known, train, settings, seed, task.device), asked, task.device),
                test,
            )
            for seed in settings.head.seeds
        ]
        facts = _facts(settings) | {"inference": "whole", "baseline": True}
        name = "color and position"
        return [*outcomes, segmentation_outcome(task.of(name), self.name, runs, test, **facts)]


def _labels(data: DenseSet, grid: tuple[int, int], scale: int) -> Iterator[NDArray[Any]]:
    """Yield the masks of a set, ``scale`` labels per side of a patch."""
    from dinoforge.evaluation.methods.dense.segmentation_head import resize_labels

    for item in data.items:
        yield resize_labels(data.read_labels(item), grid[0] * scale, grid[1] * scale)


def _train(
    features: "PatchFeatures", data: DenseSet, settings: SegmentationConfig, seed: int, device: str
) -> "LinearHead":
    from dinoforge.evaluation.methods.dense.linear_head import HeadTraining, keyed_batches
    from dinoforge.evaluation.methods.dense.segmentation_head import train_segmentation

    masks = np.stack([*_labels(data, features.grid, settings.loss_scale)])
    one = settings.head
    training = HeadTraining(
        steps=one.steps,
        batch_size=one.batch_size,
        lr=one.lr,
        weight_decay=one.weight_decay,
        warmup=one.warmup,
        seed=seed,
    )
    head, _ = train_segmentation(
        keyed_batches(features, masks, training),
        dim=features.dim,
        num_classes=len(data.classes),
        settings=training,
        device=device,
    )
    return head


def _from_cache(head: "LinearHead", test: "PatchFeatures", device: str) -> Predict:
    """Predict from the features of whole images."""
    import torch

    from dinoforge.evaluation.methods.dense.segmentation_head import predict_labels

    def predict(image: int, size: tuple[int, int]) -> NDArray[np.int64]:
        with torch.no_grad():
            return predict_labels(head(test.rows(np.array([image])).to(device)), size)[0]

    return predict


def _in_windows(
    task: Task, config: EvaluationConfig, head: "LinearHead", notes: "HeadNotes"
) -> Predict:
    """Predict from windows over resized images, with the network itself."""
    from dinoforge.evaluation.methods.dense.head_files import apply_head
    from dinoforge.evaluation.methods.dense.segmentation_head import predict_labels
    from dinoforge.evaluation.methods.dense.sliding import multi_scale, padded, slide

    settings, test = config.segmentation, task.truth[1]
    vit = open_extractor(task.model, device=task.device).vit
    assert vit is not None, "a network gives tokens"
    crop = min(notes.input_size)
    logits_of = padded(apply_head(vit.model, head, notes), task.model.patch_size)

    def in_windows(image_13HW: Any) -> Any:
        return slide(logits_of, image_13HW, crop=crop, stride=max(1, round(settings.stride * crop)))

    def predict(image: int, size: tuple[int, int]) -> NDArray[np.int64]:
        pixels = test.read_image(test.items[image], config.decode)
        scale = crop / min(pixels.shape[:2])
        height, width = (round(side * scale) for side in pixels.shape[:2])
        view = vit.normalized(resize(pixels, width, height)).to(task.device)
        if settings.test == "sliding":
            return predict_labels(in_windows(view), size)[0]
        multiple = task.model.patch_size
        return predict_labels(multi_scale(in_windows, view, multiple=multiple), size)[0]

    return predict


def _notes(task: Task, settings: SegmentationConfig, blocks: Sequence[int]) -> "HeadNotes":
    from dinoforge.evaluation.methods.dense.head_files import HeadNotes

    assert task.model.file is not None, "a ViT is a file"
    vit = open_extractor(task.model, device=task.device).vit
    assert vit is not None, "a network gives tokens"
    patch = task.model.patch_size
    height, width = (max(side // patch, 1) * patch for side in settings.size)
    return HeadNotes(
        backbone=sha256_file(task.model.file),
        architecture=vit.model.config.name,
        positions=vit.model.config.positions,
        blocks=tuple(blocks),
        input_size=(height, width),
        classes=tuple(task.truth[1].classes),
        protocol={"data": task.data, **_facts(settings)},
    )


def _facts(settings: SegmentationConfig) -> dict[str, Any]:
    return {
        "steps": settings.head.steps,
        "lr": settings.head.lr,
        "size": list(settings.size),
        "training": "cached features",
        "inference": settings.test,
    }
