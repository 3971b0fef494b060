"""Take images down from a finished run: only the shards that hold them are written again.

The list is written first. From then on, even after a kill, every start of the curation or of the
takedown in this folder ends with the same files, those of a curation without these images. Shards
are rewritten from themselves: the sources may be gone.
"""

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import quality_page, shards_folder
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import PIPELINE, STAGES
from dinoforge.curation.publish import publish, unpublish
from dinoforge.curation.stages.export import ExportStage, finish_shard
from dinoforge.curation.stored.decisions import list_shards
from dinoforge.curation.stored.generations import first_id
from dinoforge.curation.summary import summarize
from dinoforge.curation.tables import CurationInputs
from dinoforge.curation.takedowns import Takedown, add_takedowns, find_taken_down, read_takedowns
from dinoforge.errors import Fault, UsageError
from dinoforge.runs import Run
from dinoforge.shards.reading import read_samples
from dinoforge.shards.writer import ShardWriter
from dinoforge.stages import Json, Output, make_inputs
from dinoforge.stages.pipeline import StagePlan, plan_stage, remove_temporary_files
from dinoforge.stages.task import is_proved, read_marker, run_task
from dinoforge.tables import read_table

__all__ = ["TakedownSummary", "take_down"]

_NAMED = 5  # images in a message


@dataclass(frozen=True)
class TakedownSummary:
    """What was taken down."""

    taken_down: int  # images of the run, all takedowns together
    new: int  # entries added to the list by this call
    shards: list[str]  # rewritten by this call
    kept: int  # images that are left
    # kept images that are duplicates of one that was taken down: they show the same
    duplicates_kept: list[int]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def take_down(run: Run, config: CurationConfig, images: Sequence[str], why: str) -> TakedownSummary:
    """Remove images from the shards of an open run, which must have been finished once.

    ``images`` are ids, keys (of the sources or of the shards) or hashes. Without any, a takedown
    that was stopped is completed.

    Raises
    ------
    UsageError
        If an image is unknown or ambiguous, a shard is missing, or there is nothing to take down.
        Nothing has changed then.
    """
    inputs = make_inputs(PIPELINE.name, STAGES, run.folder, config)
    ledger = _read_ledger(inputs)
    before = read_takedowns(run.folder)
    if not images and not before:
        do = "name images by id or key"
        raise UsageError(what="nothing to take down", where=str(run.folder), do=do)
    rows = _find(ledger, images, str(run.folder))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    new = [
        Takedown(row["sha256"], row["key"], date, why)
        for row in rows
        if row["sha256"] not in before
    ]
    if new:
        add_takedowns(run.folder, new)
    rewritten = _rewrite(run.folder, inputs)
    summary = summarize(inputs)
    publish(inputs, summary)
    taken_down = find_taken_down(inputs)
    return TakedownSummary(
        taken_down=len(taken_down),
        new=len({takedown.sha256 for takedown in new}),
        shards=rewritten,
        kept=summary.kept,
        duplicates_kept=_duplicates_kept(inputs, np.array([*taken_down], np.int64)),
    )


def _read_ledger(inputs: CurationInputs) -> pa.Table:
    """Read the ledger of the stage: that of a run whose takedown was stopped is not published."""
    path = inputs.folder("export") / "part-00000.ledger.parquet"
    if not path.is_file() or not (inputs.folder("export") / "plan.json").is_file():
        do = "run `dinoforge curate` to its end, or name its run folder"
        raise UsageError(what="not a finished curation run", where=str(inputs.run_folder), do=do)
    return read_table(path, ["image_id", "key", "role", "sha256", "out_key"])


