"""Everything that a report says, gathered from run folders; what is missing is None."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from dinoforge.curated import summary_path
from dinoforge.records import Record, read_records
from evaluation.report.curves import Curves, make_curves
from evaluation.report.funnel import Funnel, make_funnel
from evaluation.report.ledger import Ledger, read_ledger
from evaluation.report.provenance import RunFacts, read_config, read_run, recipe_value
from evaluation.report.scores import Headline, Scores, arrange, headline
from evaluation.report.sheets import Sheets, make_sheets

__all__ = ["CurationFacts", "ReportFacts", "Sources", "collect", "plain"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Run folders that a report reads from; None is not given."""

    curation: Path | None
    training: Path | None
    evaluation: Path | None

    @property
    def records(self) -> Path | None:
        """File of the records of the evaluation."""
        return None if self.evaluation is None else self.evaluation / "records.jsonl"


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
    records = []
    if sources.records is not None and sources.records.is_file():
        records = read_records(sources.records)
    folders = {
        "curation": sources.curation,
        "training": sources.training,
        "evaluation": sources.evaluation,
    }
    runs = [
        read_run(folder, kind)
        for kind, folder in folders.items()
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
