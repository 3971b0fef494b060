"""Groups of duplicates and which image is kept: the threshold is applied here, to stored pairs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.config import DuplicatesConfig
from dinoforge.curation.policies.duplicates import (
    EXACT,
    NEAR,
    NONE,
    Candidates,
    Groups,
    best_first,
    group_duplicates,
)
from dinoforge.curation.policies.hubs import Hubs, keep_hubs_from_linking
from dinoforge.curation.policies.increments import Decided, add_base, take_new
from dinoforge.curation.policies.pairs import Blocks
from dinoforge.curation.scores import read_scores
from dinoforge.curation.stored.generations import earlier_generations, first_id
from dinoforge.curation.stored.links import LINK_KEYS, LINK_STAGES, iter_links, weakest
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import sha256_file
from dinoforge.neighbors.components import Components
from dinoforge.stages import Json, Output
from dinoforge.tables import BLOCK_ROWS, iter_row_groups, read_table, take_rows

__all__ = ["BATCH_IMAGES", "ComponentsStage"]

_COMPARED = 2048  # contents of the largest component that are compared with each other
_EXAMPLES = 10  # hubs that are named
BATCH_IMAGES = 1 << 24  # linked images that are grouped at once: 580 bytes each


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
        limit, first = weakest(policy.verify, policy.threshold), first_id(inputs)
        content, takes_part = tables.read_content(inputs), _find_candidates(inputs)
        links = partial(iter_links, inputs, policy.threshold)
        linked = _find_linked(content, takes_part, links, limit=limit, first=first)
        base = _read_base(inputs, content)
        base = base.take(np.flatnonzero(linked.is_in(base.image_id)))
        new = _candidates(inputs, linked.ids[linked.ids >= first], content)
        _, everyone = add_base(base, new, policy.rule)
        blocks, hubs = keep_hubs_from_linking(
            links, everyone.content, threshold=limit, max_degree=policy.max_degree
        )
        groups = _group_all(policy, linked, base, new, blocks)
        ids = first + np.flatnonzero(takes_part[first:])
        out.write_tables("groups", _rows(ids, new.image_id, groups), tables.GROUPS_SCHEMA)
        facts = _facts(len(ids), new, groups) | _describe_largest(inputs, ids, content, new, groups)
        of_base = (groups.duplicate_of >= 0) & (groups.duplicate_of < first)
        return facts | {"duplicates_of_base": int(of_base.sum())} | _describe_hubs(hubs)


def _find_candidates(inputs: CurationInputs) -> NDArray[np.bool_]:
    """Return which images take part, by id; of earlier generations those that did."""
    takes_part = np.zeros(first_id(inputs) + tables.num_images(inputs), np.bool_)
    for _, run in earlier_generations(inputs):
        for block in iter_row_groups(run.file("components", "groups.parquet"), ["image_id"]):
            takes_part[block.column("image_id").to_numpy()] = True
    policy, seed = inputs.config.retrieve, ROLES.index("seed")
    roles = [ROLES.index("as_is"), ROLES.index("pool"), *([seed] if policy.keep_seeds else [])]
    at, seeds = first_id(inputs), [np.empty(0, np.int64)]
    for block in iter_row_groups(inputs.file("filter", "screened.parquet")):
        role, reason = (block.column(name).to_numpy() for name in ("role", "reason"))
        seeds.append(at + np.flatnonzero(role == seed))
        takes_part[at : (at := at + block.num_rows)] = (reason < 0) & np.isin(role, roles)
    ids = np.concatenate(seeds)
    if policy.drop_seeds and len(ids):
        names = pa.array(policy.drop_seeds, pa.string())
        is_dropped = pc.is_in(tables.read_sources(inputs, ids), names)
        takes_part[ids[is_dropped.to_numpy(zero_copy_only=False)]] = False
    return takes_part


@dataclass(frozen=True)
class _Linked:
    """The images that are linked with another one: most are not, and need no memory."""

    first: int  # id of the first image of this run
    ids: NDArray[np.int64]  # ascending
    component: NDArray[Any]  # of each; hubs, and pairs with images that take no part, link, too

    def is_in(self, image_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some images are linked."""
        at = np.searchsorted(self.ids, image_id).clip(max=max(len(self.ids) - 1, 0))
        return self.ids[at] == image_id if len(self.ids) else np.zeros(len(image_id), np.bool_)

    def batches(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield the ids of whole components, ``size`` images at a time, at least a component."""
        order = np.argsort(self.component, kind="stable")
        of_order = self.component[order]
        starts = np.flatnonzero(np.r_[True, of_order[1:] != of_order[:-1]])
        at = 0
        while at < len(order):
            later = starts[np.searchsorted(starts, at + size) :]
            stop = int(later[0]) if len(later) else len(order)
            yield np.sort(self.ids[order[at:stop]])
            at = stop


def _find_linked(
    content: NDArray[np.int64],
    takes_part: NDArray[np.bool_],
    links: Blocks,
    *,
    limit: float,
    first: int,
) -> _Linked:
    """Connect contents by all links, read block by block; 4 bytes per image."""
    components = Components(len(content))
    for block in links():
        near = block.above(limit)
        components.add(near.i, near.j)
    labels = components.labels()
    count = np.zeros(len(content), np.int32)  # images by component
    ranges = tables.split_range(len(content), BLOCK_ROWS)
    for start, stop in ranges:
        here = labels[content[start:stop][takes_part[start:stop]]]
        np.add.at(count, here, 1)
    ids, component = [np.empty(0, np.int64)], [labels[:0]]
    for start, stop in ranges:
        rows = start + np.flatnonzero(takes_part[start:stop])
        here = labels[content[rows]]
        is_linked = count[here] > 1
        ids.append(rows[is_linked])
        component.append(here[is_linked])
    return _Linked(first, np.concatenate(ids), np.concatenate(component))


def _group_all(
    policy: DuplicatesConfig, linked: _Linked, base: Decided, new: Candidates, blocks: Blocks
) -> Groups:
    """Group the linked images, some components after the others; returns those of this run."""
    columns = [field.name for field in fields(Groups) if field.name != "num_split"]
    grouped, rows, num_split = [], [np.empty(0, np.int64)], 0
    for ids in linked.batches(BATCH_IMAGES):
        is_new = ids >= linked.first
        rows.append(np.searchsorted(new.image_id, ids[is_new]))
        of_base = base.take(np.searchsorted(base.image_id, ids[~is_new]))
        of_base, candidates = add_base(of_base, new.take(rows[-1]), policy.rule)
        groups = group_duplicates(
            candidates,
            blocks,
            threshold=weakest(policy.verify, policy.threshold),
            rule=policy.rule,
            max_component=policy.max_component,
            on_large=policy.on_large,
        )
        num_split += groups.num_split
        groups = take_new(of_base, candidates, groups)
        grouped.append([getattr(groups, name) for name in columns])
    types = [field.type.to_pandas_dtype() for field in tables.GROUPS_SCHEMA][1:]
    grouped.append([np.empty(0, dtype) for dtype in types])
    order = np.argsort(np.concatenate(rows), kind="stable")
    every = [np.concatenate(parts)[order] for parts in zip(*grouped, strict=True)]
    return Groups(**dict(zip(columns, every, strict=True)), num_split=num_split)


def _rows(ids: NDArray[np.int64], linked: NDArray[np.int64], groups: Groups) -> Iterator[pa.Table]:
    """Yield the table of groups in blocks; an image that is not linked is kept, a group of its own.

    ``groups`` are those of the ``linked`` ones among the images ``ids``.
    """
    for start, stop in tables.split_range(len(ids), BLOCK_ROWS):
        block = ids[start:stop]
        here = slice(*np.searchsorted(linked, [block[0], block[-1] + 1]))
        at = np.searchsorted(block, linked[here])
        columns = {
            "image_id": block,
            "kept": np.ones(len(block), np.bool_),
            "reason": np.full(len(block), NONE, np.int8),
            "component": block.copy(),
            "duplicate_of": np.full(len(block), -1),
            "link": np.full(len(block), -1),
            "similarity": np.full(len(block), np.nan, np.float32),
        }
        for name in tables.GROUPS_SCHEMA.names[1:]:
            columns[name][at] = getattr(groups, name)[here]
        yield pa.table(columns, schema=tables.GROUPS_SCHEMA)


def _read_base(inputs: CurationInputs, content: NDArray[np.int64]) -> Decided:
    """Read what earlier generations decided about duplicates."""
    files = [run.file("components", "groups.parquet") for _, run in earlier_generations(inputs)]
    columns = ["image_id", "duplicate_of"]
    nothing = tables.GROUPS_SCHEMA.empty_table().select(columns)
    table = pa.concat_tables([nothing, *(read_table(path, columns) for path in files)])
    ids, duplicate_of = (column.to_numpy() for column in table.columns)
    return Decided(
        image_id=ids,
        content=content[ids],
        keeper=np.where(duplicate_of < 0, ids, duplicate_of),
        source=_read_sources(inputs, ids),
    )


def _read_sources(inputs: CurationInputs, ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Read a number per source for images, if the best image of every source is kept."""
    if not inputs.config.duplicates.one_per_source:
        return None
    _, codes = tables.read_source_codes(inputs)
    return codes[ids].astype(np.int64)


def _candidates(
    inputs: CurationInputs, ids: NDArray[np.int64], content: NDArray[np.int64]
) -> Candidates:
    """Read images of this run that take part."""
    policy, rows = inputs.config.duplicates, ids - first_id(inputs)
    facts = take_rows(tables.iter_facts(inputs, ["width", "height", "quality"]), rows)
    names = ["size", "role", *(["source"] if "source" in policy.prefer else [])]
    index = take_rows(tables.iter_index(inputs, names), rows)
    width, height = (facts.column(n).to_numpy().astype(np.int64) for n in ("width", "height"))
    size, preferred = index.column("size").to_numpy(), policy.prefer_sources
    role = pc.index_in(index.column("role"), pa.array(ROLES)).to_numpy().astype(np.int64)
    values: dict[str, Callable[[], NDArray[np.float64]]] = {
        "resolution": lambda: (width * height).astype(np.float64),
        "least_recompressed": lambda: facts.column("quality").to_numpy().astype(np.float64),
        "score": lambda: _scores(inputs)[rows],
        "source": lambda: _order_of_sources(index.column("source"), preferred),
    }
    criteria = [values[name]() for name in policy.prefer]
    return Candidates(
        image_id=ids,
        content=content[ids],
        rank=best_first(role, width * height, size, ids, criteria=criteria),
        protected=role != ROLES.index("pool"),
        source=_read_sources(inputs, ids),
    )


def _scores(inputs: CurationInputs) -> NDArray[np.float64]:
    """Read the score of every image of this run."""
    blocks = tables.iter_index(inputs, ["key"])
    scores = read_scores(inputs.config.duplicates.scores)
    return scores.of(block.column("key") for block in blocks)


def _order_of_sources(source: pa.ChunkedArray, names: Sequence[str]) -> NDArray[np.float64]:
    """Return 0 for the first of ``names``, -1 for the next, ...; NaN for others."""
    place = pc.index_in(source, pa.array(names, pa.string())).to_numpy()
    return -place.astype(np.float64)


def _facts(num: int, linked: Candidates, groups: Groups) -> dict[str, Any]:
    """Count among ``num`` images, of which some are linked with others."""
    alone = num - len(groups.kept)
    sizes = np.unique(groups.component, return_counts=True)[1]
    of_size = Counter({1: alone} if alone else {})
    of_size.update(
        dict(zip(*(c.tolist() for c in np.unique(sizes, return_counts=True)), strict=True))
    )
    others = (groups.reason > 0) & groups.kept  # kept beside the representative
    return {
        "candidates": num,
        "components": len(sizes) + alone,
        "components_of_size": {str(size): of_size[size] for size in sorted(of_size)},
        "share_in_components_above_1000": float(sizes[sizes > 1000].sum() / max(num, 1)),
        "components_split": groups.num_split,
        "kept": int(np.count_nonzero(groups.kept)) + alone,
        "exact_duplicates": int(np.count_nonzero((groups.reason == EXACT) & ~groups.kept)),
        "near_duplicates": int(np.count_nonzero((groups.reason == NEAR) & ~groups.kept)),
        "protected_duplicates": int(np.count_nonzero(others & linked.protected)),
        "kept_per_source": int(np.count_nonzero(others & ~linked.protected)),
    }


def _describe_largest(
    inputs: CurationInputs,
    ids: NDArray[np.int64],
    content: NDArray[np.int64],
    linked: Candidates,
    groups: Groups,
) -> dict[str, Any]:
    """Return the size of the largest component and how little two of its images resemble.

    A threshold does not bound the similarity of the two ends of a chain. ``smallest_similarity`` is
    the smallest cosine between two of the first 2,048 contents, 1 for a single one; None without
    embeddings. ``groups`` are those of the ``linked`` ones among the images ``ids``.
    """
    if not len(ids):
        return {"largest_component": 0, "smallest_similarity": None}
    # Of equally large components the first; images that are not linked are components, too.
    alone = np.setdiff1d(ids[: len(groups.kept) + 1], linked.image_id, assume_unique=True)[:1]
    names, sizes = np.unique(np.r_[groups.component, alone], return_counts=True)
    largest = names[sizes.argmax()]
    members = np.r_[linked.image_id[groups.component == largest], alone[alone == largest]]
    contents = np.unique(content[members])[:_COMPARED]
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
