"""Outcomes of all protocols to records: differences of models, and 95 % intervals."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.methods.leakage import units_without_hits
from dinoforge.evaluation.outcomes import Outcome, with_intervals
from dinoforge.evaluation.stages.guards import find_warnings
from dinoforge.evaluation.stages.leakage import Leaked, read_leaked
from dinoforge.evaluation.stages.protocol import read_outcomes
from dinoforge.evaluation.tables import (
    EvaluationInputs,
    EvaluationStage,
    Items,
    num_sets,
    read_digests,
    read_items,
    read_undecodable,
    stop_if_none_decodes,
)
from dinoforge.records import Record, write_records
from dinoforge.runs import git_commit, read_facts
from dinoforge.sources.accounting import Account
from dinoforge.stages import Json, Output, part_name

__all__ = ["RecordsStage"]

_log = logging.getLogger(__name__)


class RecordsStage(EvaluationStage):
    """Make the records of each data set."""

    name = "records"
    number = 90
    keys = ("bootstrap",)

    def __init__(self, protocols: Sequence[str]) -> None:
        self.protocols = tuple(protocols)  # in the order of the records
        self.needs = ("list", "digest", "features", "training-images", "leakage", *protocols)

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan one partition per data set."""
        return [{"set": at} for at in range(num_sets(inputs))]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """Make the records of one data set."""
        at = payload["set"]
        items, bootstrap = read_items(inputs, at), inputs.config.bootstrap
        outcomes = [
            (outcome, is_newest)
            for stage in self.protocols
            for of_set, is_newest, outcome in read_outcomes(inputs, stage)
            if of_set == at
        ]
        leaked = read_leaked(inputs, at)
        if leaked is not None:
            outcomes = [(_without_leaked(o, items, leaked), is_new) for o, is_new in outcomes]
        counted = [o for o, is_newest in outcomes if is_newest and len(o.values)]
        curve = [o for o, is_newest in outcomes if not is_newest]
        plain = [o.record for o, _ in outcomes if not len(o.values)]
        records = with_intervals(counted, bootstrap, curve) + plain
        if leaked is not None and records:
            records.append(_count_of(items, leaked))
        for line in find_warnings(records):
            _log.warning("%s", line)
        bad = read_undecodable(inputs, at)
        stop_if_none_decodes(items, ~bad)  # also where no protocol suits the images
        account = Account.of(
            len(items),
            items.facts["problems"],
            undecodable=int(bad.sum()),
            not_downloaded=items.not_downloaded,
        )
        facts = {
            "data": _fingerprint(items, read_digests(inputs, at)),
            # Of the command that opened the run: nodes may have a copy of the code without it.
            "commit": read_facts(inputs.run_folder).get("commit", git_commit()),
            "problems": account.counts | dict(account.not_downloaded),
        }
        _warn_of_undecodable(items, bad)
        path = out.folder / f"{part_name(out.index)}.records.jsonl"
        write_records(path, [replace(record, **facts) for record in records])
        out.add(path, rows=len(records))
        return {"name": items.name, "records": len(records)}


def _without_leaked(outcome: Outcome, items: Items, leaked: Leaked) -> Outcome:
    """Give a record its number without the units that contain a leaked test image."""
    if not len(outcome.values):
        return outcome
    is_hit = np.zeros(len(items), np.bool_)
    is_hit[items.test] = leaked.is_hit
    rows = outcome.units >= 0
    counts = units_without_hits(is_hit[rows], outcome.units[rows], len(outcome.values))
    left = int(counts.sum())
    settings = {
        "without_leaked": combine(outcome.rule, outcome.values, counts) if left else None,
        "units_left": left,
        "units_dropped": len(counts) - left,
    }
    record = replace(outcome.record, settings=outcome.record.settings | settings)
    return replace(outcome, record=record)


def _count_of(items: Items, leaked: Leaked) -> Record:
    """Record how many test images were found among the training images."""
    return Record(
        benchmark=f"leakage/{items.name}",
        model="training images",
        metric="leaked_images",
        value=float(leaked.is_hit.sum()),
        n=len(leaked.is_hit),
        settings=leaked.facts,
    )


def _fingerprint(items: Items, digests: np.ndarray) -> str:
    """Hash the test images: their keys, classes and bytes, wherever they are."""
    digest = hashlib.sha256(items.facts["truth"].encode())
    table = items.table.select(["key", "class_name", "number"]).take(items.test)
    for row, image in zip(table.to_pylist(), digests[items.test], strict=True):
        digest.update(repr(list(row.values())).encode() + image.tobytes())
    return digest.hexdigest()


def _warn_of_undecodable(items: Items, is_bad: np.ndarray) -> None:
    for name, rows in (("bank", items.bank), ("test set", items.test)):
        if (bad := int(is_bad[rows].sum())) and not (name == "test set" and items.leave_one_out):
            _log.warning("%s: %d of %d images do not decode and are left out", name, bad, len(rows))
    known, good = (
        np.unique(items.labels[rows]) for rows in (items.bank, items.bank[~is_bad[items.bank]])
    )
    lost = np.isin(items.labels[items.test], np.setdiff1d(known, [*good, -1]))
    if lost.any():
        text = "%d test images belong to classes of which no image of the bank decodes"
        _log.warning(text, int(lost.sum()))
