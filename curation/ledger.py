"""The ledger: one row an input image with the decision, the reason and the evidence."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import LEDGER_SCHEMA, REASONS
from dinoforge.curation.facts import hash_column, read_facts
from dinoforge.curation.index import read_index
from dinoforge.curation.policies.decisions import Decisions
from dinoforge.curation.stages.select import out_key, read_decisions
from dinoforge.curation.tables import CurationInputs, shard_name
from dinoforge.tables import read_table

__all__ = ["make_ledger"]

_FROM_INDEX = (
    *("image_id", "key", "source", "role", "shard", "member", "offset", "size"),
    *("planted_from", "edit", "label"),
)


def make_ledger(inputs: CurationInputs) -> pa.Table:
    """Put index, facts, decisions and places together."""
    index = read_index(inputs, list(_FROM_INDEX))
    names = ["sha256", "width", "height", "std", "reason", "detail"]
    facts = read_facts(inputs, names)
    decisions = read_decisions(inputs)
    columns: dict[str, Any] = {name: index.column(name) for name in _FROM_INDEX}
    columns |= {name: facts.column(name) for name in ("width", "height")}
    columns["sha256"] = [value.hex() for value in facts.column("sha256").to_pylist()]
    columns["decision"] = np.where(decisions.kept, "kept", "dropped")
    columns["reason"] = pa.array(REASONS).take(pa.array(decisions.reason))
    columns["detail"] = _details(decisions, facts)
    for name in ("duplicate_of", "edge_i", "edge_j", "component", "seed_id", "rank"):
        values = getattr(decisions, name)
        columns[name] = pa.array(values, mask=values < 0)
    for name in ("similarity", "score"):
        values = getattr(decisions, name)
        columns[name] = pa.array(values, mask=np.isnan(values))
    columns["copies"] = decisions.copies
    columns |= _outputs(inputs, len(decisions.kept))
    arrays = [columns[name] for name in LEDGER_SCHEMA.names]
    return pa.table(
        [pa.array(a) if isinstance(a, np.ndarray | list) else a for a in arrays],
        names=LEDGER_SCHEMA.names,
    )


def _outputs(inputs: CurationInputs, num: int) -> dict[str, Any]:
    """Shard and key of the first file of every exported image."""
    places = read_table(inputs.file("select", "places.parquet"), ["image_id", "copy", "out_shard"])
    places = places.filter(pc.equal(places.column("copy"), 0))
    image_id = places.column("image_id").to_numpy()
    shards = np.full(num, -1, np.int64)
    shards[image_id] = places.column("out_shard").to_numpy()
    name = inputs.config.export.name
    return {
        "out_shard": [shard_name(name, s) if s >= 0 else None for s in shards.tolist()],
        "out_key": [out_key(i) if s >= 0 else None for i, s in enumerate(shards.tolist())],
    }


def _details(decisions: Decisions, facts: pa.Table) -> NDArray[np.object_]:
    """Return what a reason leaves open: why undecodable, how small, same bytes or same pixels."""
    detail = np.full(len(decisions.kept), None, object)
    code = {reason: number for number, reason in enumerate(REASONS)}

    def rows_of(*reasons: str) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(decisions.reason, [code[reason] for reason in reasons]))

    bad = rows_of("undecodable")
    causes = facts.select(["reason", "detail"]).take(pa.array(bad)).to_pylist()
    detail[bad] = [f"{cause['reason']}: {cause['detail']}" for cause in causes]
    width, height = facts.column("width").to_numpy(), facts.column("height").to_numpy()
    for row in rows_of("too_small", "bad_aspect").tolist():
        detail[row] = f"{width[row]} x {height[row]} pixels"
    std = facts.column("std").to_numpy()
    for row in rows_of("flat").tolist():
        detail[row] = f"gray values spread by {std[row]:.2f} of 255"
    hashes = hash_column(facts, "sha256")
    exact = rows_of("exact_duplicate")
    partner = decisions.edge_i[exact] + decisions.edge_j[exact] - exact
    same = hashes[exact] == hashes[partner]
    detail[exact] = np.where(same, "same bytes", "same pixels, other bytes")
    leaks = rows_of("leak")
    through = decisions.duplicate_of[leaks] < 0
    detail[leaks] = np.where(through, "through its duplicates", "direct")
    return detail