def _find(ledger: pa.Table, images: Sequence[str], where: str) -> list[dict[str, Any]]:
    """Return the row of every image; a number is an id unless it is a key of the shards."""
    (first, last), faults, rows = ledger.column("image_id").to_numpy()[[0, -1]].tolist(), [], []
    for image in images:
        number = int(image) if image.isascii() and image.isdigit() else -1
        if str(number) == image and first <= number <= last:
            rows.append(number - first)
            continue
        if str(number) == image and number < first:
            do = "take it down from the run that has it, see `base`"
            faults.append(Fault(f"image {image} belongs to the base", where, do))
            continue
        name = image.partition("-")[0] if image[:9].isdigit() else image
        for column, text in (("out_key", name), ("key", image), ("sha256", image)):
            matching = np.flatnonzero(pc.equal(ledger.column(column), text).fill_null(False))
            if len(matching) == 1 or (len(matching) and column == "sha256"):
                rows.append(int(matching[0]))
                break
            if len(matching):
                some = ", ".join(map(str, (first + matching[:_NAMED]).tolist()))
                what = f"{len(matching)} images have the key `{image}`: {some}"
                faults.append(Fault(what, where, "name one by its id"))
                break
        else:
            do = f"name it by id ({first} to {last}), key or sha256"
            faults.append(Fault(f"no image `{image}`", where, do))
    found_rows = ledger.take(pa.array(rows, pa.int64())).to_pylist()
    for row in found_rows:
        if row["role"] == "reference":
            what = f"image {row['image_id']} is a reference, which is never exported"
            faults.append(Fault(what, where, "leave it out"))
    if faults:
        raise UsageError(faults=faults[:_NAMED])
    return found_rows


def _rewrite(run_folder: Path, inputs: CurationInputs) -> list[str]:
    """Write the shards and the ledger that the list changes; returns the names of the shards."""
    remove_temporary_files(run_folder, inputs.folders.values())
    plan = _plan_export(inputs)
    missing = [task for task in plan.tasks if not is_proved(task)]
    shards = [task for task in missing if "without" in task.payload]
    for task in shards:
        path = _shard_path(inputs, task.payload)
        # A shard of which nothing is left has no file.
        if not path.is_file() and (old := read_marker(task.marker)) and old.facts.get("images"):
            do = "restore it, or run the curation again"
            raise UsageError(what="shard is missing", where=str(path), do=do)
    if missing:
        quality_page(run_folder).unlink(missing_ok=True)  # it may show them
        unpublish(run_folder)
        plan.write()
    for task in [*shards, *(task for task in missing if "ledger" in task.payload)]:
        run_task(task)
    return [_shard_path(inputs, task.payload).name for task in shards]


def _plan_export(inputs: CurationInputs) -> StagePlan:
    """Plan the export on top of what the other stages have proved, without their sources."""
    stage = _RewriteStage()
    fingerprints = {}
    for need in stage.needs:
        markers = [read_marker(path) for path in inputs.files(need, "done")]
        fingerprints[need] = [marker.fingerprint for marker in markers if marker is not None]
    return plan_stage(stage, inputs, fingerprints)


def _shard_path(inputs: CurationInputs, payload: Json) -> Path:
    names = {shard.number: shard.name for shard in list_shards(inputs)}
    return shards_folder(inputs.run_folder) / names[payload["shard"]]


class _RewriteStage(ExportStage):
    """The export, which reads the shards that it wrote instead of the sources."""

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Write the ledger, or one shard again without some images."""
        if "ledger" in payload:
            return super().run(payload, inputs, out)
        path, without = _shard_path(inputs, payload), set(payload["without"])
        name = path.name.rpartition("-")[0]
        rows = payload["stop"] - payload["first"]
        with ShardWriter(path.parent, name, rows, 1 << 62, first=payload["shard"]) as writer:
            for key, members in read_samples(path) if path.is_file() else ():
                if int(key.partition("-")[0]) not in without:
                    writer.write(key, members)
        return finish_shard(path, writer, out)


def _duplicates_kept(inputs: CurationInputs, taken_down: NDArray[np.int64]) -> list[int]:
    """List kept images that a chain of duplicates links to an image that was taken down."""
    ledger = read_table(inputs.file("export", "ledger.parquet"), ["component", "decision"])
    component = ledger.column("component").fill_null(-1).to_numpy()
    first = first_id(inputs)
    groups = np.unique(component[taken_down - first])
    is_kept = pc.equal(ledger.column("decision"), "kept").to_numpy()
    rows = np.flatnonzero(is_kept & np.isin(component, groups[groups >= 0]))
    return (first + rows).tolist()
