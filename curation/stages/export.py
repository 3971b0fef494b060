"""Shards of the curated set, by copying bytes, and the ledger: one row per input image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import LEDGER_SCHEMA, REASONS, shards_folder
from dinoforge.curation import tables
from dinoforge.curation.policies.decisions import Decisions
from dinoforge.curation.stored.balance import read_balanced
from dinoforge.curation.stored.decisions import export_key, exports_file, list_shards
from dinoforge.curation.stored.generations import earlier_generations
from dinoforge.curation.stored.links import read_places
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.curation.takedowns import find_taken_down, list_exported, read_final_decisions
from dinoforge.errors import UsageError
from dinoforge.files import hash_json, write_text
from dinoforge.images import image_suffix
from dinoforge.shards.writer import ShardWriter
from dinoforge.sources.classes import CLASS_LISTS, is_plain_list
from dinoforge.stages import Json, Output
from dinoforge.tables import iter_row_groups, read_table

__all__ = ["ExportStage", "finish_shard", "remove_foreign_shards"]

_NOTES = ("key", "source", "class_name", "reason", "seed_id", "rank", "score")
_FROM_INDEX = (
    *("image_id", "key", "source", "role", "shard", "member", "offset", "size"),
    *("planted_from", "edit", "label", "class_space"),
)


class ExportStage(CurationStage):
    """Copy the bytes of every kept image into shards; write the ledger."""

    name = "export"
    number = 80
    version = "1.5.0"
    keys = ("export", "duplicates.verify.mode", "balance.target", "retrieve.rules")
    execution_keys = ("base",)
    needs = (
        *("ingest", "plant", "inspect", "exact", "verify", "seed-clusters", "retrieve", "balance"),
        "select",
    )

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan the ledger, and one partition per shard.

        Takedowns are part of the payloads that they change, and of no other.
        """
        shards = list_shards(inputs)
        payloads: list[Json] = [
            {"ledger": True},
            *({"shard": s.number, "first": s.first, "stop": s.stop} for s in shards),
        ]
        taken_down = find_taken_down(inputs)
        if not taken_down:
            return payloads
        details = {str(image): takedown.detail for image, takedown in taken_down.items()}
        payloads[0]["taken_down"] = hash_json(details)
        places = read_table(exports_file(inputs), ["image_id"]).column("image_id").to_numpy()
        for payload in payloads[1:]:
            rows = places[payload["first"] : payload["stop"]]
            if len(without := np.unique(rows[np.isin(rows, list(taken_down))])):
                payload["without"] = without.tolist()
        return payloads

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Write the ledger or one shard."""
        if "ledger" in payload:
            return _write_ledger(inputs, out)
        exports = tables.read_rows([exports_file(inputs)], payload["first"], payload["stop"])
        without = pa.array(payload.get("without", []), pa.int64())
        exports = exports.filter(pc.invert(pc.is_in(exports.column("image_id"), without)))
        folder = shards_folder(inputs.run_folder)
        part, name = next(s[1:3] for s in list_shards(inputs) if s[0] == payload["shard"])
        reader = tables.ImageReader(inputs.run_folder)
        # `select` decided where a shard ends: all these rows are one.
        rows = payload["stop"] - payload["first"]
        with ShardWriter(folder, part, rows, 1 << 62, first=payload["shard"]) as writer:
            for row in exports.to_pylist():
                data = reader.read(row["shard"], row["offset"], row["size"])
                if data is None:
                    raise UsageError(
                        what=f"image `{row['key']}` can no longer be read",
                        where=row["shard"],
                        do="sources must stay while the run reads them: restore it",
                    )
                writer.write(export_key(row["image_id"], row["copy"]), _members(row, data))
        return finish_shard(folder / name, writer, out)


def finish_shard(path: Path, writer: ShardWriter, out: Output) -> Json:
    """Register the shard that was written, with its checksum file; remove one without images."""
    if not writer.shards:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        return {"images": 0}
    (shard,) = writer.shards
    out.add(shard.path, rows=shard.facts.samples)
    out.add(shard.path.with_suffix(".json"))
    return {"images": shard.facts.samples}


def remove_foreign_shards(inputs: CurationInputs) -> None:
    """Remove shards that this recipe did not write: readers of the folder read all of them.

    A kill between a shard and its marker leaves a shard that no marker names; under a recipe
    with fewer shards or another name it would stay.
    """
    exported = list_exported(inputs)
    for tar in shards_folder(inputs.run_folder).glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if tar.name not in exported:
            tar.unlink()
            tar.with_suffix(".json").unlink(missing_ok=True)


def _members(row: dict[str, Any], data: bytes) -> dict[str, bytes]:
    """Return image, class and notes of a sample, in this order."""
    members = {image_suffix(row["member"] or row["shard"], row["format"]): data}
    if row["label"] >= 0:
        members["cls"] = str(row["label"]).encode()
    notes = {"image_id": row["image_id"], "sha256": row["sha256"].hex()}
    for name in _NOTES:
        value = row[name]
        if value is not None and value == value and value not in ("", -1):  # noqa: PLR0124 - NaN
            notes[name] = value
    members["json"] = json.dumps(notes, sort_keys=True, ensure_ascii=False).encode()
    return members


def _write_ledger(inputs: CurationInputs, out: Output) -> Json:
    ledger = _make_ledger(inputs)
    out.write_table("ledger", ledger, LEDGER_SCHEMA)
    if path := _write_class_list(inputs):
        out.add(path)
    return {"rows": ledger.num_rows}


def _write_class_list(inputs: CurationInputs) -> Path | None:
    """Write the names of all classes beside the shards, if an exported image has one of them.

    Classes numbered from 0 without a gap make a ``classes.txt``; others, and names that would be
    read otherwise there, a ``classes.tsv``. The list of an earlier recipe is
    removed.
    """
    groups = iter_row_groups(exports_file(inputs), ["label"])
    has_any = any(pc.any(pc.greater_equal(group.column("label"), 0)).as_py() for group in groups)
    names = tables.read_class_names(inputs) if has_any else {}
    is_numbered = list(names) != list(range(len(names))) or not is_plain_list([*names.values()])
    lists = [shards_folder(inputs.run_folder) / name for name in CLASS_LISTS]  # .txt, .tsv
    path, other = reversed(lists) if is_numbered else lists
    other.unlink(missing_ok=True)
    if not names:
        path.unlink(missing_ok=True)
        return None
    rows = (f"{number}\t{name}\n" if is_numbered else f"{name}\n" for number, name in names.items())
    text = "".join(rows)
    if not path.is_file() or path.read_bytes() != text.encode():  # a takedown leaves it alone
        write_text(path, text)
    return path


def _make_ledger(inputs: CurationInputs) -> pa.Table:
    """Combine index, facts, decisions and shards."""
    index = tables.read_index(inputs, list(_FROM_INDEX))
    facts = tables.read_facts(inputs, ["sha256", "width", "height", "std", "reason", "detail"])
    decisions = read_final_decisions(inputs)
    columns: dict[str, Any] = {name: index.column(name) for name in _FROM_INDEX}
    columns |= {name: facts.column(name) for name in ("width", "height")}
    columns["sha256"] = [value.hex() for value in facts.column("sha256").to_pylist()]
    columns["decision"] = np.where(decisions.kept, "kept", "dropped")
    columns["reason"] = pa.array(REASONS).take(pa.array(decisions.reason))
    columns["detail"] = _details(inputs, decisions, facts)
    columns["generation"] = np.full(len(index), len(earlier_generations(inputs)), np.int32)
    for name in ("duplicate_of", "edge_i", "edge_j", "component", "seed_id", "rank"):
        values = getattr(decisions, name)
        columns[name] = pa.array(values, mask=values < 0)
    for name in ("similarity", "score"):
        values = getattr(decisions, name)
        columns[name] = pa.array(values, mask=np.isnan(values))
    names = pa.array([rule.label for rule in inputs.config.retrieve.rules], pa.string())
    is_by_rule = (decisions.rule >= 0) & (len(names) > 0)
    columns["rule"] = names.take(pa.array(decisions.rule, mask=~is_by_rule))
    columns["places"] = _places(inputs, decisions)
    columns["cluster"] = _describe_clusters(inputs, decisions, columns["detail"])
    columns["copies"] = decisions.copies
    columns |= _outputs(inputs, decisions)
    return pa.table({name: columns[name] for name in LEDGER_SCHEMA.names})


def _places(inputs: CurationInputs, decisions: Decisions) -> pa.Array:
    """Return in how many places the pictures of the linking pair agree; null if not compared."""
    content, linked = tables.read_content(inputs), decisions.edge_i >= 0
    places = np.full(len(linked), -1, np.int32)
    ends = content[decisions.edge_i[linked]], content[decisions.edge_j[linked]]
    places[linked] = read_places(inputs, *ends, decisions.similarity[linked])
    return pa.array(places, mask=places < 0)


def _describe_clusters(
    inputs: CurationInputs, decisions: Decisions, detail: NDArray[np.object_]
) -> pa.Array:
    """Return the cluster of every image, null if none; add to ``detail`` what clusters keep."""
    cluster = np.full(len(decisions.kept), -1, np.int32)
    if balanced := read_balanced(inputs):
        rows = balanced.image_id - decisions.first
        cluster[rows] = balanced.cluster
        reasons = [REASONS.index(reason) for reason in ("not_balanced", "kept")]
        is_decided = np.isin(decisions.reason[rows], reasons)
        sizes = read_table(inputs.file("balance", "clusters.parquet"), ["level", "images", "kept"])
        _, images, kept = sizes.filter(pc.equal(sizes.column("level"), 1)).columns
        texts = [
            f"cluster {number} of level 1 keeps {k} of {n} images"
            for number, (n, k) in enumerate(zip(images.to_pylist(), kept.to_pylist(), strict=True))
        ]
        detail[rows[is_decided]] = np.array(texts, object)[balanced.cluster[is_decided]]
    return pa.array(cluster, mask=cluster < 0)


def _describe_drawn(
    inputs: CurationInputs, decisions: Decisions, detail: NDArray[np.object_]
) -> None:
    """Add to ``detail`` the cluster that an image was drawn from, and the seeds in it."""
    paths = inputs.files("seed-clusters", "clusters.npy")
    seeds = {
        facts["set"]: np.bincount(np.load(path))
        for facts, path in zip(inputs.facts("seed-clusters"), paths, strict=True)
    }
    if not seeds:
        return
    slots = read_table(inputs.file("retrieve", "slots.parquet"), ["image_id", "rule", "cluster"])
    slots = slots.filter(pc.greater_equal(slots.column("cluster"), 0))
    for number, rule in enumerate(inputs.config.retrieve.rules):
        drawn = slots.filter(pc.equal(slots.column("rule"), number))
        rows = drawn.column("image_id").to_numpy() - decisions.first
        clusters = drawn.column("cluster").to_numpy()
        is_evidence = decisions.rule[rows] == number
        for row, of in zip(rows[is_evidence], clusters[is_evidence], strict=True):
            detail[row] = f"{seeds[rule.seeds][of]} of its seeds are in cluster {of} of the pool"


def _outputs(inputs: CurationInputs, decisions: Decisions) -> dict[str, list[str | None]]:
    """Return shard and key of the first file of every exported image."""
    exports = read_table(exports_file(inputs), ["image_id", "copy", "out_shard"])
    exports = exports.filter(pc.equal(exports.column("copy"), 0))
    without = pa.array(list(find_taken_down(inputs)), pa.int64())
    exports = exports.filter(pc.invert(pc.is_in(exports.column("image_id"), without)))
    shard_of = np.full(len(decisions.kept), -1, np.int64)
    rows = exports.column("image_id").to_numpy() - decisions.first
    shard_of[rows] = exports.column("out_shard").to_numpy()
    names = [shard.name for shard in list_shards(inputs)]
    shards = list(enumerate(shard_of.tolist(), decisions.first))
    return {
        "out_shard": [names[shard] if shard >= 0 else None for _, shard in shards],
        "out_key": [export_key(image_id) if shard >= 0 else None for image_id, shard in shards],
    }


def _details(inputs: CurationInputs, decisions: Decisions, facts: pa.Table) -> NDArray[np.object_]:
    """Return what a reason leaves open: why undecodable, how small, same bytes or same pixels."""
    detail = np.full(len(decisions.kept), None, object)

    def rows_of(*reasons: str) -> NDArray[np.int64]:
        codes = [REASONS.index(reason) for reason in reasons]
        return np.flatnonzero(np.isin(decisions.reason, codes))

    bad = rows_of("undecodable")
    causes = facts.select(["reason", "detail"]).take(pa.array(bad)).to_pylist()
    detail[bad] = [f"{cause['reason']}: {cause['detail']}" for cause in causes]
    width, height, std = (facts.column(n).to_numpy() for n in ("width", "height", "std"))
    for row in rows_of("too_small", "bad_aspect").tolist():
        detail[row] = f"{width[row]} x {height[row]} pixels"
    for row in rows_of("flat").tolist():
        detail[row] = f"gray values spread by {std[row]:.2f} of 255"
    hashes, exact = tables.read_hashes(inputs, "sha256"), rows_of("exact_duplicate")
    same = hashes[decisions.edge_i[exact]] == hashes[decisions.edge_j[exact]]
    detail[exact] = np.where(same, "same bytes", "same pixels, other bytes")
    leaks = rows_of("leak")
    through = decisions.duplicate_of[leaks] < 0
    detail[leaks] = np.where(through, "through its duplicates", "direct")
    _describe_drawn(inputs, decisions, detail)
    for image_id, takedown in find_taken_down(inputs).items():
        detail[image_id - decisions.first] = takedown.detail
    return detail
