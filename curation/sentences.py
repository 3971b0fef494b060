"""Sentences about one decision: what happened, by which evidence, and how close it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dinoforge.curated import KEPT_REASONS

__all__ = ["Related", "describe_decision"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Related:
    """Another image involved in the decision."""

    image_id: int
    key: str
    similarity: float | None
    note: str


def describe_decision(
    row: Row, row_of: Callable[[int], Row], neighbors: Sequence[Related], config: Row
) -> list[str]:
    """Explain why an image was kept or dropped, the most important sentence first.

    Parameters
    ----------
    row : dict
        Its row of the ledger.
    row_of : callable
        Row of another image by id.
    neighbors : sequence
        Stored pairs of the image, most similar first.
    config : dict
        The resolved recipe of the run.
    """
    sentences = _DESCRIBE[row["reason"]](row, row_of, config)
    if row["out_shard"] is not None:
        sentences.append(f"It is in shards/{row['out_shard']} under the key {row['out_key']}.")
    if row["planted_from"] is not None:
        original = _name(row_of(row["planted_from"]))
        sentences.append(f"The run planted it: a copy of {original} with the edit `{row['edit']}`.")
    if row["reason"] in {"not_retrieved", *KEPT_REASONS}:
        sentences.extend(_nearest_miss(neighbors, row_of, config))
    return sentences


def _name(row: Row) -> str:
    return f"`{row['key']}` (image {row['image_id']})"


def _filtered(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    policy = config["filter"]
    what, limit = {
        "too_small": ("it is too small", f"filter.min_side is {policy['min_side']} pixels"),
        "bad_aspect": ("it is too elongated", f"filter.max_aspect is {policy['max_aspect']}"),
        "flat": ("it is almost uniform", f"filter.min_std is {policy['min_std']}"),
        "undecodable": ("it cannot be decoded", "see the recipe keys under decode"),
    }[row["reason"]]
    return [f"{_name(row)} was dropped because {what}: {row['detail']} ({limit})."]


def _reference(row: Row, *_: Any) -> list[str]:
    return [
        f"{_name(row)} is a reference image of {row['source']}: others are compared with it; it is "
        "never exported."
    ]


def _duplicate(row: Row, row_of: Callable[[int], Row], config: Row) -> list[str]:
    keeper = row_of(row["duplicate_of"])
    kind = "an exact duplicate" if row["reason"] == "exact_duplicate" else "a near-duplicate"
    sentences = [
        f"{_name(row)} was dropped as {kind} of {_name(keeper)}, which is kept in its place.",
        *_chain(row, row_of),
    ]
    policy = config["duplicates"]
    if row["reason"] == "near_duplicate":
        sentences.append(
            f"Pairs above {policy['threshold']} are near-duplicates (duplicates.threshold, encoder "
            f"{policy['encoder']})."
        )
    return [*sentences, f"The other image is kept because it {_advantage(row, keeper)}."]


def _chain(row: Row, row_of: Callable[[int], Row]) -> list[str]:
    """Follow the linking pairs to the image that is kept."""
    links: list[str] = []
    here, keeper = row, row["duplicate_of"]
    while here["image_id"] != keeper and here["edge_i"] is not None and len(links) < 6:
        other = row_of(here["edge_i"] + here["edge_j"] - here["image_id"])
        how = here["detail"] if here["reason"] == "exact_duplicate" else f"{here['similarity']:.4f}"
        links.append(f"{_name(here)} to {_name(other)}: {how}")
        here = other
    if len(links) == 1:
        return [f"Their similarity: {links[0].rsplit(': ', 1)[1]}."]
    return [f"It is linked by a chain of {len(links)} pairs: {'; '.join(links)}."] if links else []


def _advantage(row: Row, keeper: Row) -> str:
    if keeper["role"] != row["role"]:
        return f"has the role {keeper['role']}"
    if keeper["width"] * keeper["height"] != row["width"] * row["height"]:
        size, other = (f"{r['width']} x {r['height']}" for r in (keeper, row))
        return f"has more pixels ({size} versus {other})"
    if keeper["size"] != row["size"]:
        return f"has more bytes ({keeper['size']} versus {row['size']})"
    return "has the smaller id"


def _leak(row: Row, row_of: Callable[[int], Row], config: Row) -> list[str]:
    policy = config["decontaminate"]
    rule = f"decontaminate.threshold is {policy['threshold']}, reading {policy['reading']}"
    if row["duplicate_of"] is None:
        return [
            f"{_name(row)} was dropped because its duplicates connect it to a reference image "
            f"({rule})."
        ]
    reference = row_of(row["duplicate_of"])
    return [
        f"{_name(row)} was dropped because it shows the same as the reference image "
        f"{_name(reference)} of {reference['source']}: similarity {row['similarity']:.4f} ({rule})."
    ]


def _not_retrieved(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    policy = config["retrieve"]
    return [
        f"{_name(row)} was dropped because no seed retrieved it: it is not among the "
        f"{policy['k']} nearest surviving pool images of any seed (retrieve.k, policy "
        f"{policy['policy']})."
    ]


def _retrieved(row: Row, row_of: Callable[[int], Row], config: Row) -> list[str]:
    times = f" It is exported {row['copies']} times." if row["copies"] > 1 else ""
    return [
        f"{_name(row)} was kept because the seed {_name(row_of(row['seed_id']))} retrieved it: "
        f"neighbor {row['rank'] + 1} with score {row['score']:.4f} "
        f"(retrieve.k is {config['retrieve']['k']}).{times}"
    ]


def _kept(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    retrieves = config["retrieve"]["mode"] != "none"
    more = " No seed retrieved it, and retrieve.keep is all." if retrieves else ""
    return [f"{_name(row)} was kept: no rule dropped it.{more}"]


def _by_role(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    if row["decision"] == "kept":
        return [f"{_name(row)} was kept because its source has the role {row['role']}."]
    keep_seeds = str(config["retrieve"]["keep_seeds"]).lower()
    return [
        f"{_name(row)} is a seed: it was used for retrieval and is not exported itself "
        f"(retrieve.keep_seeds is {keep_seeds})."
    ]


_DESCRIBE: dict[str, Callable[[Row, Callable[[int], Row], Row], list[str]]] = {
    **dict.fromkeys(("undecodable", "too_small", "bad_aspect", "flat"), _filtered),
    "reference": _reference,
    "exact_duplicate": _duplicate,
    "near_duplicate": _duplicate,
    "leak": _leak,
    "not_retrieved": _not_retrieved,
    "retrieved": _retrieved,
    "kept": _kept,
    "seed": _by_role,
    "as_is": _by_role,
}


def _nearest_miss(
    neighbors: Sequence[Related], row_of: Callable[[int], Row], config: Row
) -> list[str]:
    """Name the most similar image that was not similar enough."""
    for other in neighbors:
        is_reference = row_of(other.image_id)["role"] == "reference"
        limit = config["decontaminate" if is_reference else "duplicates"]["threshold"]
        if other.similarity is not None and other.similarity <= limit:
            what = "reference image" if is_reference else "image"
            return [
                f"The most similar {what} below the threshold ({limit}) is `{other.key}` "
                f"(image {other.image_id}) with {other.similarity:.4f}."
            ]
    return []
