"""The evaluation, in order: this file is its table of contents."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinoforge.device import resolve_device
from dinoforge.errors import UsageError
from dinoforge.evaluation.collapse import measure_collapse
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.data import EvalData, NothingToTestError, account_of, arrange, open_sets
from dinoforge.evaluation.features import Extracted, extract, open_extractor, rows_of
from dinoforge.evaluation.knn import measure_knn
from dinoforge.evaluation.logistic import measure_logistic
from dinoforge.evaluation.models import Model, find_models
from dinoforge.evaluation.outcomes import Measured, Outcome, differences, with_intervals
from dinoforge.evaluation.scores import list_left_out
from dinoforge.records import Record, write_records
from dinoforge.runs import git_commit, record_facts
from dinoforge.sources.accounting import Account
from dinoforge.sources.image_set import ImageSet

__all__ = ["evaluate"]

_log = logging.getLogger(__name__)


def evaluate(config: EvaluationConfig, folder: Path) -> list[Record]:
    """Measure every record that a recipe names.

    Features are extracted once and cached, so a killed run resumes where it stopped. Equal inputs
    give equal bytes of ``records.jsonl``: it holds no times.

    Writes ``records.jsonl`` into the run folder and, unless the recipe names another folder,
    ``cache/``. Returns the records as written: accuracies, differences of models, signs of
    collapse.

    Raises
    ------
    UsageError
        If there are no images, none decodes, or a checkpoint, encoder or device is missing; a
        `NothingToTestError` if they are too few to measure anything.
    """
    cache = Path(config.cache) if config.cache else folder / "cache"
    device = str(resolve_device(config.device))
    models = find_models(config)  # 1. load every model once: fail early
    for model in models:
        open_extractor(model, device=device)
    sets = open_sets(config, cache)
    with _account(folder, sets) as accounts:  # what the sources gave, and what they did not
        data = arrange(sets, config)  # 2. bank, test images, classes in common
        outcomes: list[Outcome] = []
        curve: list[Outcome] = []
        signs: list[Record] = []
        has_curve = data.is_labeled and "knn" in config.protocols  # earlier steps get k-NN only
        models = [m for m in models if m.is_newest or has_curve]
        measuring = _measure(models, config, data, cache, device, accounts)
        for measured in measuring:  # 3. features, cached
            if not measured.model.is_newest:
                curve += measure_knn(measured, config)  # 4. earlier steps
                continue
            for protocol, measure in _ACCURACIES.items():
                if data.is_labeled and protocol in config.protocols:
                    outcomes += measure(measured, config)  # 5. k-NN, logistic regression
            if "collapse" in config.protocols and not measured.model.is_pixels:
                signs += measure_collapse(measured, config)  # 6. signs of collapse, without labels
        outcomes += differences(outcomes)  # 7. trained minus each other model, paired
        records = [*with_intervals([*outcomes, *curve], config.bootstrap), *signs]  # 8. bootstrap
        write_records(folder / "records.jsonl", records)
        _log.info("%d records in %s", len(records), folder / "records.jsonl")
        _log_left_out(list_left_out(records, config.protocols), stop=not records)
    return records


@contextlib.contextmanager
def _account(folder: Path, sets: Sequence[ImageSet]) -> Iterator[list[Account]]:
    """Record and log the last of the accounts, however the evaluation ends."""
    accounts = [account_of(sets)]
    try:
        yield accounts
    finally:
        with contextlib.suppress(UsageError):  # a full disk is reported by what needs it
            record_facts(folder, sources=accounts[-1].as_json())
        accounts[-1].log()


def _log_left_out(lines: Sequence[str], *, stop: bool) -> None:
    if stop:
        raise NothingToTestError(
            what=f"nothing was measured: {'; '.join(lines)}",
            where="`protocols`",
            do="give what they need, or other protocols",
        )
    for line in lines:
        _log.info("%s", line)


_ACCURACIES = {"knn": measure_knn, "logistic": measure_logistic}


def _measure(
    models: Sequence[Model],
    config: EvaluationConfig,
    data: EvalData,
    cache: Path,
    device: str,
    accounts: list[Account],
) -> Iterator[Measured]:
    commit = git_commit()
    for number, model in enumerate(models):
        extractor = open_extractor(model, device=device, batch_size=config.batch_size)
        label = model.name if model.step is None else f"{model.name}, step {model.step}"
        parts = [extract(extractor, images, cache, label) for images in data.sets]
        bank, test = parts[0], parts[-1]
        if number == 0:
            _log_undecodable(data, bank, test)
        undecodable = sum(int((~part.is_decoded).sum()) for part in parts)
        accounts.append(account_of(data.sets, undecodable=undecodable))
        facts = {
            "model": model.name,
            "checkpoint": extractor.checkpoint,
            "data": data.fingerprint,
            "commit": commit,
            "problems": accounts[-1].counts,
        }
        rows = rows_of(model, data, bank, test)
        yield Measured(model, *rows, facts, device, data.leave_one_out)


def _log_undecodable(data: EvalData, bank: Extracted, test: Extracted) -> None:
    parts = [("bank", data.bank, bank), ("test set", data.test, test)]
    for name, part, extracted in parts[: 1 if data.test is data.bank else 2]:
        bad = int((~extracted.is_decoded[part.rows]).sum())
        if bad:
            total = len(part.rows)
            _log.warning("%s: %d of %d images do not decode and are left out", name, bad, total)
