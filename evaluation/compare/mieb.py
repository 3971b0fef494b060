"""A comparison in the shape of mteb's results, as MIEB's leaderboard of image encoders reads them.

The fields are those of `TaskResult` and `ModelMeta` of mteb 2 (embeddings-benchmark/mteb, commit
02c088e; the layout of results since 1.11): ``MODEL/REVISION/TASK.json`` beside a
``model_meta.json``. ``mteb_version`` is null, since mteb measured nothing. Scores stay as they are
here: the protocols differ from those of MIEB's tasks.
"""

import math
import re
from typing import Any

from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Row

__all__ = ["mieb_files"]

_UNKNOWN = (
    *("loader", "release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens"),
    *("embed_dim", "license", "open_weights", "public_training_code", "public_training_data"),
    *("similarity_fn_name", "use_instructions", "training_datasets"),
)


def mieb_files(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Return relative path -> JSON object: a file per model and benchmark; no published rows."""
    files: dict[str, dict[str, Any]] = {}
    for row, cells in zip(comparison.rows, comparison.cells, strict=True):
        if row.is_published:
            continue
        revision = row.checkpoint or "no_revision_available"
        folder = f"{_file_name(row.name)}/{_file_name(revision)}"
        files[f"{folder}/model_meta.json"] = _model_meta(row, revision)
        by_benchmark: dict[str, list[tuple[Column, Cell]]] = {}
        for column, cell in zip(comparison.columns, cells, strict=True):
            if cell is not None and math.isfinite(cell.value):
                by_benchmark.setdefault(column.benchmark, []).append((column, cell))
        for benchmark, some in by_benchmark.items():
            files[f"{folder}/{_file_name(benchmark)}.json"] = _task_result(benchmark, some)
    return files


def _model_meta(row: Row, revision: str) -> dict[str, Any]:
    return {
        "name": row.name,
        "revision": revision,
        **dict.fromkeys(_UNKNOWN),
        "framework": ["PyTorch"],
        "modalities": ["image"],
    }


def _task_result(benchmark: str, some: list[tuple[Column, Cell]]) -> dict[str, Any]:
    """Return all metrics of a benchmark; the first is the main score."""
    scores: dict[str, Any] = {"main_score": some[0][1].value}
    for column, cell in some:
        scores[column.metric] = cell.value
        if cell.interval is not None:
            scores[f"{column.metric}_ci95"] = list(cell.interval)
        if cell.deviation is not None:
            scores[f"{column.metric}_std"] = cell.deviation
    seconds = math.fsum(record.seconds for _, cell in some for record in cell.records)
    return {
        "dataset_revision": some[0][0].data,
        "task_name": _file_name(benchmark),
        "mteb_version": None,
        "scores": {"test": [scores | {"hf_subset": "default", "languages": ["eng-Latn"]}]},
        "evaluation_time": seconds or None,  # records of a run hold no times
        "kg_co2_emissions": None,
    }


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]", "_", text.replace("/", "__"))
