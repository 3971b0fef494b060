"""Publish a finished run: ``<run>/published``, all that other packages and people read.

The folder appears in one rename and disappears before any stage changes, so it is never partial.
Tables are hard links to the stages' own files: 1.3 billion rows are not copied.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinoforge import curated
from dinoforge.curation.summary import CurationSummary
from dinoforge.curation.tables import CurationInputs
from dinoforge.curation.takedowns import list_exported
from dinoforge.files import fsync_folder, temporary_name, write_text

__all__ = ["publish", "unpublish"]


def publish(inputs: CurationInputs, summary: CurationSummary) -> None:
    """Publish the results of all stages; does nothing if that is done already."""
    run = inputs.run_folder
    sources = {
        curated.ledger_path(run): inputs.file("export", "ledger.parquet"),
        curated.content_path(run): inputs.file("exact", "content.npy"),
        **{curated.slots_path(run): path for path in inputs.files("retrieve", "slots.parquet")},
    }
    for path in inputs.files("balance", "clusters.parquet"):
        sources[curated.clusters_path(run)] = path
    for path in inputs.files("graph", "pairs.parquet"):
        sources[curated.pairs_folder(run) / path.name] = path
    for path in inputs.files("verify", "verified.parquet"):
        sources[curated.verified_folder(run) / path.name] = path
    folder = curated.shards_folder(run).relative_to(run)
    shards = [
        {"shard": str(folder / name), "images": images}
        for name, images in list_exported(inputs).items()
    ]
    documents = {
        curated.shards_path(run): _as_text(shards),
        curated.summary_path(run): _as_text(summary.as_json()),
    }
    if inputs.config.export.parts:
        documents[curated.parts_path(run)] = _as_text(_list_parts(inputs))
    if not _is_published(run, sources, documents):
        _replace(run, sources, documents)


def _list_parts(inputs: CurationInputs) -> list[dict[str, Any]]:
    """Name the parts with their weights, images and shards: what a mixture in training needs."""
    weights = {rule.label: rule.weight for rule in inputs.config.retrieve.rules}
    images: Counter[str] = Counter()
    for name, count in list_exported(inputs).items():
        images[name.rpartition("-")[0]] += count
    folder = curated.shards_folder(inputs.run_folder).relative_to(inputs.run_folder)
    return [
        {
            "name": part,
            "weight": weights.get(part, 1.0),
            "images": count,
            "shards": f"{folder}/{part}-??????.tar",
        }
        for part, count in sorted(images.items())
    ]


def unpublish(run_folder: Path) -> None:
    """Remove the published folder, the summary first: a run without one is not finished."""
    curated.summary_path(run_folder).unlink(missing_ok=True)
    shutil.rmtree(run_folder / curated.PUBLISHED, ignore_errors=True)


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _is_published(
    run_folder: Path, sources: Mapping[Path, Path], documents: Mapping[Path, str]
) -> bool:
    present = {path for path in (run_folder / curated.PUBLISHED).rglob("*") if path.is_file()}
    return (
        present == {*sources, *documents}
        and all(path.stat().st_size == source.stat().st_size for path, source in sources.items())
        and all(path.read_bytes() == text.encode() for path, text in documents.items())
    )


def _replace(run_folder: Path, sources: Mapping[Path, Path], documents: Mapping[Path, str]) -> None:
    folder = run_folder / curated.PUBLISHED
    for left_by_a_kill in run_folder.glob(f".{curated.PUBLISHED}.tmp-*"):
        shutil.rmtree(left_by_a_kill)
    temporary = temporary_name(folder)
    for path, source in sources.items():
        target = temporary / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)
    for path, text in documents.items():
        write_text(temporary / path.relative_to(folder), text)
    unpublish(run_folder)
    temporary.rename(folder)
    fsync_folder(run_folder)
