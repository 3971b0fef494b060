"""Groups of duplicates and which image is kept: the threshold is applied here, to stored pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.duplicates import (
    EXACT,
    NEAR,
    Candidates,
    Groups,
    best_first,
    group_duplicates,
)
from dinoforge.curation.policies.hubs import Hubs, keep_hubs_from_linking
from dinoforge.curation.policies.increments import Decided, add_base, take_new
from dinoforge.curation.scores import read_scores
from dinoforge.curation.stored.generations import earlier_generations, first_id
from dinoforge.curation.stored.links import LINK_KEYS, LINK_STAGES, iter_links, weakest
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import sha256_file
from dinoforge.stages import Json, Output
from dinoforge.tables import read_table

__all__ = ["ComponentsStage"]

_COMPARED = 2048  # contents of the largest component that are compared with each other
_EXAMPLES = 10  # hubs that are named


class ComponentsStage(CurationStage):
    """Connect pairs above the threshold, keep one representative per component by rule."""

    name = "components"
    number = 50
    version = "1.2.0"
    execution_keys = ("base",)
    keys = (
        "duplicates.threshold",
        "duplicates.rule",
        "duplicates.max_component",
        "duplicates.on_large",
        "duplicates.prefer",
        "duplicates.scores",
        "duplicates.prefer_sources",
        "duplicates.one_per_source",
        "duplicates.max_degree",
        "retrieve.keep_seeds",
        "retrieve.drop_seeds",
        "partition_images",
        *LINK_KEYS,
    )
    needs = ("ingest", "plant", "inspect", "filter", "embed", *LINK_STAGES)

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, whose payload covers the scores: another file runs it again."""
        path = inputs.config.duplicates.scores
        return [{"scores": sha256_file(Path(path))} if path else {}]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Group the candidates and choose which ones to keep."""
        policy = inputs.config.duplicates
        new = _candidates(inputs)
        base, candidates = add_base(_read_base(inputs), new, policy.rule)
        limit = weakest(policy.verify, policy.threshold)
        blocks, hubs = keep_hubs_from_linking(
            lambda: iter_links(inputs, policy.threshold),
            candidates.content,
            threshold=limit,
            max_degree=policy.max_degree,
        )
        groups = group_duplicates(
            candidates,
            blocks,
            threshold=limit,
            rule=policy.rule,
            max_component=policy.max_component,
            on_large=policy.on_large,
        )
        groups = take_new(base, candidates, groups)
        columns = [getattr(groups, name) for name in tables.GROUPS_SCHEMA.names[1:]]
        out.write_table("groups", [new.image_id, *columns], tables.GROUPS_SCHEMA)
        facts = _facts(new, groups) | _describe_largest(inputs, new, groups)
        of_base = (groups.duplicate_of >= 0) & (groups.duplicate_of < first_id(inputs))
        return facts | {"duplicates_of_base": int(of_base.sum())} | _describe_hubs(hubs)


def _read_base(inputs: CurationInputs) -> Decided:
    """Read what earlier generations decided about duplicates."""
    files = [run.file("components", "groups.parquet") for _, run in earlier_generations(inputs)]
    columns = ["image_id", "duplicate_of"]
    nothing = tables.GROUPS_SCHEMA.empty_table().select(columns)
    table = pa.concat_tables([nothing, *(read_table(path, columns) for path in files)])
    ids, duplicate_of = (column.to_numpy() for column in table.columns)
    return Decided(
        image_id=ids,
        content=tables.read_content(inputs)[ids],
        keeper=np.where(duplicate_of < 0, ids, duplicate_of),
        source=_read_sources(inputs, ids),
    )


def _read_sources(inputs: CurationInputs, ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Read a number per source for images, if the best image of every source is kept."""
    if not inputs.config.duplicates.one_per_source:
        return None
    names = tables.read_source_names(inputs)
    return pc.index_in(names, pc.unique(names)).to_numpy().astype(np.int64)[ids]


