"""Everything that a report says, gathered from run folders; what is missing is None."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from dinoforge.curated import summary_path
from dinoforge.evaluation.report.curves import Curves, make_curves
from dinoforge.evaluation.report.funnel import Funnel, make_funnel
from dinoforge.evaluation.report.gather import find_evaluations, gather_records
from dinoforge.evaluation.report.ledger import Ledger, read_ledger
from dinoforge.evaluation.report.provenance import RunFacts, read_config, read_run, recipe_value
from dinoforge.evaluation.report.sheets import Sheets, make_sheets
from dinoforge.evaluation.scores import Headline, Scores, arrange, headline
from dinoforge.records import Record

__all__ = ["CurationFacts", "ReportFacts", "Sources", "collect", "plain"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Run folders that a report reads from; None is not given.

    ``evaluation`` may also hold evaluations of several steps and recipes; when it is not given,
    those that were made while the training ran are taken (`find_evaluations`).
    """

    curation: Path | None
    training: Path | None
    evaluation: Path | None

    def evaluations(self) -> dict[str, list[Path]]:
        """Recipe -> finished evaluations, newest step first."""
        folder = self.evaluation
        if folder is None and self.training is not None:
            folder = self.training / "evaluation"
        return {} if folder is None else find_evaluations(folder)

    def newest_evaluations(self) -> list[Path]:
        """Run folders that stand for the evaluations: of each recipe the newest step."""
        newest = [runs[0] for runs in self.evaluations().values()]
        return newest or ([] if self.evaluation is None else [self.evaluation])


@dataclass(frozen=True, kw_only=True)
class CurationFacts:
    """A finished curation."""

    funnel: Funnel
    sheets: Sheets
    summary: dict[str, Any]  # the curation's own summary.json


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """All numbers of a report."""

    title: str
    records: list[Record]
    headline: Headline | None
    scores: Scores
    curation: CurationFacts | None
    curves: Curves | None
    runs: list[RunFacts]


def collect(sources: Sources, title: str) -> tuple[ReportFacts, Ledger | None]:
    """Read what is there; the ledger is returned too, for its pictures."""
    ledger = None if sources.curation is None else read_ledger(sources.curation)
    records = gather_records(sources.evaluations())
    folders = [("curation", sources.curation), ("training", sources.training)]
    folders += [("evaluation", folder) for folder in sources.newest_evaluations()]
    runs = [
        read_run(folder, kind)
        for kind, folder in folders
        if folder is not None and (folder / "run.json").is_file()
    ]
    facts = ReportFacts(
        title=title or "dinoforge report",
        records=records,
        headline=headline(records),
        scores=arrange(records),
        curation=_curation(sources.curation, ledger),
        curves=_curves(sources.training),
        runs=runs,
    )
    return facts, ledger


def _curation(folder: Path | None, ledger: Ledger | None) -> CurationFacts | None:
    if folder is None or ledger is None:
        return None
    config = read_config(folder)
    summary = summary_path(folder)
    return CurationFacts(
        funnel=make_funnel(ledger),
        sheets=make_sheets(
            ledger,
            threshold=recipe_value(config, "duplicates.threshold"),
            floor=recipe_value(config, "duplicates.floor"),
        ),
        summary=json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {},
    )


def _curves(folder: Path | None) -> Curves | None:
    if folder is None:
        return None
    return make_curves(folder, prototypes=recipe_value(read_config(folder), "dino_head.prototypes"))


def plain(value: Any) -> Any:
    """Turn facts into JSON values: records in their own form, non-finite numbers into null."""
    if isinstance(value, Record):
        return plain(value.as_json())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
