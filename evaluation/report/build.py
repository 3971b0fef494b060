"""Write ``report.html`` and, beside it, ``report.json`` with every number on the page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dinoforge.curated import quality_page
from dinoforge.evaluation.report.facts import ReportFacts, Sources, collect, plain
from dinoforge.evaluation.report.maps import FeatureMaps, make_feature_maps
from dinoforge.evaluation.report.page import make_page
from dinoforge.files import write_json, write_text

__all__ = ["ReportSummary", "make_report"]


@dataclass(frozen=True)
class ReportSummary:
    """Where a report was written."""

    html: Path
    json: Path


def make_report(
    folder: Path,
    *,
    curation: Path | None = None,
    training: Path | None = None,
    evaluation: Path | None = None,
    title: str = "",
    left_out: Sequence[str] = (),
) -> ReportSummary:
    """Write one self-contained page about the given runs; equal inputs give equal bytes.

    ``evaluation`` is a run folder of ``dinoforge evaluate``, or a folder of evaluations of several
    steps (see `evaluation.report.facts`); by default those made during the training. ``left_out``
    are lines about what was not done, and why; by default the remarks of the curation. ``folder``
    receives ``report.html``, which links to the page of issues and scores of the curation, and
    ``report.json``, which holds ``records`` at the top level; what may differ between two equal
    runs (times, host) is under ``measured``.

    Raises
    ------
    UsageError
        If the folder cannot be written or a table of a run is damaged.
    """
    folder = Path(folder)
    sources = Sources(curation=curation, training=training, evaluation=evaluation)
    facts, ledger = collect(sources, title, left_out)
    maps = make_feature_maps(sources, ledger, folder / "cache")
    html = make_page(facts, ledger, maps, quality=_link_to_quality(folder, curation))
    write_text(folder / "report.html", html)
    write_json(folder / "report.json", _as_json(facts, maps))
    return ReportSummary(folder / "report.html", folder / "report.json")


def _link_to_quality(folder: Path, curation: Path | None) -> str:
    """Return the link to the page of issues and scores of a curation; "" if it has none."""
    if curation is None or not (page := quality_page(curation)).is_file():
        return ""
    return quote(os.path.relpath(page, folder))


def _as_json(facts: ReportFacts, maps: FeatureMaps | None) -> dict[str, Any]:
    curves = facts.curves
    recorded = ("kind", "command", "commit", "commits", "config_hash", "versions", "config")
    measured = ("kind", "host", "cores", "started", "stopped", "stages")
    features = None
    if maps is not None:
        explained = {name: list(model.explained) for name, model in maps.models.items()}
        features = {"images": maps.keys, "origin": maps.origin, "explained_variance": explained}
    return {
        "title": facts.title,
        "left_out": list(facts.left_out),
        "records": plain(facts.records),
        "headline": plain(facts.headline),
        "curation": plain(facts.curation),
        "training": plain(replace(curves, clock=[])) if curves is not None else None,
        "parts": facts.parts,
        "features": features,
        "runs": [{name: plain(getattr(run, name)) for name in recorded} for run in facts.runs],
        "measured": {
            "runs": [{name: plain(getattr(run, name)) for name in measured} for run in facts.runs],
            "clock": plain(curves.clock) if curves is not None else [],
        },
    }
