"""Write ``report.html`` and, beside it, ``report.json`` with every number shown."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinoforge.evaluation.report.collect import ReportFacts, Sources, collect, plain
from dinoforge.evaluation.report.page import make_page
from dinoforge.evaluation.report.pictures import FeatureMaps, make_feature_maps
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
) -> ReportSummary:
    """Write one self-contained page about what the given runs did; equal inputs, equal bytes.

    Parameters
    ----------
    folder : Path
        Where ``report.html`` and ``report.json`` go.
    curation, training : Path, optional
        Run folders of ``dinoforge curate`` and ``train``.
    evaluation : Path, optional
        Run folder of ``dinoforge evaluate``, or a folder of evaluations of several steps (see
        `evaluation.report.gather`); not given: what was measured while the training ran.
    title : str
        Headline of the page.

    Returns
    -------
    ReportSummary
        Paths of the two files. ``report.json`` holds ``records`` at the top level; what two
        equal runs need not share (times, host) is under ``measured``.

    Raises
    ------
    UsageError
        If the folder cannot be written or a table of a run is damaged.
    """
    folder = Path(folder)
    sources = Sources(curation=curation, training=training, evaluation=evaluation)
    facts, ledger = collect(sources, title)
    maps = make_feature_maps(sources, ledger, folder / "cache")
    html = make_page(facts, ledger, maps)
    write_text(folder / "report.html", html)
    write_json(folder / "report.json", _as_json(facts, maps))
    return ReportSummary(folder / "report.html", folder / "report.json")


def _as_json(facts: ReportFacts, maps: FeatureMaps | None) -> dict[str, Any]:
    curves = facts.curves
    return {
        "title": facts.title,
        "records": plain(facts.records),
        "headline": plain(facts.headline),
        "curation": plain(facts.curation),
        "training": plain(replace(curves, clock=[])) if curves is not None else None,
        "features": _features_json(maps),
        "runs": [
            {
                "kind": run.kind,
                "command": run.command,
                "commit": run.commit,
                "commits": run.commits,
                "config_hash": run.config_hash,
                "versions": run.versions,
                "config": run.config,
            }
            for run in facts.runs
        ],
        "measured": {
            "runs": [
                {
                    "kind": run.kind,
                    "host": run.host,
                    "cores": run.cores,
                    "started": run.started,
                    "stopped": run.stopped,
                    "stages": plain(run.stages),
                }
                for run in facts.runs
            ],
            "clock": plain(curves.clock) if curves is not None else [],
        },
    }


def _features_json(maps: FeatureMaps | None) -> dict[str, Any] | None:
    if maps is None:
        return None
    explained = {model.model: list(model.explained) for model in maps.models}
    return {"images": maps.keys, "origin": maps.origin, "explained_variance": explained}