def _candidates(inputs: CurationInputs) -> Candidates:
    """Read the images of this run that take part."""
    policy, screened = inputs.config.duplicates, tables.read_screened(inputs)
    retrieve = inputs.config.retrieve
    takes_part = ("as_is", "pool", *(("seed",) if retrieve.keep_seeds else ()))
    roles = [ROLES.index(role) for role in takes_part]
    rows = np.flatnonzero((screened.reason < 0) & np.isin(screened.role, roles))
    if retrieve.drop_seeds:
        source = tables.read_index(inputs, ["source"]).column("source").take(rows)
        is_dropped = pc.is_in(source, pa.array(retrieve.drop_seeds)).to_numpy()
        rows = rows[~(is_dropped & (screened.role[rows] == ROLES.index("seed")))]
    ids = first_id(inputs) + rows
    facts = tables.read_facts(inputs, ["width", "height", "quality"]).take(rows)
    index = tables.read_index(inputs, ["size", "key", "source"]).take(rows)
    width, height = (facts.column(n).to_numpy().astype(np.int64) for n in ("width", "height"))
    size = index.column("size").to_numpy()
    role = screened.role[rows].astype(np.int64)
    preferred = policy.prefer_sources
    values: dict[str, Callable[[], NDArray[np.float64]]] = {
        "resolution": lambda: (width * height).astype(np.float64),
        "least_recompressed": lambda: facts.column("quality").to_numpy().astype(np.float64),
        "score": lambda: read_scores(policy.scores).of(index.column("key")),
        "source": lambda: _order_of_sources(index.column("source"), preferred),
    }
    criteria = [values[name]() for name in policy.prefer]
    return Candidates(
        image_id=ids,
        content=tables.read_content(inputs)[ids],
        rank=best_first(role, width * height, size, ids, criteria=criteria),
        protected=role != ROLES.index("pool"),
        source=_read_sources(inputs, ids),
    )


def _order_of_sources(source: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.float64]:
    """Return 0 for the first of ``names``, -1 for the next, ...; NaN for others."""
    place = pc.index_in(source, pa.array(names, pa.string())).to_numpy()
    return -place.astype(np.float64)


def _facts(candidates: Candidates, groups: Groups) -> dict[str, Any]:
    sizes = np.unique(groups.component, return_counts=True)[1]
    size, count = np.unique(sizes, return_counts=True)
    others = (groups.reason > 0) & groups.kept  # kept beside the representative
    return {
        "candidates": len(groups.kept),
        "components": len(sizes),
        "components_of_size": {
            str(s): c for s, c in zip(size.tolist(), count.tolist(), strict=True)
        },
        "share_in_components_above_1000": float(sizes[sizes > 1000].sum() / max(sizes.sum(), 1)),
        "components_split": groups.num_split,
        "kept": int(np.count_nonzero(groups.kept)),
        "exact_duplicates": int(np.count_nonzero((groups.reason == EXACT) & ~groups.kept)),
        "near_duplicates": int(np.count_nonzero((groups.reason == NEAR) & ~groups.kept)),
        "protected_duplicates": int(np.count_nonzero(others & candidates.protected)),
        "kept_per_source": int(np.count_nonzero(others & ~candidates.protected)),
    }


def _describe_largest(
    inputs: CurationInputs, candidates: Candidates, groups: Groups
) -> dict[str, Any]:
    """Return the size of the largest component and how little two of its images resemble.

    A threshold does not bound the similarity of the two ends of a chain. ``smallest_similarity`` is
    the smallest cosine between two of the first 2,048 contents, 1 for a single one; None without
    embeddings.
    """
    names, sizes = np.unique(groups.component, return_counts=True)
    if not len(names):
        return {"largest_component": 0, "smallest_similarity": None}
    members = groups.component == names[sizes.argmax()]
    contents = np.unique(candidates.content[members])[:_COMPARED]
    rows = tables.read_embeddings(inputs, "embed", contents)
    rows = rows[rows.any(axis=1)]
    smallest = round(float((rows @ rows.T).min()), 4) if len(rows) else None
    return {"largest_component": int(sizes.max()), "smallest_similarity": smallest}


def _describe_hubs(hubs: Hubs) -> dict[str, Any]:
    """Count the hubs and name those with the most near-duplicates."""
    order = np.lexsort((hubs.content, -hubs.degree))[:_EXAMPLES]
    columns = (column[order].tolist() for column in hubs)
    examples = [{"image_id": i, "pairs": n} for i, n in zip(*columns, strict=True)]
    return {"hubs": len(hubs.content), "hub_examples": examples}
