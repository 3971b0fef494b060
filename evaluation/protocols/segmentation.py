"""Linear segmentation: heads on cached patch tokens of the last blocks, and simple baselines."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import open_extractor
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.protocols.dense import (
    Predict,
    areas_per_unit,
    head_notes,
    head_training,
    keep_head,
    last_blocks,
    name_blocks,
    read_truths,
    segmentation_outcome,
    units_of,
    whole_patches,
)
from dinoforge.evaluation.protocols.dense_baselines import (
    baseline_grid,
    class_constants,
    color_and_position,
    some_of,
)
from dinoforge.evaluation.settings import SegmentationConfig
from dinoforge.evaluation.stages.protocol import Task, TruthStage, Units
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest
from dinoforge.images import resize

if TYPE_CHECKING:
    from dinoforge.evaluation.methods.dense.head_files import HeadNotes
    from dinoforge.evaluation.methods.dense.linear_head import LinearHead, PatchFeatures

__all__ = ["SegmentationStage"]


class SegmentationStage(TruthStage):
    """A head for each number of blocks; without a network majority class, position and color."""

    name = "segmentation"
    number = 40
    keys = ("segmentation", "device")
    request_keys = ("segmentation",)

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> TokenRequest:
        """Ask for the last blocks, with the final LayerNorm."""
        blocks = last_blocks(model, max(config.segmentation.blocks))
        arrays = tuple(f"patches-{block}" for block in blocks)
        size = whole_patches(config.segmentation.size, model.patch_size)
        return TokenRequest(arrays=arrays, size=size)

    def units(self, task: Task) -> Units:
        """Resample images, or blocks of neighboring frames."""
        return units_of(task)

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Train heads with every seed, keep the first of each, and measure the test images."""
        from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

        settings = config.segmentation
        train, test = task.truth
        assert task.tokens is not None, "a network gives tokens"
        size = whole_patches(settings.size, task.model.patch_size)
        grid = (size[0] // task.model.patch_size, size[1] // task.model.patch_size)
        masks = read_truths(train.read_labels, train.items, grid, settings.loss_scale)
        outcomes = []
        for count in settings.blocks:
            blocks = last_blocks(task.model, count)
            known, asked = (
                PatchFeatures([task.tokens.stacked(f"patches-{block}", rows) for block in blocks])
                for rows in (task.items.bank, task.items.test)
            )
            facts = _facts(settings)
            notes = head_notes(
                task,
                blocks=tuple(blocks),
                input_size=size,
                classes=tuple(test.classes),
                protocol={"data": task.data, **facts},
            )
            runs = []
            for seed in settings.head.seeds:
                head = _train(known, masks, len(test.classes), settings, seed, task.device)
                if settings.test == "whole":
                    predict = _from_cache(head, asked, task.device)
                else:
                    predict = _in_windows(task, config, head, notes)
                runs.append(areas_per_unit(predict, test))
                if seed == settings.head.seeds[0]:
                    keep_head(task, str(count), head, notes)
            facts["features"] = name_blocks(count)
            outcomes.append(segmentation_outcome(task, self.name, runs, test, **facts))
        return outcomes

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the majority class, that of each position, and heads on color and position."""
        settings = config.segmentation
        few, test = some_of(task.truth[0]), task.truth[1]
        grid = baseline_grid(settings.size)
        known, asked = color_and_position(few, test, grid, config.decode)
        masks = read_truths(few.read_labels, few.items, grid, settings.loss_scale)
        runs = []
        for seed in settings.head.seeds:
            head = _train(known, masks, len(test.classes), settings, seed, task.device)
            runs.append(areas_per_unit(_from_cache(head, asked, task.device), test))
        facts = _facts(settings) | {"inference": "whole", "baseline": True}
        name = "color and position"
        return [
            *class_constants(task, self.name, grid, settings.loss_scale),
            segmentation_outcome(task.of(name), self.name, runs, test, **facts),
        ]


def _train(
    features: "PatchFeatures",
    masks: NDArray[Any],
    num_classes: int,
    settings: SegmentationConfig,
    seed: int,
    device: str,
) -> "LinearHead":
    from dinoforge.evaluation.methods.dense.linear_head import keyed_batches
    from dinoforge.evaluation.methods.dense.segmentation_head import train_segmentation

    training = head_training(settings.head, seed)
    head, _ = train_segmentation(
        keyed_batches(features, masks, training),
        dim=features.dim,
        num_classes=num_classes,
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


def _facts(settings: SegmentationConfig) -> dict[str, Any]:
    return {
        "steps": settings.head.steps,
        "lr": settings.head.lr,
        "size": list(settings.size),
        "training": "cached features",
        "inference": settings.test,
    }
