"""Shards of the curated set, by copying bytes, and the ledger: one row per input image."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import LEDGER_SCHEMA, REASONS, shards_folder
from dinoforge.curation import tables
from dinoforge.curation.policies.decisions import Decisions
from dinoforge.curation.stored.balance import Balanced, read_balanced
from dinoforge.curation.stored.decisions import (
    export_key,
    exports_file,
    iter_decisions,
    list_shards,
)
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.stored.extras import extra_fields, iter_extras
from dinoforge.curation.stored.generations import earlier_generations, first_id, of_every_generation
from dinoforge.curation.stored.links import read_places
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.curation.takedowns import Takedown, apply_takedowns, find_taken_down, list_exported
from dinoforge.errors import UsageError
from dinoforge.files import hash_json
from dinoforge.images import decode, image_suffix
from dinoforge.scorers.blurring import blur_faces
from dinoforge.scorers.faces import face_detector
from dinoforge.shards.writer import ShardWriter
from dinoforge.sources.classes import write_class_list
from dinoforge.stages import Json, Output
from dinoforge.tables import iter_row_groups, read_rows, read_table

__all__ = ["ExportStage", "finish_shard", "remove_foreign_shards"]

_Row = dict[str, Any]
_Members = dict[str, bytes]  # of a sample, by extension

_NOTES = ("key", "source", "class_name", "reason", "seed_id", "rank", "score")
_FROM_INDEX = (
    *("image_id", "key", "source", "role", "shard", "member", "offset", "size"),
    *("planted_from", "edit", "label", "class_space"),
)


class ExportStage(CurationStage):
    """Copy the bytes of every kept image into shards; write the ledger."""

    name = "export"
    number = 80
    version = "1.7.0"
    keys = (
        *("export", "duplicates.verify.mode", "balance.target", "retrieve.rules"),
        *("filter.where", "scores", "decode"),
    )
    execution_keys = ("base",)
    needs = (
        *("ingest", "plant", "inspect", "side", "score", "side-tables", "filter", "exact"),
        *("verify", "seed-clusters", "retrieve", "balance", "select"),
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
        if inputs.config.export.blur_faces:
            fingerprint = face_detector().fingerprint
            payloads[1:] = [payload | {"faces": fingerprint} for payload in payloads[1:]]
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
        exports = read_rows([exports_file(inputs)], payload["first"], payload["stop"])
        without = pa.array(payload.get("without", []), pa.int64())
        exports = exports.filter(pc.invert(pc.is_in(exports.column("image_id"), without)))
        folder = shards_folder(inputs.run_folder)
        part, name = next(s[1:3] for s in list_shards(inputs) if s[0] == payload["shard"])
        reader = ImageReader(inputs.run_folder)
        # `select` decided where a shard ends: all these rows are one.
        rows, blur = payload["stop"] - payload["first"], _blur_of(inputs)
        with ShardWriter(folder, part, rows, 1 << 62, first=payload["shard"]) as writer:
            each = zip(exports.to_pylist(), reader.read_each(exports), strict=True)
            for row, data in each:
                if data is None:
                    raise UsageError(
                        what=f"image `{row['key']}` can no longer be read",
                        where=row["shard"],
                        do="sources must stay while the run reads them: restore it",
                    )
                members = _members(row, data)
                writer.write(export_key(row["image_id"], row["copy"]), blur(row, members))
        return finish_shard(folder / name, writer, out)


def _blur_of(inputs: CurationInputs) -> Callable[[_Row, _Members], _Members]:
    """Return what blurs the faces of a sample, if asked to and if it has any."""
    if not inputs.config.export.blur_faces:
        return lambda _, members: members
    detector, policy = face_detector(), inputs.config.decode
    name = next(score.name for score in inputs.config.scores if score.scorer == "faces")

    def blur(row: _Row, members: _Members) -> _Members:
        if not json.loads(row["extra"])["scores"][f"{name}_count"]:
            return members
        (_, data), *others = members.items()
        file, number = blur_faces(decode(data, policy), detector.find)
        notes = json.loads(members["json"]) | {"faces_blurred": number}
        return {"jpg": file, **dict(others), "json": _as_member(notes)}

    return blur


def _as_member(notes: _Row) -> bytes:
    return json.dumps(notes, sort_keys=True, ensure_ascii=False).encode()


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


def _members(row: _Row, data: bytes) -> _Members:
    """Return image, class and notes of a sample, in this order."""
    members = {image_suffix(row["member"] or row["shard"], row["format"]): data}
    if row["label"] >= 0:
        members["cls"] = str(row["label"]).encode()
    notes = {"image_id": row["image_id"], "sha256": row["sha256"].hex()}
    for name in _NOTES:
        value = row[name]
        if value is not None and value == value and value not in ("", -1):  # noqa: PLR0124 - NaN
            notes[name] = value
    notes |= json.loads(row["extra"] or "{}")
    members["json"] = _as_member(notes)
    return members


def _write_ledger(inputs: CurationInputs, out: Output) -> Json:
    schema = pa.schema([*LEDGER_SCHEMA, *extra_fields(inputs)])
    out.write_tables("ledger", _make_ledger(inputs), schema)
    if path := _write_class_list(inputs):
        out.add(path)
    return {"rows": tables.num_images(inputs)}


def _write_class_list(inputs: CurationInputs) -> Path | None:
    """Write the names of all classes beside the shards, if an exported image has one of them."""
    groups = iter_row_groups(exports_file(inputs), ["label"])
    has_any = any(pc.any(pc.greater_equal(group.column("label"), 0)).as_py() for group in groups)
    names = tables.read_class_names(inputs) if has_any else {}
    return write_class_list(shards_folder(inputs.run_folder), names)


def _make_ledger(inputs: CurationInputs) -> Iterator[pa.Table]:
    """Combine index, facts, decisions and shards, a block of images at a time."""
    evidence = _Evidence.read(inputs)
    names = ["sha256", "width", "height", "std", "reason", "detail"]
    for index, facts, decided, extras in zip(
        tables.iter_index(inputs, list(_FROM_INDEX)),
        tables.iter_facts(inputs, names),
        iter_decisions(inputs),
        iter_extras(inputs),
        strict=False,  # without extra columns the last never ends
    ):
        decisions = apply_takedowns(decided, evidence.taken_down)
        rows = _ledger_rows(inputs, index, facts, decisions, evidence)
        for field in extras.schema:
            rows = rows.append_column(field, extras.column(field.name))
        yield rows


@dataclass(frozen=True)
class _Evidence:
    """What the rows of a block refer to beyond the block."""

    hashes: NDArray[np.uint64]  # first 8 bytes of the SHA-256 of every image, by id
    places: NDArray[np.int32]  # of the images with a linking pair, see `read_places`
    linked: NDArray[np.int64]  # ids of these images
    balanced: Balanced | None
    clusters: NDArray[np.object_]  # what each cluster of level 1 keeps, in words
    drawn: pa.Table  # slots from clusters, by image
    seeds: dict[str, NDArray[np.int64]]  # seed set -> seeds per cluster of the pool
    filtered: tuple[NDArray[np.int64], pa.ChunkedArray]  # ids, and what the condition read
    out_shard: NDArray[np.int32]  # by row; -1: not exported
    shards: list[str]  # names
    taken_down: Mapping[int, Takedown]

    @classmethod
    def read(cls, inputs: CurationInputs) -> "_Evidence":
        """Read all of it."""
        taken_down = find_taken_down(inputs)
        linked, places = _places(inputs)
        drawn, seeds = _drawn(inputs)
        return cls(
            hashes=of_every_generation(inputs, _short_hashes),
            places=places,
            linked=linked,
            balanced=read_balanced(inputs),
            clusters=_describe_clusters(inputs),
            drawn=drawn,
            seeds=seeds,
            filtered=_filtered(inputs),
            out_shard=_out_shards(inputs, taken_down),
            shards=[shard.name for shard in list_shards(inputs)],
            taken_down=taken_down,
        )


def _short_hashes(inputs: CurationInputs) -> NDArray[np.uint64]:
    """Return 64 bits of the hash of each image: enough to distinguish files of the same pixels."""
    parts = [
        tables.hash_column(block, "sha256").view(np.uint64).reshape(-1, 4)[:, 0]
        for block in tables.iter_facts(inputs, ["sha256"])
    ]
    return np.concatenate(parts)


def _places(inputs: CurationInputs) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the images whose linking pair was compared, and in how many places it agrees."""
    if inputs.config.duplicates.verify.mode == "none":
        return np.empty(0, np.int64), np.empty(0, np.int32)
    content = tables.read_content(inputs)
    columns = []
    for decisions in iter_decisions(inputs):
        rows = np.flatnonzero(decisions.edge_i >= 0)
        ends = (content[decisions.edge_i[rows]], content[decisions.edge_j[rows]])
        columns.append((decisions.first + rows, *ends, decisions.similarity[rows]))
    linked, i, j, similarity = (np.concatenate(column) for column in zip(*columns, strict=True))
    return linked, read_places(inputs, i, j, similarity)


