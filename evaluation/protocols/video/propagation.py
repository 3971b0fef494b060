"""Label propagation on videos: J and F of DAVIS, each object weighing the same."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.layouts.stored import image_size, read_pixels
from dinoforge.evaluation.layouts.video import VideoSequence
from dinoforge.evaluation.methods.dense.baselines import color_features
from dinoforge.evaluation.metrics.masks import ObjectScores, pool, score_sequence
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.settings import PropagationConfig
from dinoforge.evaluation.stages.protocol import Task, TruthStage, Units
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PropagationStage"]

_CELL = 8  # side in pixels of the cells whose colors are a baseline
_GRAY = np.float32(0.5)  # without it all cosines of colors are near 1
_RULE = ("last_frames", "window", "top_k", "temperature")  # arguments of `propagate`
_METRICS = ("J&F", "J", "F", "J_recall", "F_recall", "J_decay", "F_decay")

Scores = list[list[ObjectScores]]  # the objects of every video


class PropagationStage(TruthStage):
    """Tokens of the last block; without a network the first mask copied, and colors of cells."""

    name = "propagation"
    number = 60
    keys = ("propagation", "device")
    request_keys = ("propagation",)

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> TokenRequest:
        """Ask for the tokens of the last block."""
        side = max(config.propagation.side, model.patch_size)
        return TokenRequest(arrays=(_last_block(model),), fit="short", side=side)

    def units(self, task: Task) -> Units:
        """Resample videos."""
        frames = [len(video.frames) for video in task.truth]
        return np.repeat(np.arange(len(frames)), frames)

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Propagate the first mask of every video."""
        import torch

        tokens, name = task.tokens, _last_block(task.model)
        assert tokens is not None, "a network gives tokens"
        starts = np.cumsum([0, *(len(video.frames) for video in task.truth)])

        def features(number: int) -> "tuple[tuple[int, int], Iterator[Tensor]]":
            rows = range(starts[number], starts[number + 1])
            height, width = tokens.grids[rows[0]].tolist()
            frames = (np.array(tokens.image(name, row), np.float32) for row in rows)
            return (height, width), (torch.from_numpy(frame).to(task.device) for frame in frames)

        scores, facts = _score(task.truth, features, task.model.patch_size, config.propagation)
        return _outcomes(task, task.truth, scores, features="last block", **facts)

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the first mask in every frame, and the propagation by colors."""
        import torch

        settings, videos = config.propagation, task.truth
        masks = (video.read_annotations() for video in videos)
        copied = [score_sequence(m, np.broadcast_to(m[:1], m.shape)) for m in masks]
        outcomes = _outcomes(task.of("copied mask"), videos, copied, baseline=True)

        def colors(number: int) -> "tuple[tuple[int, int], Iterator[Tensor]]":
            frames = videos[number].frames
            height, width = image_size(frames[0])
            cells = settings.side / min(height, width) / _CELL
            grid = (max(round(height * cells), 1), max(round(width * cells), 1))
            images = (read_pixels(frame, config.decode) for frame in frames)
            return grid, (torch.from_numpy(color_features(image, grid) - _GRAY) for image in images)

        scores, facts = _score(videos, colors, _CELL, settings)
        facts |= {"features": "colors", "baseline": True}
        return outcomes + _outcomes(task.of("color"), videos, scores, **facts)


def _last_block(model: Model) -> str:
    return f"patches-{model.depth - 1}"


def _score(
    videos: Sequence[VideoSequence],
    features: "Callable[[int], tuple[tuple[int, int], Iterator[Tensor]]]",
    patch: int,
    settings: PropagationConfig,
) -> tuple[Scores, dict[str, Any]]:
    """Score every video; ``features(number)`` gives its grid of patches and its frames, lazily."""
    from dinoforge.evaluation.methods.propagation import label_map, soft_labels, vanished_objects
    from dinoforge.neighbors.propagation import propagate

    rule = {name: getattr(settings, name) for name in _RULE}

    scores: Scores = []
    sizes: dict[tuple[int, int], None] = {}
    vanished: dict[str, list[int]] = {}
    for number, video in enumerate(videos):
        truth = video.read_annotations()
        grid, frames = features(number)
        sizes[grid[0] * patch, grid[1] * patch] = None
        first = soft_labels(truth[0], *grid)
        if lost := vanished_objects(truth[0], first):
            vanished[video.name] = lost
        predicted = np.empty_like(truth)
        predicted[0] = truth[0]
        for at, soft in enumerate(propagate(frames, first, **rule), 1):
            predicted[at] = label_map(soft, patch, *truth.shape[1:])
        scores.append(score_sequence(truth, predicted, name=video.name))
    facts: dict[str, Any] = {
        "patch_size": patch,
        "sizes": [list(size) for size in sizes],  # height and width of frames in the network
        **rule,
        "vanished": vanished,  # objects without a patch in the first frame, never predicted
    }
    return scores, facts


def _outcomes(
    subject: Subject, videos: Sequence[VideoSequence], scores: Scores, **settings: Any
) -> list[Outcome]:
    """Return every metric, each object weighing the same, with its value in every video."""
    counts = [len(objects) for objects in scores]
    by_video = [pool(objects) for objects in scores]
    settings |= {"videos": len(videos), "objects": sum(counts)}
    frames = sum(len(video.frames) - 2 for video in videos)
    outcomes = []
    for metric in _METRICS:
        numbers = {v.name: float(of[metric]) for v, of in zip(videos, by_video, strict=True)}
        values: NDArray[Any] = np.array(
            [
                [value * count, count] if count else [0, 0]
                for value, count in zip(numbers.values(), counts, strict=True)
            ]
        )
        of_videos = {name: value for name, value in numbers.items() if np.isfinite(value)}
        record = subject.record(
            "propagation", metric, combine("ratio", values), frames, **settings, by_video=of_videos
        )
        outcomes.append(Outcome(record, values, "ratio"))
    return outcomes
