"""Sentences about one decision: what happened, by which evidence, and how close it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dinoforge.curated import KEPT_REASONS

__all__ = ["Compared", "Related", "describe_decision", "on_pixels"]

Row = dict[str, Any]

# The first sentence by reason. `row` is the image's row of the ledger, `other` that of the image in
# the evidence (kept duplicate, reference, seed); the rest are the recipe's sections.
_FIRST = {
    "undecodable": "{image} was dropped because it cannot be decoded: {row[detail]} (see the "
    "recipe keys under decode).",
    "too_small": "{image} was dropped because it is too small: {row[detail]} (filter.min_side is "
    "{filter[min_side]} pixels).",
    "bad_aspect": "{image} was dropped because it is too elongated: {row[detail]} "
    "(filter.max_aspect is {filter[max_aspect]}).",
    "flat": "{image} was dropped because it is almost uniform: {row[detail]} (filter.min_std is "
    "{filter[min_std]}).",
    "filtered_out": "{image} was dropped because it does not meet the condition {filter[where]} "
    "(filter.where): {row[detail]}.",
    "missing_value": "{image} was dropped because a value is missing that the condition "
    "{filter[where]} needs (filter.where): {row[detail]}.",
    "reference": "{image} is a reference image of {row[source]}: others are compared with it; it "
    "is never exported.",
    "exact_duplicate": "{image} was dropped as an exact duplicate of {other_image}, which is kept "
    "in its place.",
    "near_duplicate": "{image} was dropped as a near-duplicate of {other_image}, which is kept in "
    "its place.",
    "leak": "{image} was dropped because it shows the same as the reference image {other_image} of "
    "{other[source]}: similarity {row[similarity]:.4f} (decontaminate.threshold is "
    "{decontaminate[threshold]}, reading {decontaminate[reading]}).",
    "compared leak": "{image} was dropped because it shows the same as the reference image "
    "{other_image} of {other[source]}: {pixels} (duplicates.verify, reading "
    "{decontaminate[reading]}).",
    "leak through duplicates": "{image} was dropped because its duplicates connect it to a "
    "reference image (decontaminate.threshold is {decontaminate[threshold]}, reading "
    "{decontaminate[reading]}).",
    "taken_down": "{image} was taken down on {row[detail]}.",
    "not_retrieved": "{image} was dropped because no seed retrieved it: it is not among the "
    "{retrieve[k]} nearest surviving pool images of any seed (retrieve.k, policy "
    "{retrieve[policy]}).",
    "not retrieved by a rule": "{image} was dropped because no rule retrieved it, or only one "
    "whose cap left it out (retrieve.rules).",
    "excluded": "{image} was dropped because it resembles {other_image}, an example of what the "
    "rule {row[rule]} excludes: similarity {row[similarity]:.4f} (retrieve.rules).",
    "not_balanced": "{image} was dropped to balance the pool: {row[detail]} (balance.target is "
    "{balance[target]}, balance.choose is {balance[choose]}).",
    "retrieved": "{image} was kept because the seed {other_image} retrieved it: neighbor {nth} "
    "with score {row[score]:.4f} (retrieve.k is {retrieve[k]}).",
    "retrieved by a rule": "{image} was kept because the seed {other_image} retrieved it by the "
    "rule {row[rule]}: neighbor {nth} with score {row[score]:.4f} (retrieve.rules).",
    "drawn by a rule": "{image} was kept because the rule {row[rule]} drew it: {row[detail]} "
    "(retrieve.rules).",
    "kept": "{image} was kept: no rule dropped it.",
    "seed": "{image} was kept because its source has the role seed.",
    "seed not exported": "{image} is a seed: it was used for retrieval and is not exported itself "
    "(retrieve.keep_seeds, retrieve.drop_seeds).",
    "as_is": "{image} was kept because its source has the role as_is.",
}


@dataclass(frozen=True)
class Related:
    """Another image involved in the decision."""

    image_id: int
    key: str
    similarity: float | None
    note: str

    def caption(self) -> list[str]:
        """Return the lines below its picture."""
        similarity = [] if self.similarity is None else [f"similarity {self.similarity:.4f}"]
        return [self.key, *similarity, *self.note.splitlines()]


@dataclass(frozen=True)
class Compared:
    """Another image that was compared with this one on the pixels."""

    image_id: int
    key: str
    places: int
    correlation: float
    overlap: float  # of the picture of which more is covered
    is_same: bool  # by the limits of the recipe

    def caption(self) -> list[str]:
        """Return the lines below its picture."""
        verdict = "the same picture" if self.is_same else "another picture"
        overlap = f"overlap {self.overlap:.0%}"
        return [self.key, verdict, on_pixels(self.places, self.correlation), overlap]


def on_pixels(places: int, correlation: float) -> str:
    """Describe what a comparison on the pixels measured."""
    noun = "place agrees" if places == 1 else "places agree"
    return f"{places} {noun}, correlation {correlation:.3f}"


def describe_decision(
    row: Row,
    row_of: Callable[[int], Row],
    neighbors: Sequence[Related],
    compared: Sequence[Compared],
    config: Row,
) -> list[str]:
    """Explain why an image was kept or dropped, the most important sentence first.

    ``row`` is its row of the ledger, ``row_of`` returns that of another image by id; ``neighbors``
    are its stored pairs, most similar first; ``compared`` those that were compared on their pixels,
    most alike first; ``config`` is the resolved recipe of the run.
    """
    reason = row["reason"]
    other_id = row["seed_id"] if reason == "retrieved" else row["duplicate_of"]
    other = row if other_id is None else row_of(other_id)
    case = reason
    if reason == "leak" and other_id is None:
        case = "leak through duplicates"
    elif reason == "leak" and row.get("places") is not None:
        case = "compared leak"
    elif reason == "seed" and row["decision"] == "dropped":
        case = "seed not exported"
    elif reason in {"retrieved", "not_retrieved"} and config["retrieve"].get("rules"):
        is_drawn = reason == "retrieved" and other_id is None
        case = "drawn by a rule" if is_drawn else f"{reason.replace('_', ' ')} by a rule"
    names = {"image": _name(row), "other_image": _name(other), "nth": (row["rank"] or 0) + 1}
    names["pixels"] = _strength(row)
    sentences = [_FIRST[case].format(row=row, other=other, **names, **config)]
    if reason in {"exact_duplicate", "near_duplicate"}:
        sentences += _duplicate(row, other, row_of, config["duplicates"])
    if row["copies"] > 1:
        sentences.append(f"It is exported {row['copies']} times.")
    sentences += _why_left(row, config) if reason == "kept" else []
    if row["out_shard"] is not None:
        sentences.append(f"It is in shards/{row['out_shard']} under the key {row['out_key']}.")
    if row["planted_from"] is not None:
        original = _name(row_of(row["planted_from"]))
        sentences.append(f"The run planted it: a copy of {original} with the edit `{row['edit']}`.")
    if reason in {"not_retrieved", *KEPT_REASONS}:
        sentences += _nearest_miss(neighbors, compared, row_of, config)
    return sentences


def _why_left(row: Row, config: Row) -> list[str]:
    """Describe why an image that no rule dropped is kept."""
    no_seed = "No seed retrieved it, and retrieve.keep is all."
    sentences = [no_seed] if config["retrieve"]["mode"] != "none" else []
    if row.get("cluster") is not None:
        sentences.append(f"It was chosen to balance the pool: {row['detail']} (balance.target).")
    return sentences


def _name(row: Row) -> str:
    run = f", {row['run']}" if "run" in row else ""
    return f"`{row['key']}` (image {row['image_id']}{run})"


def _duplicate(row: Row, keeper: Row, row_of: Callable[[int], Row], policy: Row) -> list[str]:
    """Describe the pairs that link an image to the one that is kept, and why that one is."""
    links: list[str] = []
    here = row
    while here is not keeper and here["edge_i"] is not None and len(links) < 6:
        other = row_of(here["edge_i"] + here["edge_j"] - here["image_id"])
        how = here["detail"] if here["reason"] == "exact_duplicate" else _strength(here)
        links.append(f"{_name(here)} to {_name(other)}: {how}")
        here = keeper if other["image_id"] == keeper["image_id"] else other
    sentences = []
    if len(links) == 1:
        what = "Their pixels" if row.get("places") is not None else "Their similarity"
        sentences.append(f"{what}: {links[0].rsplit(': ', 1)[1]}.")
    elif links:
        sentences.append(f"It is linked by a chain of {len(links)} pairs: {'; '.join(links)}.")
    if row.get("places") is not None:
        limits = policy["verify"]
        sentences.append(
            f"Compared on their pixels, pictures are duplicates if at least "
            f"{limits['min_places']} places agree, their finest details correlate by more than "
            f"{limits['min_correlation']} (below 12 places, 0.1 more), and they overlap by "
            f"more than {limits['min_overlap']} (duplicates.verify)."
        )
    elif row["reason"] == "near_duplicate":
        sentences.append(
            f"Pairs above {policy['threshold']} are near-duplicates (duplicates.threshold, encoder "
            f"{policy['encoder']})."
        )
    why = _why_kept(keeper, row, policy.get("prefer", ["resolution"]))
    return [*sentences, f"The other image is kept because it {why}."]


def _why_kept(keeper: Row, row: Row, prefer: Sequence[str]) -> str:
    """Say why the one image is kept and not the other."""
    sizes = [f"{r['width']} x {r['height']}" for r in (keeper, row)]
    if "run" in keeper:
        return "is in an earlier generation, which stays as it is (base)"
    if keeper["role"] != row["role"]:
        return f"has the role {keeper['role']}"
    if not set(prefer) <= {"resolution"}:
        return f"comes first by {', '.join(prefer)} (duplicates.prefer)"
    if keeper["width"] * keeper["height"] != row["width"] * row["height"]:
        return f"has more pixels ({sizes[0]} versus {sizes[1]})"
    if keeper["size"] != row["size"]:
        return f"has more bytes ({keeper['size']} versus {row['size']})"
    return "has the smaller id"


def _strength(row: Row) -> str:
    if row["similarity"] is None:
        return ""
    if row.get("places") is not None:
        return on_pixels(row["places"], row["similarity"])
    return f"{row['similarity']:.4f}"


def _nearest_miss(
    neighbors: Sequence[Related],
    compared: Sequence[Compared],
    row_of: Callable[[int], Row],
    config: Row,
) -> list[str]:
    """Name the most similar image that was not similar enough."""
    for pair in compared:
        if not pair.is_same:
            return [
                "Of the pictures that were compared with it on their pixels and differ, the "
                f"closest is `{pair.key}` (image {pair.image_id}): "
                f"{on_pixels(pair.places, pair.correlation)}, overlap {pair.overlap:.0%}."
            ]
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
