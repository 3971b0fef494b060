"""The card of an index: by what network it is, of which images, how it is searched."""

from collections import Counter
from typing import Any

from dinoforge.demo.index.compressing import kinds_of
from dinoforge.demo.index.kinds import kind_bytes
from dinoforge.demo.index.layout import FORMAT
from dinoforge.demo.index.tables import IndexInputs, cached_network
from dinoforge.runs import now, read_facts
from dinoforge.tables import iter_row_groups

__all__ = ["make_card"]

_LISTED = 1000  # classes


def make_card(inputs: IndexInputs) -> dict[str, Any]:
    """Return the card of an index whose stages are done, for JSON."""
    config = inputs.whole_config
    network = cached_network(config.encoder, "cpu", config.precision)
    (listed,), (joined,) = inputs.facts("list"), inputs.facts("join")
    (num, dim), (_, patch_dim) = joined["vectors_shape"], joined["regions_shape"]
    return {
        "format": FORMAT,
        "encoder": network.name,
        "fingerprint": network.fingerprint,
        "trained": network.trained,
        "patch_pixels": network.patch_size,
        "heads": network.num_heads,
        "num_images": num,
        "undecodable": listed["images"] - num,
        "dim": dim,
        "patch_dim": patch_dim,
        "patches_size": config.patches.size if patch_dim else 0,
        "num_patches": sum(facts["patches"] for facts in inputs.facts("embed")),
        "metric": "cosine",
        "search": _search(inputs),
        "bytes": _sizes(inputs),
        **_classes(inputs),
        "map": {name: inputs.facts("map")[0][name] for name in ("layout", "laid_out")},
        "licenses": _licenses(inputs),
        "sources": config.sources,
        "date": read_facts(inputs.run_folder).get("started", now()),
    }


def _search(inputs: IndexInputs) -> dict[str, Any]:
    """Describe how each table is searched: kind, memory, and the recall of what is compressed."""
    (joined,) = inputs.facts("join")
    measured = {facts["table"]: facts for facts in inputs.facts("recall")}
    described = {}
    for name, kind in kinds_of(inputs).items():
        shape = joined[f"{name}_shape"]
        facts = measured.get(name, {"recall_at_10": 1.0, "queries": 0, "probes": 0})
        described[name] = {
            "kind": kind,
            "rows": shape[0],
            "bytes": kind_bytes(kind, shape),
            **{key: facts[key] for key in ("recall_at_10", "queries", "probes")},
        }
    return described


def _sizes(inputs: IndexInputs) -> dict[str, int]:
    """Add up the bytes on disk by what they hold."""
    names = {
        "embed": ("images.parquet", "patches.bin", "thumbnails.bin"),
        "join": ("vectors.npy", "regions.npy"),
        "compress": ("faiss",),
    }
    return {
        name.partition(".")[0]: sum(path.stat().st_size for path in inputs.files(stage, name))
        for stage, some in names.items()
        for name in some
    }


def _licenses(inputs: IndexInputs) -> dict[str, int]:
    """Count the images of each license that lies beside them, most frequent first; "": none."""
    counts = sum((Counter(facts["licenses"]) for facts in inputs.facts("embed")), Counter[str]())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _classes(inputs: IndexInputs) -> dict[str, Any]:
    """Count the classes, and the images of the 1,000 most frequent ones."""
    counts = Counter[str]()
    for path in inputs.files("embed", "images.parquet"):
        for part in iter_row_groups(path, ["class_name"]):
            counts.update(part.column("class_name").to_pylist())
    counts.pop("", None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"num_classes": len(ordered), "classes": dict(ordered[:_LISTED])}
