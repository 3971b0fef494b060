"""A model card in Markdown for the Hub: what the files of a training and of its data show.

Every number is that of a file. What no file records is called "not recorded", never guessed;
energy and carbon are estimates by a formula that is stated (`footprint`).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from dinoforge.curated import summary_path
from dinoforge.errors import UsageError, damaged
from dinoforge.evaluation.compare.build import compare_records
from dinoforge.evaluation.compare.comparison import Cell, Comparison
from dinoforge.evaluation.compare.documents import as_markdown
from dinoforge.evaluation.compare.sources import TRAINED
from dinoforge.evaluation.report.against import against_others, row_of
from dinoforge.evaluation.report.facts import Sources, find_left_out, gather_records, recipe_value
from dinoforge.evaluation.report.footprint import Assumptions, estimate, measure_compute
from dinoforge.pages.render import render
from dinoforge.records import Record
from dinoforge.runs import read_facts, read_recipe, working_folders
from dinoforge.sources.accounting import describe_failed
from dinoforge.steps import exported_steps

__all__ = ["CardOptions", "make_card"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # no parameters
_PRIVATE = ("out", "data.paths", "data.parts")  # paths of the machine
_LICENSES = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "mit": "https://opensource.org/license/mit",
    "bsd-3-clause": "https://opensource.org/license/bsd-3-clause",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
}
_TASKS = {  # of the Hub, by protocol; others are feature extraction
    **dict.fromkeys(
        ("knn", "logistic", "linear", "few_shot", "low_shot", "soft_nn"), "image-classification"
    ),
    **dict.fromkeys(("segmentation", "in_context", "attention"), "image-segmentation"),
    **{"depth": "depth-estimation", "discovery": "object-detection"},
    "clips": "video-classification",
}


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """What no file of a run knows."""

    name: str = ""  # of the model; "": the name of the run folder
    license: str = ""  # identifier of the Hub, such as apache-2.0
    datasets: Sequence[str] = ()  # identifiers of the Hub
    assumptions: Assumptions = field(default_factory=Assumptions)


@dataclass(frozen=True)
class _Curation:
    name: str
    commit: str
    summary: dict[str, Any]  # empty if it has not finished


@dataclass(frozen=True, kw_only=True)
class _Backbone:
    """An exported file, read without its tensors."""

    step: int
    metadata: dict[str, Any]  # JSON values are decoded; without `config` unless it is a ViT's
    parameters: int

    @property
    def is_vit(self) -> bool:
        return "config" in self.metadata


def make_card(
    training: Path,
    *,
    curations: Sequence[Path] = (),
    evaluation: Path | None = None,
    options: CardOptions | None = None,
) -> str:
    """Write the card of the newest backbone of a training.

    Parameters
    ----------
    training : Path
        Run folder of ``dinoforge train``, finished or not.
    curations : sequence of Path, optional
        Runs of ``dinoforge curate`` that made its data; by default its parents.
    evaluation : Path, optional
        A run of ``dinoforge evaluate`` or a folder of several (see `report.facts`); by default
        those below the training.
    options : CardOptions, optional

    Raises
    ------
    UsageError
        If the folder holds no training, or a file of a run is damaged.
    """
    options = options or CardOptions()
    facts = read_facts(training)
    if facts.get("command") != "train":
        kind = f"holds a run of `dinoforge {facts['command']}`" if facts else "holds no run"
        do = "give the out=FOLDER of a run of `dinoforge train`"
        raise UsageError(what=f"the folder {kind}", where=str(training), do=do)
    recipe = read_recipe(training)
    sources = Sources(training=training, evaluation=evaluation)
    records = gather_records(sources.evaluations())
    comparison = compare_records(records) if records else None
    backbone = _read_backbone(training)
    compute = measure_compute(training, facts)
    made_by = [_read_curation(folder) for folder in curations or _parents(training, facts)]
    values: dict[str, Any] = {
        "name": options.name or training.absolute().name,
        "license": options.license,
        "license_url": _LICENSES.get(options.license, ""),
        "facts": facts,
        "recipe": recipe,
        "changed": list(_set_keys(training, recipe)),
        "backbone": backbone,
        "curations": made_by,
        "compute": compute,
        "footprint": estimate(compute, options.assumptions),
        "leaks": [r for r in records if r.metric == "leaked_images"],
        "table": as_markdown(comparison) if comparison else "",
        "value": lambda key: recipe_value(recipe, key),
        "method": recipe_value(recipe, "method") or "dinov2",
        "cell": _as_cell,
    }
    values["limits"] = list(_limits(values, records, comparison, find_left_out(None, sources)))
    front = yaml.safe_dump(
        _front_matter(values, options, comparison), sort_keys=False, allow_unicode=True
    )
    return render("card.md", folder=_TEMPLATES, front_matter=front, **values)


def _as_cell(value: Any) -> str:
    """Format a value for a table: on one line, without a bar that would end the cell."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _parents(training: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Find the curations that a training names as its parents, also after all were moved."""
    curations = []
    for parent in facts.get("parents") or ():
        places = (start / parent for start in working_folders(training))
        curations += [p for p in places if read_facts(p).get("command") == "curate"][:1]
    return curations


def _read_curation(folder: Path) -> _Curation:
    facts, path = read_facts(folder), summary_path(folder)
    if facts.get("command") != "curate":
        do = "give the out=FOLDER of a run of `dinoforge curate`"
        raise UsageError(what="the folder holds no curation", where=str(folder), do=do)
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    return _Curation(folder.absolute().name, str(facts.get("commit") or ""), summary)


