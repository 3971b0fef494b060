"""The evaluation, in order: this file is its table of contents."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinoforge.device import resolve_device
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.data import EvalData, open_data
from dinoforge.evaluation.features import Extracted, describer_of, extract, rows_of
from dinoforge.evaluation.models import Model, find_models
from dinoforge.evaluation.outcomes import Outcome, differences, with_intervals
from dinoforge.evaluation.protocols import Measured, measure_collapse, measure_knn, measure_logistic
from dinoforge.records import Record, write_records
from dinoforge.runs import git_commit

__all__ = ["evaluate"]

_log = logging.getLogger(__name__)


def evaluate(config: EvaluationConfig, folder: Path) -> list[Record]:
    """Measure every record that a recipe asks for.

    Features are extracted once and cached; a start after a kill goes on where it was. Equal
    inputs give equal bytes of ``records.jsonl``: nothing in it is a time.

    Parameters
    ----------
    config : EvaluationConfig
        The resolved recipe.
    folder : Path
        Run folder; gets ``records.jsonl`` and, unless the recipe names another, ``cache/``.

    Returns
    -------
    list of Record
        As written: accuracies, differences of models, signs of collapse.

    Raises
    ------
    UsageError
        No images, none that decodes, no checkpoint, no such encoder or device.
    """
    cache = Path(config.cache) if config.cache else folder / "cache"
    device = str(resolve_device(config.device))
    models = find_models(config)  # 1. what is measured, loaded once: mistakes are told now
    for model in models:
        describer_of(model, device=device)
    data = open_data(config, cache)  # 2. bank, test images, classes in common
    outcomes: list[Outcome] = []
    curve: list[Outcome] = []
    signs: list[Record] = []
    models = [m for m in models if m.is_newest or _has_curve(config, data)]
    for measured in _measure(models, config, data, cache, device):  # 3. features, cached
        if not measured.model.is_newest:
            curve += measure_knn(measured, config)  # 4. earlier steps: k-NN only
            continue
        for protocol, measure in _ACCURACIES.items():
            if data.is_labeled and protocol in config.protocols:
                outcomes += measure(measured, config)  # 5. k-NN, logistic regression
        if "collapse" in config.protocols and not measured.model.is_pixels:
            signs += measure_collapse(measured, config)  # 6. signs of collapse, without labels
    outcomes += differences(outcomes)  # 7. trained against the others, on the same images
    records = [*with_intervals([*outcomes, *curve], config.bootstrap), *signs]  # 8. bootstrap
    write_records(folder / "records.jsonl", records)
    _log.info("%d records in %s", len(records), folder / "records.jsonl")
    return records


_ACCURACIES = {"knn": measure_knn, "logistic": measure_logistic}


def _has_curve(config: EvaluationConfig, data: EvalData) -> bool:
    """Earlier steps are there for k-NN: without labels they need not be extracted."""
    return data.is_labeled and "knn" in config.protocols


def _measure(
    models: Sequence[Model], config: EvaluationConfig, data: EvalData, cache: Path, device: str
) -> Iterator[Measured]:
    commit = git_commit()
    is_first = True
    for model in models:
        describer = describer_of(model, device=device, batch_size=config.batch_size)
        label = model.name if model.step is None else f"{model.name}, step {model.step}"
        found = {
            id(images): extract(describer, images, cache, label)
            for images in (data.bank.images, data.test.images)
        }
        extracted = found[id(data.bank.images)], found[id(data.test.images)]
        if is_first:
            _log_undecodable(data, extracted)
            is_first = False
        bank, test = rows_of(model, data, *extracted)
        facts = {
            "model": model.name,
            "checkpoint": describer.checkpoint,
            "data": data.fingerprint,
            "commit": commit,
        }
        yield Measured(model, bank, test, facts, device, data.leave_one_out)


def _log_undecodable(data: EvalData, extracted: tuple[Extracted, Extracted]) -> None:
    parts = {"bank": data.bank, "test set": data.test}
    for (name, part), found in zip(parts.items(), extracted, strict=True):
        bad = int((~found.is_decoded[part.rows]).sum())
        if bad:
            _log.warning(
                "%s: %d of %d images do not decode and are left out", name, bad, len(part.rows)
            )
