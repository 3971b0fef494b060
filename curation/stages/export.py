"""Shards of the curated set, by copying bytes, and the ledger of every image."""

import json
from typing import Any

import pyarrow as pa

from dinoforge.curated import LEDGER_SCHEMA, shards_folder
from dinoforge.curation.index import OpenShards
from dinoforge.curation.ledger import make_ledger
from dinoforge.curation.stages.select import out_key
from dinoforge.curation.tables import CurationInputs, CurationStage, list_shards
from dinoforge.errors import UsageError
from dinoforge.files import write_text
from dinoforge.images import image_suffix
from dinoforge.shards import ShardWriter
from dinoforge.stages import Json, Output
from dinoforge.tables import iter_row_groups

__all__ = ["ExportStage", "remove_foreign_shards"]

_NOTED = ("key", "source", "class_name", "reason", "seed_id", "rank", "score")


class ExportStage(CurationStage):
    """Copy the bytes of every kept image into shards; write the ledger."""

    name = "export"
    number = 80
    keys = ("export",)
    needs = ("ingest", "plant", "filter", "select")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan the ledger, and one partition a shard."""
        return [
            {"ledger": True},
            *(
                {"shard": number, "first": shard.first, "stop": shard.stop}
                for number, shard in enumerate(list_shards(inputs))
            ),
        ]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Write the ledger or one shard."""
        if "ledger" in payload:
            return _write_ledger(inputs, out)
        rows = _places(inputs, payload["first"], payload["stop"])
        folder, name = shards_folder(inputs.run_folder), inputs.config.export.name
        shards = OpenShards(inputs.run_folder)
        # Where a shard ends was decided by `select`: here it is one.
        with ShardWriter(folder, name, len(rows), 1 << 62, first=payload["shard"]) as writer:
            for row in rows:
                data = shards.read(row["shard"], row["offset"], row["size"])
                if data is None:
                    raise UsageError(
                        what=f"image `{row['key']}` cannot be read any more",
                        where=row["shard"],
                        do="sources must stay while the run reads them: put it back",
                    )
                writer.write(out_key(row["image_id"], row["copy"]), _members(row, data))
        shard = writer.shards[0].path
        out.add(shard, rows=len(rows))
        out.add(shard.with_suffix(".json"))
        return {"images": len(rows)}


def remove_foreign_shards(inputs: CurationInputs) -> None:
    """Remove shards that this recipe did not write: whoever reads the folder reads them all.

    A kill between a shard and its marker leaves a shard that no marker names; under a recipe
    with fewer shards or another name it would stay.
    """
    exported = {shard.name for shard in list_shards(inputs)}
    for tar in shards_folder(inputs.run_folder).glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if tar.name not in exported:
            tar.unlink()
            tar.with_suffix(".json").unlink(missing_ok=True)


def _write_ledger(inputs: CurationInputs, out: Output) -> dict[str, Any]:
    ledger = make_ledger(inputs)
    out.write_table("ledger", ledger, LEDGER_SCHEMA)
    names = _class_names(inputs)
    if names:
        path = shards_folder(inputs.run_folder) / "classes.txt"
        write_text(path, "".join(f"{name}\n" for name in names))
        out.add(path)
    return {"rows": ledger.num_rows}


def _class_names(inputs: CurationInputs) -> list[str]:
    """Names of the exported classes by label; empty unless every label has exactly one."""
    found: dict[int, str] = {}
    path = inputs.file("select", "places.parquet")
    for group in iter_row_groups(path, ["label", "class_name"]):
        pairs = zip(*(column.to_pylist() for column in group.columns), strict=True)
        for label, name in set(pairs):
            if label < 0:
                continue
            if not name or found.setdefault(label, name) != name:
                return []
    # A label between two others may be absent from what was kept.
    return [found.get(label, f"class {label}") for label in range(max(found, default=-1) + 1)]


def _places(inputs: CurationInputs, first: int, stop: int) -> list[dict[str, Any]]:
    """Rows of places ``[first, stop)``; reads the row groups that hold them."""
    parts, base = [], 0
    for group in iter_row_groups(inputs.file("select", "places.parquet")):
        low, high = max(first - base, 0), min(stop - base, group.num_rows)
        if low < high:
            parts.append(group.slice(low, high - low))
        base += group.num_rows
    rows: list[dict[str, Any]] = pa.concat_tables(parts).to_pylist()
    return rows


def _members(row: dict[str, Any], data: bytes) -> dict[str, bytes]:
    """Image, class and notes of a sample, in this order."""
    members = {image_suffix(row["member"] or row["shard"], row["format"]): data}
    if row["label"] >= 0:
        members["cls"] = str(row["label"]).encode()
    notes = {"image_id": row["image_id"], "sha256": row["sha256"].hex()}
    for name in _NOTED:
        value = row[name]
        if value is not None and value == value and value not in ("", -1):  # noqa: PLR0124 - NaN
            notes[name] = value
    members["json"] = json.dumps(notes, sort_keys=True, ensure_ascii=False).encode()
    return members
