"""What a person should know about a finished curation, one line each: what it left out, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinoforge.config.paths import quote_path
from dinoforge.curated import REASONS
from dinoforge.curation.config import CurationConfig

__all__ = [
    "DECIDING_KEYS",
    "balance_remarks",
    "base_remarks",
    "hub_remarks",
    "remarks",
    "rule_remarks",
    "side_remarks",
]

_NAMED = 10  # images in a remark

# Reason of a dropped image -> the recipe key that decides it.
DECIDING_KEYS = {
    "undecodable": "decode",
    "too_small": "filter.min_side",
    "bad_aspect": "filter.max_aspect",
    "flat": "filter.min_std",
    "filtered_out": "filter.where",
    "missing_value": "filter.where",
    "reference": "never kept",
    "exact_duplicate": "duplicates",
    "near_duplicate": "duplicates.threshold",
    "leak": "decontaminate.threshold",
    "excluded": "retrieve.rules",
    "not_retrieved": "retrieve.k",
    "not_balanced": "balance.target",
    "seed": "retrieve.keep_seeds, retrieve.drop_seeds",
    "taken_down": "takedown",
}


def remarks(
    config: CurationConfig, roles: Mapping[str, Mapping[str, int]], *, planted: int, kept: int
) -> list[str]:
    """Return the lines for the log, the summary and the report; usually none.

    ``roles`` counts the images by role and reason, ``planted`` the copies among the pool.
    """
    lines = []
    plant, pool = config.plant, sum(roles.get("pool", {}).values()) - planted
    if planted < plant.count:
        why = f"pool images {pool}, plant.max_share {plant.max_share:g}"
        if planted < plant.num_copies(pool):
            why = f"{planted} of {pool} pool images decode"
        lines.append(f"planted {planted} of {plant.count} copies (plant.count): {why}")
    seeds = Counter(roles.get("seed", {}))
    if config.retrieve.mode == "seeds" and not seeds["seed"] and not config.retrieve.rules:
        lines.append(f"no seed was left, so no image was retrieved: {_listed(seeds)}")
    if not kept:
        total = sum(map(Counter, roles.values()), Counter[str]())
        lines.append(f"no image was kept, of {total.total()}: {_listed(total)}")
    return lines


def rule_remarks(config: CurationConfig, retrieval: Mapping[str, Any] | None) -> list[str]:
    """Return a line per rule without a seed, and per seed set without a rule; usually none.

    ``retrieval`` is that of the summary.
    """
    lines = []
    for rule in (retrieval or {}).get("rules", ()):
        if rule["seeds"]:
            continue
        kind = "example" if rule["mode"] == "exclude" else "seed"
        why = _listed(Counter(rule["seeds_dropped"])) or "no image was read"
        lines.append(f"rule {rule['name']}: no {kind} of {rule['seed_set']} was left: {why}")
    named = {rule.seeds for rule in config.retrieve.rules if rule.mode != "exclude"}
    sets = dict.fromkeys(source.label for source in config.sources if source.role == "seed")
    unread = [name for name in sets if name not in named]
    if unread and config.retrieve.rules:
        lines.append(f"seeds of which no rule retrieves: {', '.join(unread)}")
    return lines


def hub_remarks(duplicates: Mapping[str, Any]) -> list[str]:
    """Return the line about hubs, by the facts of `components`; none if there are none."""
    if not duplicates["hubs"]:
        return []
    examples = ", ".join(f"{e['image_id']} ({e['pairs']})" for e in duplicates["hub_examples"])
    return [
        f"hubs that link no others (duplicates.max_degree): {duplicates['hubs']}; those with the "
        f"most near-duplicates are the images {examples}"
    ]


def base_remarks(base: Mapping[str, Any] | None) -> list[str]:
    """Return a line per earlier run with images that leak a new reference; usually none."""
    leaks = {} if base is None else base["leaks"]
    return [
        f"{len(ids)} images of the base leak a new reference; to remove them, run dinoforge "
        f"takedown {quote_path(Path(run))} {' '.join(map(str, ids[:_NAMED]))}"
        f"{' ...' if len(ids) > _NAMED else ''}"
        for run, ids in leaks.items()
        if ids
    ]


def side_remarks(joined: Sequence[Mapping[str, int]]) -> list[str]:
    """Return a line about images without a row in any table, by the facts of `side-tables`."""
    images, alone = (sum(part[name] for part in joined) for name in ("images", "in_no_table"))
    if not alone:
        return []
    return [f"{alone:,} of {images:,} images have no row in any table (side.tables, side.on)"]


def balance_remarks(balance: Mapping[str, Any] | None) -> list[str]:
    """Return lines about a target that the images do not reach, and empty clusters."""
    if balance is None:
        return []
    lines = []
    if balance["kept"] < balance["target"]:
        lines.append(
            f"balance.target is {balance['target']}, only {balance['images']} images were left: "
            "all of them are kept"
        )
    empty = [
        f"level {n}: {one['empty']}" for n, one in enumerate(balance["levels"], 1) if one["empty"]
    ]
    if empty:
        lines.append(f"clusters left out because no image is nearest to them: {', '.join(empty)}")
    return lines


def _listed(counts: Counter[str]) -> str:
    """List reasons, the commonest first: ``leak 6 (decontaminate.threshold), flat 3 (...)``."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], REASONS.index(item[0])))
    return ", ".join(f"{r.replace('_', ' ')} {n} ({DECIDING_KEYS[r]})" for r, n in ordered if n)
