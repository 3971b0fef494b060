"""Videos classified by logistic regression on features of their frames."""

import logging

import numpy as np
from numpy.typing import NDArray

from dinoforge.device import resolve_device
from dinoforge.evaluation.config import LAYOUTS, PROTOCOLS, SET_KEYS, EvaluationConfig, named_sets
from dinoforge.evaluation.features import Rows, rows_of
from dinoforge.evaluation.layouts.clips import Clips
from dinoforge.evaluation.methods.clips import NUM_FRAMES, Join, join_frames
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome, Subject
from dinoforge.evaluation.published import open_published
from dinoforge.evaluation.stages.protocol import PROTOCOL_KEYS, ProtocolStage, Units
from dinoforge.evaluation.tables import (
    EvaluationInputs,
    Items,
    read_features,
    read_items,
    read_models,
)
from dinoforge.stages import Json, Output

__all__ = ["ClipsStage"]

_log = logging.getLogger(__name__)


class ClipsStage(ProtocolStage):
    """Every kind of features, averaged over the frames of a video or side by side."""

    name = "clips"
    number = 63
    keys = ("clips", "logistic", "seed", "device")
    execution_keys = (*dict.fromkeys((*PROTOCOL_KEYS, *SET_KEYS, "decode")),)

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the set has videos with classes, and the checkpoint is the newest."""
        return model.is_newest and bool({*PROTOCOLS[self.name]} & {*LAYOUTS[items.layout].gives})

    def measure_partition(
        self,
        payload: Json,
        inputs: EvaluationInputs,
        out: Output,  # noqa: ARG002
    ) -> tuple[list[Outcome], Units]:
        """Measure the videos of the test; each is a unit."""
        config = inputs.config
        items = read_items(inputs, payload["set"])
        model = read_models(inputs)[payload["model"]]
        extracted = read_features(inputs, payload["model"], payload["set"])
        clips = open_published(named_sets(config)[items.name], config.decode).truth
        bank, test = (
            _of_clips(rows, part, config.clips.join)
            for rows, part in zip(rows_of(model, items, extracted), clips, strict=True)
        )
        units = np.full(len(items), -1)
        units[items.test] = np.arange(len(test)).repeat(NUM_FRAMES)
        device = str(resolve_device(config.device))
        return _measure(
            Subject(data=items.name, model=model, device=device), bank, test, config
        ), units


def _measure(subject: Subject, bank: Rows, test: Rows, config: EvaluationConfig) -> list[Outcome]:
    """Fit every kind of features of whole videos."""
    from dinoforge.evaluation.logistic import choose_and_fit

    classes = np.unique(bank.labels)
    if subject.model.is_pixels and not config.logistic.pixels:
        return []
    if len(classes) < 2:
        _log.warning("%s: videos of one class are not classified", subject.data)
        return []
    outcomes = []
    for kind, rows in bank.features.items():
        chosen = choose_and_fit(
            rows, bank.labels, config=config.logistic, seed=config.seed, device=subject.device
        )
        correct = chosen.model.predict(test.features[kind]) == test.labels
        record = subject.record(
            "clips",
            "accuracy",
            float(correct.mean()),
            len(correct),
            selection="val",
            features=kind,
            C=float(f"{chosen.c:.6g}"),
            frames=NUM_FRAMES,
            bank=len(bank),
            chance=1 / len(classes),
        )
        outcomes.append(Outcome(record, correct.astype(np.int8)))
    return outcomes


def _of_clips(frames: Rows, part: Clips, joins: list[Join]) -> Rows:
    """Join the features of the frames of every video."""
    labels: NDArray[np.int64] = np.array([clip.label for clip in part.clips], np.int64)
    features = {
        f"{kind}, {join}": join_frames(rows.reshape(len(labels), NUM_FRAMES, -1), join)
        for kind, rows in frames.features.items()
        for join in joins
    }
    return Rows(features, labels)
