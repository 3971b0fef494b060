"""Sentences about one decision: what happened, through what, and what would have changed it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dinoforge.curated import KEPT_REASONS

__all__ = ["sentences_of"]

Row = dict[str, Any]


class Neighbor(Protocol):
    """What is needed of a stored pair."""

    @property
    def image_id(self) -> int:
        """The other image."""

    @property
    def key(self) -> str:
        """Its key."""

    @property
    def similarity(self) -> float | None:
        """Cosine of the pair."""


def sentences_of(
    row: Row, row_of: Callable[[int], Row], neighbors: Sequence[Neighbor], config: Row
) -> list[str]:
    """Say why an image was kept or dropped, the most important first.

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
    tell = _TELLERS[row["reason"]]
    sentences = [*tell(row, row_of, config), *_where_it_is(row), *_origin(row, row_of)]
    if row["reason"] in {"not_retrieved", *KEPT_REASONS}:
        sentences.extend(_nearest_miss(neighbors, row_of, config))
    return sentences


def _name(row: Row) -> str:
    return f"`{row['key']}` (image {row['image_id']})"


def _filtered(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    policy = config["filter"]
    limit = {
        "too_small": f"filter.min_side is {policy['min_side']} pixels",
        "bad_aspect": f"filter.max_aspect is {policy['max_aspect']}",
        "flat": f"filter.min_std is {policy['min_std']}",
        "undecodable": "the decoder's rules are under decode",
    }[row["reason"]]
    what = {
        "too_small": "it is too small",
        "bad_aspect": "it is too long for its width",
        "flat": "it shows next to nothing",
        "undecodable": "it cannot be decoded",
    }[row["reason"]]
    return [f"{_name(row)} was dropped because {what}: {row['detail']} ({limit})."]


def _reference(row: Row, *_: Any) -> list[str]:
    return [
        f"{_name(row)} is a reference image: it is compared with and never exported "
        f"(source {row['source']})."
    ]


def _duplicate(row: Row, row_of: Callable[[int], Row], config: Row) -> list[str]:
    keeper = row_of(row["duplicate_of"])
    kind = "an exact duplicate" if row["reason"] == "exact_duplicate" else "a near-duplicate"
    sentences = [
        f"{_name(row)} was dropped as {kind} of {_name(keeper)}, which stays in its place."
    ]
    sentences.extend(_chain(row, row_of))
    threshold = config["duplicates"]["threshold"]
    if row["reason"] == "near_duplicate":
        sentences.append(
            f"Pairs above {threshold} are near-duplicates (duplicates.threshold, encoder "
            f"{config['duplicates']['encoder']})."
        )
    sentences.append(_why_it_stays(row, keeper))
    return sentences


def _chain(row: Row, row_of: Callable[[int], Row]) -> list[str]:
    """Follow the linking pairs to the image that stays."""
    links: list[str] = []
    here, keeper = row, row["duplicate_of"]
    while here["image_id"] != keeper and here["edge_i"] is not None and len(links) < 6:
        other = row_of(here["edge_i"] + here["edge_j"] - here["image_id"])
        how = here["detail"] if here["reason"] == "exact_duplicate" else f"{here['similarity']:.4f}"
        links.append(f"{_name(here)} to {_name(other)}: {how}")
        here = other
    if len(links) == 1:
        return [f"Their similarity: {links[0].rsplit(': ', 1)[1]}."]
    return [f"It hangs on it through {len(links)} pairs: {'; '.join(links)}."] if links else []


def _why_it_stays(row: Row, keeper: Row) -> str:
    sides = [
        ("has the role " + keeper["role"], keeper["role"] != row["role"]),
        (
            f"has more pixels ({keeper['width']} x {keeper['height']} against "
            f"{row['width']} x {row['height']})",
            keeper["width"] * keeper["height"] != row["width"] * row["height"],
        ),
        (
            f"has more bytes ({keeper['size']} against {row['size']})",
            keeper["size"] != row["size"],
        ),
        ("has the smaller id", True),
    ]
    why = next(text for text, differs in sides if differs)
    return f"The other one stays because it {why}."


def _leak(row: Row, row_of: Callable[[int], Row], config: Row) -> list[str]:
    policy = config["decontaminate"]
    rule = f"decontaminate.threshold is {policy['threshold']}, reading {policy['reading']}"
    if row["duplicate_of"] is None:
        return [
            f"{_name(row)} was dropped because it hangs together with a reference image through "
            f"its duplicates ({rule})."
        ]
    reference = row_of(row["duplicate_of"])
    return [
        f"{_name(row)} was dropped because it shows what the reference image {_name(reference)} "
        f"of {reference['source']} shows: similarity {row['similarity']:.4f} ({rule})."
    ]


def _not_retrieved(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    policy = config["retrieve"]
    return [
        f"{_name(row)} was dropped because no seed asked for it: it is not among the "
        f"{policy['k']} nearest surviving pool images of any seed (retrieve.k, policy "
        f"{policy['policy']})."
    ]


def _retrieved(row: Row, row_of: Callable[[int], Row], config: Row) -> list[str]:
    seed = row_of(row["seed_id"])
    times = f" It is exported {row['copies']} times." if row["copies"] > 1 else ""
    return [
        f"{_name(row)} was kept because the seed {_name(seed)} asked for it: neighbor "
        f"{row['rank'] + 1} with score {row['score']:.4f} "
        f"(retrieve.k is {config['retrieve']['k']}).{times}"
    ]


def _kept(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    asked = config["retrieve"]["mode"] != "none"
    more = " No seed asked for it, and retrieve.keep is all." if asked else ""
    return [f"{_name(row)} was kept: no rule spoke against it.{more}"]


def _by_role(row: Row, _: Callable[[int], Row], config: Row) -> list[str]:
    if row["decision"] == "kept":
        return [f"{_name(row)} was kept because its source has the role {row['role']}."]
    return [
        f"{_name(row)} is a seed: it asked for neighbors and is not exported itself "
        f"(retrieve.keep_seeds is {str(config['retrieve']['keep_seeds']).lower()})."
    ]


_TELLERS: dict[str, Callable[[Row, Callable[[int], Row], Row], list[str]]] = {
    "undecodable": _filtered,
    "too_small": _filtered,
    "bad_aspect": _filtered,
    "flat": _filtered,
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


def _where_it_is(row: Row) -> list[str]:
    if row["out_shard"] is None:
        return []
    return [f"It is in shards/{row['out_shard']} under the key {row['out_key']}."]


def _origin(row: Row, row_of: Callable[[int], Row]) -> list[str]:
    if row["planted_from"] is None:
        return []
    original = row_of(row["planted_from"])
    return [f"The run planted it itself: {_name(original)} with the edit `{row['edit']}`."]


def _nearest_miss(
    neighbors: Sequence[Neighbor], row_of: Callable[[int], Row], config: Row
) -> list[str]:
    """Name the most similar image that was not similar enough."""
    threshold = config["duplicates"]["threshold"]
    for other in neighbors:
        is_reference = row_of(other.image_id)["role"] == "reference"
        limit = config["decontaminate"]["threshold"] if is_reference else threshold
        if other.similarity is not None and other.similarity <= limit:
            what = "reference image" if is_reference else "image"
            return [
                f"The most similar {what} below the threshold ({limit}) is `{other.key}` "
                f"(image {other.image_id}) with {other.similarity:.4f}."
            ]
    return []
