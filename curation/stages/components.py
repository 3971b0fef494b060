"""Groups of duplicates and who stays: the threshold is applied here, to stored pairs."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation.facts import read_facts
from dinoforge.curation.index import read_index
from dinoforge.curation.policies.duplicates import (
    EXACT,
    NEAR,
    Candidates,
    Groups,
    best_first,
    group_duplicates,
)
from dinoforge.curation.stages.exact import read_content
from dinoforge.curation.stages.filter import read_screened
from dinoforge.curation.stages.graph import read_pairs
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["GROUPS_SCHEMA", "ComponentsStage", "read_groups"]

# One row a candidate: images that are admitted and take part in deduplication.
GROUPS_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("kept", pa.bool_()),
        ("reason", pa.int8()),  # 0 none, 1 exact, 2 near
        ("component", pa.int64()),
        ("duplicate_of", pa.int64()),
        ("link", pa.int64()),
        ("similarity", pa.float32()),
    ]
)


class ComponentsStage(CurationStage):
    """Connect pairs above the threshold, keep one representative per component by rule."""

    name = "components"
    number = 50
    keys = (
        "duplicates.threshold",
        "duplicates.rule",
        "duplicates.max_component",
        "retrieve.keep_seeds",
    )
    needs = ("ingest", "plant", "filter", "screen", "exact", "graph")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Group the candidates and choose who stays."""
        policy = inputs.config.duplicates
        candidates = _candidates(inputs)
        groups = group_duplicates(
            candidates,
            read_pairs(inputs),
            threshold=policy.threshold,
            rule=policy.rule,
            max_component=policy.max_component,
        )
        columns = [
            candidates.image_id,
            groups.kept,
            groups.reason,
            groups.component,
            groups.duplicate_of,
            groups.link,
            groups.similarity,
        ]
        table = pa.table([pa.array(column) for column in columns], schema=GROUPS_SCHEMA)
        out.write_table("groups", table, GROUPS_SCHEMA)
        return _facts(groups, candidates)


def read_groups(inputs: CurationInputs) -> tuple[NDArray[np.int64], Groups]:
    """Read image ids and what `ComponentsStage` decided about them."""
    table = read_table(inputs.file("components", "groups.parquet"))
    columns = {name: table.column(name).to_numpy() for name in GROUPS_SCHEMA.names}
    facts = inputs.facts("components")[0]
    return columns.pop("image_id"), Groups(**columns, num_split=facts["components_split"])


def _candidates(inputs: CurationInputs) -> Candidates:
    screened = read_screened(inputs)
    takes_part = ("as_is", "pool", *(("seed",) if inputs.config.retrieve.keep_seeds else ()))
    roles = [ROLES.index(role) for role in takes_part]
    ids = np.flatnonzero((screened.reason < 0) & np.isin(screened.role, roles))
    facts = read_facts(inputs, ["width", "height"]).take(ids)
    width, height = (facts.column(n).to_numpy().astype(np.int64) for n in ("width", "height"))
    size = pc.take(read_index(inputs, ["size"]).column("size"), pa.array(ids)).to_numpy()
    role = screened.role[ids].astype(np.int64)
    return Candidates(
        image_id=ids,
        content=read_content(inputs)[ids],
        rank=best_first(role, width * height, size, ids),
        protected=role != ROLES.index("pool"),
    )


def _facts(groups: Groups, candidates: Candidates) -> dict[str, Any]:
    sizes = np.unique(groups.component, return_counts=True)[1]
    histogram = np.unique(sizes, return_counts=True)
    many = sizes > 1000
    return {
        "candidates": len(candidates.image_id),
        "components": len(sizes),
        "components_of_size": {
            str(size): int(count) for size, count in zip(*histogram, strict=True)
        },
        "largest_component": int(sizes.max()) if len(sizes) else 0,
        "share_in_components_above_1000": float(sizes[many].sum() / max(sizes.sum(), 1)),
        "components_split": groups.num_split,
        "kept": int(np.count_nonzero(groups.kept)),
        "exact_duplicates": int(np.count_nonzero((groups.reason == EXACT) & ~groups.kept)),
        "near_duplicates": int(np.count_nonzero((groups.reason == NEAR) & ~groups.kept)),
        "protected_duplicates": int(np.count_nonzero((groups.reason > 0) & groups.kept)),
    }