def _drawn(inputs: CurationInputs) -> tuple[pa.Table, dict[str, NDArray[np.int64]]]:
    """Return what rules drew from clusters, and the number of seeds in these, by seed set."""
    paths = inputs.files("seed-clusters", "clusters.npy")
    seeds = {
        facts["set"]: np.bincount(np.load(path))
        for facts, path in zip(inputs.facts("seed-clusters"), paths, strict=True)
    }
    columns = ["image_id", "rule", "cluster"]
    if not seeds:
        return tables.SLOTS_SCHEMA.empty_table().select(columns), seeds
    slots = read_table(inputs.file("retrieve", "slots.parquet"), columns)
    slots = slots.filter(pc.greater_equal(slots.column("cluster"), 0))
    return slots.take(np.argsort(slots.column("image_id").to_numpy(), kind="stable")), seeds


def _filtered(inputs: CurationInputs) -> tuple[NDArray[np.int64], pa.ChunkedArray]:
    """Return the images that `filter.where` drops, and the values that it read."""
    if not inputs.config.filter.where:
        return np.empty(0, np.int64), pa.chunked_array([], pa.string())
    image_id, detail = read_table(inputs.file("filter", "filtered.parquet")).columns
    return image_id.to_numpy(), detail


def _out_shards(inputs: CurationInputs, taken_down: Mapping[int, Takedown]) -> NDArray[np.int32]:
    """Return the number of the shard of the first file of every image; -1: there is none."""
    first, shard = first_id(inputs), np.full(tables.num_images(inputs), -1, np.int32)
    for block in iter_row_groups(exports_file(inputs), ["image_id", "copy", "out_shard"]):
        image_id, copy, number = (column.to_numpy() for column in block.columns)
        is_first = copy == 0
        shard[image_id[is_first] - first] = number[is_first]
    shard[np.array([*taken_down], np.int64) - first] = -1
    return shard


