"""Everything in a report, read from run folders; what is missing is None.

A folder of evaluations is one of three: a run of ``dinoforge evaluate``; the runs of one recipe,
``step-000005000`` and so on; the runs of several recipes, ``NAME/step-000005000``. A training
that was submitted with ``--evaluate`` has the last kind as ``RUN/evaluation``.
"""

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from dinoforge.curated import summary_path
from dinoforge.encoders.stream import add_rates
from dinoforge.errors import damaged
from dinoforge.evaluation.config import EvaluationConfig, SetConfig, named_sets, protocols_for
from dinoforge.evaluation.report.curves import Curves, make_curves
from dinoforge.evaluation.report.ledger import Funnel, Ledger, make_funnel, read_ledger
from dinoforge.evaluation.report.sheets import Sheets, make_sheets
from dinoforge.evaluation.scores import Headline, Scores, arrange, headline, list_left_out, step_of
from dinoforge.files import read_object
from dinoforge.records import RECORDS, Record, read_records
from dinoforge.runs import read_recipe
from dinoforge.steps import step_name, steps_in

__all__ = [
    "METHODS",
    "CurationFacts",
    "ReportFacts",
    "RunFacts",
    "Sources",
    "StageTime",
    "collect",
    "find_evaluations",
    "find_left_out",
    "gather_records",
    "plain",
    "read_run",
    "recipe_value",
]

# What a method does, and what its curves show while it works.
METHODS = {
    "dinov2": "DINOv2: the student predicts the teacher's assignment of crops (DINO) and of masked "
    "patches (iBOT) to prototypes, while KoLeo spreads its class tokens. The entropy of one target "
    "falls; that of the mean target stays near ln K as long as all prototypes are used.",
    "dino": "DINO (2021): the student predicts the teacher's assignment of crops to prototypes. "
    "The entropy of one target falls; that of the mean target stays near ln K as long as all "
    "prototypes are used.",
    "paws": "PAWS: crops are classified by their similarity to labeled images, and the crops of an "
    "image are to get the same class. The entropy of one prediction falls; that of the mean "
    "prediction stays near ln C as long as all classes are predicted.",
    "suncet": "SuNCEt: labeled images are classified by each other, alongside a contrastive loss "
    "between crops of the same image.",
    "distillation": "Distillation: a larger, frozen teacher assigns crops and all patches to "
    "prototypes, the student predicts its assignments, and KoLeo spreads its class tokens. Losses "
    "cannot fall below the entropy of a target.",
    "supervised": "Supervised: the backbone and a linear classifier are trained on the labeled "
    "images alone.",
}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Run folders that a report reads; None if not given.

    ``evaluation`` may hold evaluations of several steps and recipes; if it is not given, those
    made during the training are used (`find_evaluations`).
    """

    curation: Path | None = None
    training: Path | None = None
    evaluation: Path | None = None

    def evaluations(self) -> dict[str, list[Path]]:
        """Recipe -> finished evaluations, newest step first."""
        folder = self.evaluation
        if folder is None and self.training is not None:
            folder = self.training / "evaluation"
        return {} if folder is None else find_evaluations(folder)

    def newest_evaluations(self) -> list[Path]:
        """Run folders that represent the evaluations: the newest step of each recipe."""
        newest = [runs[0] for runs in self.evaluations().values()]
        return newest or ([] if self.evaluation is None else [self.evaluation])


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Measurements of one stage: sums over its partitions; for memory, the maximum."""

    stage: str
    partitions: int
    seconds: float
    cpu_seconds: float
    peak_rss_mib: int
    images_per_s: float | None = None  # of stages that encode images, in one process
    decode_wait: float | None = None  # share of the time in which they waited for decoded images


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run folder: its recipe, command and machine."""

    kind: str  # curation, training, evaluation
    command: str
    commit: str  # of the last start
    commits: list[str]  # of all starts, in order
    config_hash: str
    versions: dict[str, str]
    config: str  # YAML, with the origins as comments
    stages: list[StageTime]
    # These may differ between two equal runs.
    host: str
    cores: int
    started: str
    stopped: str


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
    left_out: Sequence[str]  # what was not done, and why
    records: list[Record]
    headline: Headline | None
    scores: Scores
    curation: CurationFacts | None
    curves: Curves | None
    method: str  # of the training, in words; "" without one
    parts: list[dict[str, Any]]  # of the training's mixture: name, images, seen, passes
    runs: list[RunFacts]


def collect(
    sources: Sources, title: str, left_out: Sequence[str] = ()
) -> tuple[ReportFacts, Ledger | None]:
    """Read the runs that are given; the ledger is returned too, for its pictures."""
    ledger = None if sources.curation is None else read_ledger(sources.curation)
    records = gather_records(sources.evaluations())
    folders = [("curation", sources.curation), ("training", sources.training)]
    folders += [("evaluation", folder) for folder in sources.newest_evaluations()]
    runs = [
        read_run(folder, kind)
        for kind, folder in folders
        if folder is not None and (folder / "run.json").is_file()
    ]
    curves, method, parts = None, "", []
    if sources.training is not None:
        parts = read_object(sources.training / "run.json").get("parts", [])
        recipe = read_recipe(sources.training)
        method = METHODS.get(recipe_value(recipe, "method") or "dinov2", "")
        support = recipe_value(recipe, "support") or {}
        groups = support.get("groups", 1) if support.get("unique_classes") else 1
        curves = make_curves(
            sources.training,
            prototypes=recipe_value(recipe, "dino_head.prototypes"),
            classes=support.get("classes", 0) * groups,
        )
    curation = _curation(sources.curation, ledger)
    facts = ReportFacts(
        title=title or "dinoforge report",
        left_out=left_out or find_left_out(curation, sources),
        records=records,
        headline=headline(records),
        scores=arrange(records),
        curation=curation,
        curves=curves,
        method=method,
        parts=parts,
        runs=runs,
    )
    return facts, ledger


def find_left_out(curation: CurationFacts | None, sources: Sources) -> list[str]:
    """List what the curation and the newest evaluations were to do and did not, and why."""
    lines = [] if curation is None else list(curation.summary.get("remarks", []))
    for folder in sources.newest_evaluations():
        if (folder / RECORDS).is_file():
            config, records = _sets_of(read_recipe(folder)), read_records(folder / RECORDS)
            for name in named_sets(config):
                some = [r for r in records if r.benchmark.partition("/")[2] == name]
                lines += list_left_out(some, protocols_for(config, name))
    return list(dict.fromkeys(lines))


def _sets_of(recipe: Mapping[str, Any]) -> EvaluationConfig:
    """Return the data sets of a recipe: their names, and what is measured on them."""
    sets = {
        name: SetConfig(**{key: one[key] for key in ("layout", "protocols") if key in one})
        for name, one in recipe.get("sets", {}).items()
    }
    known = ("name", "train", "test", "protocols")
    return EvaluationConfig(sets=sets, **{key: recipe[key] for key in known if key in recipe})


def _curation(folder: Path | None, ledger: Ledger | None) -> CurationFacts | None:
    if folder is None or ledger is None:
        return None
    config, path = read_recipe(folder), summary_path(folder)
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise damaged(path, error) from error
    verify = recipe_value(config, "duplicates.verify")
    limits = [recipe_value(config, "decontaminate.threshold")]
    if verify and verify["mode"] == "pixels":
        limits.append(verify["min_correlation"])
    return CurationFacts(
        funnel=make_funnel(ledger),
        sheets=make_sheets(
            ledger,
            threshold=recipe_value(config, "duplicates.threshold"),
            floor=recipe_value(config, "duplicates.floor"),
            leak_threshold=min(filter(None, limits), default=None),
            references=summary.get("leaks", {}).get("references", {}),
            verify=verify,
        ),
        summary=summary,
    )


def read_run(folder: Path, kind: str) -> RunFacts:
    """Read ``run.json``, ``config.yaml`` and the markers; missing values stay empty."""
    facts = read_object(folder / "run.json")
    config = folder / "config.yaml"
    argv = facts.get("argv")
    starts = [*(facts.get("earlier") or []), facts]
    texts = ("commit", "config_hash", "host", "started", "stopped")
    return RunFacts(
        kind=kind,
        command=shlex.join(["dinoforge", *argv]) if isinstance(argv, list) else "",
        commits=list(dict.fromkeys(start["commit"] for start in starts if start.get("commit"))),
        versions=dict(facts.get("versions") or {}),
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        stages=_stage_times(folder),
        cores=int(facts.get("cores") or 0),
        **{name: str(facts.get(name) or "") for name in texts},
    )


def recipe_value(config: dict[str, Any], key: str) -> Any:
    """Value of a dotted key; None if the recipe has no such key."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _stage_times(folder: Path) -> list[StageTime]:
    times = []
    for stage in sorted({marker.parent for marker in folder.glob("*/*/part-*.done")}):
        measured = [read_object(m).get("measured") or {} for m in sorted(stage.glob("part-*.done"))]
        rates = add_rates(measured)
        times.append(
            StageTime(
                stage=f"{stage.parent.name}/{stage.name}",
                partitions=len(measured),
                seconds=round(sum(m.get("seconds", 0.0) for m in measured), 3),
                cpu_seconds=round(sum(m.get("cpu_seconds", 0.0) for m in measured), 3),
                peak_rss_mib=max(m.get("peak_rss_mib", 0) for m in measured),
                images_per_s=rates and round(rates[0], 1),
                decode_wait=rates and round(rates[1], 3),
            )
        )
    return times