def _read_backbone(training: Path) -> _Backbone | None:
    """Read the header of the newest export: metadata, and shapes of the tensors."""
    exports = exported_steps(training)
    if not exports:
        return None
    step = max(exports)
    try:
        with safe_open(exports[step], framework="numpy") as file:
            notes = dict(file.metadata())
            names = [n for n in file.keys() if not n.endswith(("mask_token", *_STATISTICS))]  # noqa: SIM118
            shapes = [file.get_slice(name).get_shape() for name in names]
        for name in ("image_mean", "image_std", *(["config"] if "config" in notes else ())):
            notes[name] = json.loads(notes[name])
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise damaged(exports[step], error) from error
    return _Backbone(step=step, metadata=notes, parameters=sum(map(math.prod, shapes)))


def _set_keys(training: Path, recipe: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield what is not a default, by the comments of ``config.yaml``: key, value, origin."""
    path = training / "config.yaml"
    outer: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        match = re.match(r"( *)([A-Za-z_]\w*):", line)
        if match is None:
            continue
        outer = [(depth, name) for depth, name in outer if depth < len(match[1])]
        outer.append((len(match[1]), match[2]))
        key, origin = ".".join(name for _, name in outer), line.partition("  # ")[2]
        if origin and key not in _PRIVATE:
            yield key, recipe_value(recipe, key), origin


def _front_matter(
    values: Mapping[str, Any], options: CardOptions, comparison: Comparison | None
) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": options.license or "unknown",
        "library_name": "dinoforge",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["dinoforge", values["method"], "self-supervised-learning"],
    }
    if values["backbone"] and values["backbone"].is_vit:
        front["tags"].append("vision-transformer")
    if options.datasets:
        front["datasets"] = list(options.datasets)
    if comparison is not None and (results := list(_results(comparison))):
        front["model-index"] = [{"name": values["name"], "results": results}]
    return front


def _results(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield the numbers of the trained network as the Hub's model-index has them."""
    for column, cell in zip(comparison.columns, row_of(comparison, TRAINED), strict=True):
        if cell is None or math.isnan(cell.value):
            continue
        protocol, _, data = column.benchmark.partition("/")
        base = re.sub(r"_?\d+$", "", protocol)
        yield {
            "task": {"type": _TASKS.get(base, "image-feature-extraction"), "name": protocol},
            "dataset": {"name": data, "type": data},
            "metrics": [
                {
                    "type": column.metric,
                    "value": round(cell.value, 6),
                    "name": _described(column.metric, cell),
                }
            ],
        }


def _described(metric: str, cell: Cell) -> str:
    """Name a metric with its settings: ``accuracy (k = 20, both, chosen on the test images)``."""
    notes = [f"k = {cell.k}" if cell.k else "", cell.features]
    notes.append("chosen on the test images" if "test-peek" in cell.selection else "")
    listed = ", ".join(filter(None, notes))
    return f"{metric} ({listed})" if listed else metric


def _limits(
    values: Mapping[str, Any],
    records: Sequence[Record],
    comparison: Comparison | None,
    left_out: Sequence[str],
) -> Iterator[str]:
    """Yield what the files show that the numbers do not cover."""
    backbone, steps = values["backbone"], recipe_value(values["recipe"], "steps")
    if backbone is not None and steps is not None and backbone.step < int(steps):
        yield f"The training has not finished: step {backbone.step:,} of {int(steps):,}."
    if not values["curations"]:
        yield "No curation is recorded: duplicates and leaks in the data were not examined."
    elif not any(c.summary.get("leaks", {}).get("references") for c in values["curations"]):
        yield "The curation had no reference images: leaks of benchmarks were not searched for."
    for curation in values["curations"]:
        for remark in curation.summary.get("remarks", []):
            yield f"Curation: {remark}."
    yield from _limits_of_sources(values["facts"].get("sources") or {})
    if comparison is None:
        yield "No evaluation is recorded: the features were not measured."
    else:
        if not values["leaks"]:
            yield "Test images were not checked against the training images (`leakage.curation`)."
        yield from _weak_spots(records, comparison)
    for line in left_out:
        yield f"Not measured: {line}."
    yield (
        "The content of the images was not examined (faces, people, places, offensive content), "
        "nor was social bias of the features."
    )


def _limits_of_sources(account: Mapping[str, Any]) -> Iterator[str]:
    if failed := account.get("not_downloaded"):
        yield f"Samples of the sources: {describe_failed(failed)}."
    for source in account.get("incomplete") or []:
        yield f"A source may have given only part of its images: {source.get('reason', source)}."


def _weak_spots(records: Sequence[Record], comparison: Comparison) -> Iterator[str]:
    """Yield scores chosen on the test images, and models that the trained one does not beat."""
    spots: dict[str, list[str]] = {}
    for column, cell in zip(comparison.columns, row_of(comparison, TRAINED), strict=True):
        if cell is not None and "test-peek" in cell.selection:
            text = "Chosen on the test images, therefore optimistic"
            spots.setdefault(text, []).append(column.title)
    for one in against_others(records, comparison):
        if not one.is_better:
            spots.setdefault(f"Not better than `{one.model}`", []).append(one.column.title)
        elif one.difference is not None and not one.difference.is_clear:
            text = f"Not clearly better than `{one.model}` (paired difference)"
            spots.setdefault(text, []).append(one.column.title)
    for text, benchmarks in spots.items():
        yield f"{text}: {', '.join(benchmarks)}."