def _ledger_rows(
    inputs: CurationInputs,
    index: pa.Table,
    facts: pa.Table,
    decisions: Decisions,
    evidence: _Evidence,
) -> pa.Table:
    columns: dict[str, Any] = {name: index.column(name) for name in _FROM_INDEX}
    columns |= {name: facts.column(name) for name in ("width", "height")}
    columns["sha256"] = [value.hex() for value in facts.column("sha256").to_pylist()]
    columns["decision"] = np.where(decisions.kept, "kept", "dropped")
    columns["reason"] = pa.array(REASONS).take(pa.array(decisions.reason))
    columns["detail"] = _details(inputs, decisions, facts, evidence)
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
    places = np.full(len(index), -1, np.int32)
    here = decisions.rows_in(evidence.linked)
    places[evidence.linked[here] - decisions.first] = evidence.places[here]
    columns["places"] = pa.array(places, mask=places < 0)
    columns["cluster"] = _clusters(decisions, columns["detail"], evidence)
    columns["copies"] = decisions.copies
    columns |= _outputs(inputs, decisions, evidence)
    return pa.table({name: columns[name] for name in LEDGER_SCHEMA.names})


def _describe_clusters(inputs: CurationInputs) -> NDArray[np.object_]:
    """Return what every cluster of level 1 keeps; none without a balance."""
    texts = []
    for path in inputs.files("balance", "clusters.parquet"):
        sizes = read_table(path, ["level", "images", "kept"])
        _, images, kept = sizes.filter(pc.equal(sizes.column("level"), 1)).columns
        texts += [
            f"cluster {number} of level 1 keeps {k} of {n} images"
            for number, (n, k) in enumerate(zip(images.to_pylist(), kept.to_pylist(), strict=True))
        ]
    return np.array(texts, object)


