"""What every protocol has in common: a partition per data set and model, and its outcomes."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from dinoforge.device import resolve_device
from dinoforge.evaluation.config import EvaluationConfig, protocols_for
from dinoforge.evaluation.features import rows_of
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.tables import (
    EvaluationInputs,
    EvaluationStage,
    Items,
    num_sets,
    read_features,
    read_items,
    read_models,
    stop_if_none_decodes,
)
from dinoforge.files import write_bytes
from dinoforge.records import Record
from dinoforge.stages import Json, Output, part_name

__all__ = ["ProtocolStage", "read_outcomes"]


class ProtocolStage(EvaluationStage):
    """One protocol; its name is that of the stage and of its benchmarks."""

    execution_keys = ("protocols", "sets")
    needs = ("list", "models", "features")
    runs_on = "gpu"

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan a partition for each data set and model that the protocol suits."""
        models = read_models(inputs)
        return [
            {"set": at, "model": number}
            for at in range(num_sets(inputs))
            for items in [read_items(inputs, at)]
            if self.name in protocols_for(inputs.config, items.name)
            for number, model in enumerate(models)
            if self.suits(model, items)
        ]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Measure one model on one data set."""
        items = read_items(inputs, payload["set"])
        model = read_models(inputs)[payload["model"]]
        extracted = read_features(inputs, payload["model"], payload["set"])
        stop_if_none_decodes(items, extracted.is_decoded)
        bank, test = rows_of(model, items, extracted)
        measured = Measured(
            data=items.name,
            model=model,
            bank=bank,
            test=test,
            checkpoint=model.checkpoint,
            device=str(resolve_device(inputs.config.device)),
            leave_one_out=items.leave_one_out,
        )
        outcomes = self.measure(measured, inputs.config)
        _write_outcomes(out, outcomes)
        return {"set": payload["set"], "is_newest": model.is_newest, "records": len(outcomes)}

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the protocol measures a model on a data set."""
        return model.is_newest and items.is_labeled

    @abstractmethod
    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure one model on one data set; the recipe is restricted to ``keys``."""


def _write_outcomes(out: Output, outcomes: Sequence[Outcome]) -> None:
    rows = [outcome.record.as_json() for outcome in outcomes]
    path = out.folder / f"{part_name(out.index)}.outcomes.json"
    write_bytes(path, json.dumps(rows, sort_keys=True).encode())
    out.add(path)
    for number, outcome in enumerate(outcomes):
        out.write_array(f"values-{number}", outcome.values)


def read_outcomes(inputs: EvaluationInputs, stage: str) -> Iterator[tuple[int, bool, Outcome]]:
    """Yield data set, whether the checkpoint is the newest, and outcome, for each of a protocol."""
    for path, facts in zip(inputs.files(stage, "outcomes.json"), inputs.facts(stage), strict=True):
        for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            file = path.with_name(path.name.replace("outcomes.json", f"values-{number}.npy"))
            outcome = Outcome(Record.from_json(row), np.load(file))
            yield facts["set"], facts["is_newest"], outcome
