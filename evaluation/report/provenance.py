"""Where the numbers come from: recipe, commit, versions, command, machine, time per stage."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["RunFacts", "StageTime", "read_config", "read_run", "recipe_value"]


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Measurements of one stage: sums over its partitions; for memory, the maximum."""

    stage: str
    partitions: int
    seconds: float
    cpu_seconds: float
    peak_rss_mib: int


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


def read_run(folder: Path, kind: str) -> RunFacts:
    """Read ``run.json``, ``config.yaml`` and the markers; missing values stay empty."""
    facts = _read_json(folder / "run.json")
    config = folder / "config.yaml"
    argv = facts.get("argv")
    starts = [*(facts.get("earlier") or []), facts]
    return RunFacts(
        kind=kind,
        command=shlex.join(["dinoforge", *argv]) if isinstance(argv, list) else "",
        commit=str(facts.get("commit") or ""),
        commits=list(dict.fromkeys(start["commit"] for start in starts if start.get("commit"))),
        config_hash=str(facts.get("config_hash") or ""),
        versions=dict(facts.get("versions") or {}),
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        stages=_stage_times(folder),
        host=str(facts.get("host") or ""),
        cores=int(facts.get("cores") or 0),
        started=str(facts.get("started") or ""),
        stopped=str(facts.get("stopped") or ""),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return the resolved recipe of a run; empty if it has none."""
    path = folder / "config.yaml"
    plain = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return plain if isinstance(plain, dict) else {}


def recipe_value(config: dict[str, Any], key: str) -> Any:
    """Value of a dotted key; None if the recipe has no such key."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _stage_times(folder: Path) -> list[StageTime]:
    times = []
    for stage in sorted({marker.parent for marker in folder.glob("*/*/part-*.done")}):
        measured = [_read_json(m).get("measured") or {} for m in sorted(stage.glob("part-*.done"))]
        times.append(
            StageTime(
                stage=f"{stage.parent.name}/{stage.name}",
                partitions=len(measured),
                seconds=round(sum(m.get("seconds", 0.0) for m in measured), 3),
                cpu_seconds=round(sum(m.get("cpu_seconds", 0.0) for m in measured), 3),
                peak_rss_mib=max(m.get("peak_rss_mib", 0) for m in measured),
            )
        )
    return times


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
