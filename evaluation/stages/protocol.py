"""What every protocol has in common: a partition per data set and model, and its outcomes."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.device import resolve_device
from dinoforge.evaluation.config import (
    LAYOUTS,
    PROTOCOLS,
    SET_KEYS,
    EvaluationConfig,
    named_sets,
    protocols_for,
)
from dinoforge.evaluation.features import Rows, VectorRequest, rows_of, rows_of_view
from dinoforge.evaluation.layouts.classified import Grading
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome, Subject
from dinoforge.evaluation.published import Published, open_published
from dinoforge.evaluation.tables import (
    EvaluationInputs,
    EvaluationStage,
    Items,
    num_sets,
    read_features,
    read_gradings,
    read_items,
    read_models,
    read_subsets,
    read_targets,
    read_tokens,
    stop_if_none_decodes,
)
from dinoforge.evaluation.tokens import TokenRequest, Tokens
from dinoforge.files import write_bytes
from dinoforge.records import Record
from dinoforge.stages import Json, Output, part_name

__all__ = ["PROTOCOL_KEYS", "ProtocolStage", "Task", "TruthStage", "VectorStage", "read_outcomes"]

PROTOCOL_KEYS = ("protocols", "sets")  # what decides which protocols measure a set

Units = NDArray[np.int64]  # the unit of every image of a set, -1: of none; intervals resample them


class ProtocolStage(EvaluationStage):
    """One protocol; its name is that of the stage and of its benchmarks."""

    execution_keys: tuple[str, ...] = PROTOCOL_KEYS
    request_keys: tuple[str, ...] = ()  # of `keys`, those that `request` reads
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
        outcomes, units = self.measure_partition(payload, inputs, out)
        each = [outcome.units if len(outcome.units) else units for outcome in outcomes]
        kinds = {id(of_one): of_one for of_one in each}  # outcomes on the same images share one
        rows = [
            outcome.record.as_json()
            | {"rule": outcome.rule, "units": list(kinds).index(id(of_one))}
            for outcome, of_one in zip(outcomes, each, strict=True)
        ]
        path = out.folder / f"{part_name(out.index)}.outcomes.json"
        write_bytes(path, json.dumps(rows, sort_keys=True).encode())
        out.add(path)
        for number, of_some in enumerate(kinds.values()):
            out.write_array(f"units-{number}", of_some)
        for number, outcome in enumerate(outcomes):
            out.write_array(f"values-{number}", outcome.values)
        number = payload["model"]
        is_newest = number < 0 or read_models(inputs)[number].is_newest
        return {"set": payload["set"], "is_newest": is_newest, "records": len(outcomes)}

    @abstractmethod
    def suits(self, model: Model, items: Items) -> bool:
        """Whether the protocol measures a model on a data set."""

    def request(
        self,
        config: EvaluationConfig,  # noqa: ARG002
        model: Model,  # noqa: ARG002
        items: Items,  # noqa: ARG002
    ) -> VectorRequest | TokenRequest:
        """Return what the protocol needs, by ``request_keys``: vectors of the last block."""
        return VectorRequest()

    @abstractmethod
    def measure_partition(
        self, payload: Json, inputs: EvaluationInputs, out: Output
    ) -> tuple[list[Outcome], Units]:
        """Measure one model on one data set; returns the units of outcomes without their own."""


class VectorStage(ProtocolStage):
    """A protocol on vectors of images with classes: a bank and test images."""

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the images have classes, and the checkpoint is the newest."""
        return model.is_newest and items.is_labeled

    def request(
        self,
        config: EvaluationConfig,  # noqa: ARG002
        model: Model,  # noqa: ARG002
        items: Items,
    ) -> VectorRequest:
        """Ask for the last block."""
        return VectorRequest(boxes=items.has_boxes)

    def num_views(self, config: EvaluationConfig) -> int:  # noqa: ARG002
        """Return how many augmented views of the images of the bank the protocol takes."""
        return 0

    def measure_partition(
        self,
        payload: Json,
        inputs: EvaluationInputs,
        out: Output,  # noqa: ARG002
    ) -> tuple[list[Outcome], Units]:
        """Measure the bank and the test images that decode."""
        items = read_items(inputs, payload["set"])
        model = read_models(inputs)[payload["model"]]
        extracted = read_features(inputs, payload["model"], payload["set"])
        stop_if_none_decodes(items, extracted.is_decoded)
        bank, test = rows_of(model, items, extracted)
        gradings = read_gradings(inputs, payload["set"]) if items.layout else _gradings(test)
        measured = Measured(
            data=items.name,
            model=model,
            bank=bank,
            test=test,
            units={one.name: one.units(len(items)) for one in gradings},
            num_val=items.num_val,
            subsets=read_subsets(inputs, payload["set"]),
            targets=read_targets(inputs, payload["set"]),
            views=[
                rows_of_view(model, items, read_features(*of, view))
                for of in [(inputs, payload["model"], payload["set"])]
                for view in range(self.num_views(inputs.config))
            ],
            gradings=gradings,
            device=str(resolve_device(inputs.config.device)),
            leave_one_out=items.leave_one_out,
            facts=VectorRequest(**extracted.request).facts,
        )
        return self.measure(measured, inputs.config), np.full(len(items), -1)

    @abstractmethod
    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Measure one model on one data set; the recipe is restricted to ``keys``."""


def _gradings(test: Rows) -> list[Grading]:
    """Grade all test images whose class is known."""
    known = test.labels >= 0
    return [Grading(test.rows[known], test.labels[known][:, None])] if known.any() else []


@dataclass(frozen=True, kw_only=True)
class Task(Subject):
    """One model on a data set with a truth of its own; rows are those of `Items`."""

    items: Items
    opened: Published
    tokens: Tokens | None  # of all images; None for what needs no network
    output: Output  # for files that are kept, such as heads

    @property
    def truth(self) -> Any:
        """What the layout gives beside the images, see `Published`."""
        return self.opened.truth


class TruthStage(ProtocolStage):
    """A protocol on patch tokens of a data set with a truth of its own."""

    execution_keys = (*dict.fromkeys((*PROTOCOL_KEYS, *SET_KEYS, "decode")),)

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan also the trivial baselines of each data set, as model -1."""
        planned = super().plan(inputs)
        sets = dict.fromkeys(payload["set"] for payload in planned)
        return planned + [{"set": at, "model": -1} for at in sets]

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the model gives tokens and the set what the protocol needs."""
        gives = LAYOUTS[items.layout].gives
        return bool(model.is_newest and model.depth and set(PROTOCOLS[self.name]) & set(gives))

    @abstractmethod
    def request(self, config: EvaluationConfig, model: Model, items: Items) -> TokenRequest:
        """Return what tokens the protocol needs."""

    def measure_partition(
        self, payload: Json, inputs: EvaluationInputs, out: Output
    ) -> tuple[list[Outcome], Units]:
        """Measure one model, or what needs none."""
        config, number = inputs.config, payload["model"]
        items = read_items(inputs, payload["set"])
        opened = open_published(named_sets(config)[items.name], config.decode)
        tokens = None
        model = Model(name="", features=())
        if number >= 0:
            model = read_models(inputs)[number]
            request = self.request(config, model, items)
            tokens, _ = read_tokens(inputs, number, payload["set"], request)
        task = Task(
            data=items.name,
            model=model,
            device=str(resolve_device(config.device)),
            items=items,
            opened=opened,
            tokens=tokens,
            output=out,
        )
        measured = self.measure if number >= 0 else self.measure_baselines
        return measured(task, config), self.units(task)

    @abstractmethod
    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure one model on one data set; the recipe is restricted to ``keys``."""

    @abstractmethod
    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure what needs no network; the recipe is restricted to ``keys``."""

    def units(self, task: Task) -> Units:
        """Return the unit of every image; by default every test image is one."""
        units = np.full(len(task.items), -1)
        units[task.items.test] = np.arange(len(task.items.test))
        return units


def read_outcomes(
    inputs: EvaluationInputs, stage: str, is_wanted: Callable[[Record], bool] = lambda _: True
) -> Iterator[tuple[int, bool, Outcome]]:
    """Yield data set, whether the checkpoint is the newest, and outcome, for each of a protocol.

    Of records that are not wanted no values are read.
    """
    for path, facts in zip(inputs.files(stage, "outcomes.json"), inputs.facts(stage), strict=True):

        @lru_cache  # outcomes on the same images share their units
        def read(name: str, path: Path = path) -> Any:
            return np.load(path.with_name(path.name.replace("outcomes.json", f"{name}.npy")))

        for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
            rule, units = row.pop("rule"), row.pop("units")
            record = Record.from_json(row)
            if is_wanted(record):
                values = read(f"values-{number}")
                outcome = Outcome(record, values, rule, read(f"units-{units}"))
                yield facts["set"], facts["is_newest"], outcome