def find_evaluations(folder: Path) -> dict[str, list[Path]]:
    """Find the finished evaluations in a folder of one of the three kinds.

    Returns name of a recipe -> run folders that have records, newest step first. The name is ""
    for a run or for the steps of one recipe.
    """
    if (folder / RECORDS).is_file():
        return {"": [folder]}
    subfolders = sorted(path for path in folder.glob("*") if path.is_dir())
    by_recipe = {"": _by_step(folder)}
    if not by_recipe[""]:
        by_recipe = {path.name: _by_step(path) for path in subfolders}
    return {name: runs for name, runs in by_recipe.items() if runs}


def _by_step(folder: Path) -> list[Path]:
    runs = [folder / step_name(step) for step in reversed(steps_in(folder))]
    return [run for run in runs if (run / RECORDS).is_file()]


def gather_records(evaluations: Mapping[str, Sequence[Path]]) -> list[Record]:
    """Read the records of what `find_evaluations` returns.

    All of each recipe's newest step; of earlier steps only ``trained``, as baselines and the
    untrained network are the same at every step. If two recipes measured benchmarks of the same
    name, the name of the recipe is appended.
    """
    by_recipe = {}
    for name, runs in evaluations.items():
        newest, *earlier = (read_records(run / RECORDS) for run in runs)
        curve = [r for rs in earlier for r in rs if r.model == "trained" and step_of(r) is not None]
        by_recipe[name] = [*newest, *curve]
    uses = Counter(b for records in by_recipe.values() for b in {r.benchmark for r in records})
    return [
        replace(r, benchmark=f"{r.benchmark} ({name})") if uses[r.benchmark] > 1 else r
        for name, records in by_recipe.items()
        for r in records
    ]


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