def _clusters(decisions: Decisions, detail: NDArray[np.object_], evidence: _Evidence) -> pa.Array:
    """Return the cluster of every image, null if none; add to ``detail`` what clusters keep."""
    cluster = np.full(len(decisions.kept), -1, np.int32)
    if balanced := evidence.balanced:
        here = decisions.rows_in(balanced.image_id)
        rows, of_rows = balanced.image_id[here] - decisions.first, balanced.cluster[here]
        cluster[rows] = of_rows
        reasons = [REASONS.index(reason) for reason in ("not_balanced", "kept")]
        is_decided = np.isin(decisions.reason[rows], reasons)
        detail[rows[is_decided]] = evidence.clusters[of_rows[is_decided]]
    return pa.array(cluster, mask=cluster < 0)


def _describe_drawn(
    inputs: CurationInputs, decisions: Decisions, detail: NDArray[np.object_], evidence: _Evidence
) -> None:
    """Add to ``detail`` the cluster that an image was drawn from, and the seeds in it."""
    image_id, of_rule, cluster = (column.to_numpy() for column in evidence.drawn.columns)
    here = decisions.rows_in(image_id)
    rows, of_rule, cluster = image_id[here] - decisions.first, of_rule[here], cluster[here]
    is_evidence = decisions.rule[rows] == of_rule
    columns = (column[is_evidence].tolist() for column in (rows, of_rule, cluster))
    for row, rule, of in zip(*columns, strict=True):
        seeds = evidence.seeds[inputs.config.retrieve.rules[rule].seeds][of]
        detail[row] = f"{seeds} of its seeds are in cluster {of} of the pool"


def _outputs(
    inputs: CurationInputs, decisions: Decisions, evidence: _Evidence
) -> dict[str, list[str | None]]:
    """Return shard and key of the first file of every exported image."""
    first = decisions.first - first_id(inputs)
    numbers = evidence.out_shard[first : first + len(decisions.kept)].tolist()
    shards, names = list(enumerate(numbers, decisions.first)), evidence.shards
    return {
        "out_shard": [names[shard] if shard >= 0 else None for _, shard in shards],
        "out_key": [export_key(image_id) if shard >= 0 else None for image_id, shard in shards],
    }


def _details(
    inputs: CurationInputs, decisions: Decisions, facts: pa.Table, evidence: _Evidence
) -> NDArray[np.object_]:
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
    hashes, exact = evidence.hashes, rows_of("exact_duplicate")
    same = hashes[decisions.edge_i[exact]] == hashes[decisions.edge_j[exact]]
    detail[exact] = np.where(same, "same bytes", "same pixels, other bytes")
    leaks = rows_of("leak")
    through = decisions.duplicate_of[leaks] < 0
    detail[leaks] = np.where(through, "through its duplicates", "direct")
    _describe_drawn(inputs, decisions, detail, evidence)
    filtered, texts = evidence.filtered
    here = decisions.rows_in(filtered)
    detail[filtered[here] - decisions.first] = texts.slice(here.start, here.stop - here.start)
    for image_id, takedown in evidence.taken_down.items():
        if 0 <= image_id - decisions.first < len(detail):
            detail[image_id - decisions.first] = takedown.detail
    return detail
