"""How the pairs were found and, by cells, which share of them: for the summary and the report."""

import numpy as np

from dinoforge.curation.policies.intervals import share
from dinoforge.curation.tables import CurationInputs
from dinoforge.stages import Json
from dinoforge.tables import read_tables

__all__ = ["describe_join", "join_remarks"]

# Below this share of found pairs, the remark names the key to change.
_GOOD = 0.98


def describe_join(inputs: CurationInputs) -> Json:
    """Return the method of the join, the pairs compared and, by cells, the measured recall.

    Recall is the share of the pairs of sampled images, found by comparing them with all images,
    that the cells find: above ``duplicates.threshold`` and above ``duplicates.floor``. Pairs of one
    image are not independent, so ``images_linked`` counts images: of those that have a pair above
    the threshold, the share of which at least one pair is found.
    """
    compared = sum(facts["compared"] for facts in inputs.facts("graph"))
    trained = inputs.facts("cells")
    if not trained:
        return {"method": "exact", "compared": compared}
    table = read_tables(inputs.files("recall", "sampled.parquet"))
    image, similarity, is_found = (
        table.column(name).to_numpy() for name in ("i", "similarity", "is_found")
    )
    policy = inputs.config.duplicates
    above = similarity.astype(np.float64) > policy.threshold
    linked = np.unique(image[above & is_found])
    return {
        "method": "cells",
        "compared": compared,
        "cells": trained[0]["cells"],
        "cells_per_image": policy.cells_per_image,
        "sampled_images": inputs.facts("recall")[0]["sample"],
        "recall": share(int((above & is_found).sum()), int(above.sum())),
        "recall_above_floor": share(int(is_found.sum()), len(is_found)),
        "images_linked": share(len(linked), len(np.unique(image[above]))),
    }


def join_remarks(join: Json) -> list[str]:
    """Return the line about a join by cells; none if it was exact."""
    if join["method"] == "exact":
        return []
    recall, images = join["recall"], f"{join['sampled_images']} sampled images"
    text = f"joined by {join['cells']} cells (duplicates.join)"
    if recall["value"] is None:
        return [f"{text}; its recall is unknown: {images} have no pair above the threshold"]
    low, high = recall["interval"]
    text += f", which find {recall['value']:.4f} [{low:.4f}, {high:.4f}] of the pairs of {images}"
    if recall["value"] < _GOOD:
        text += "; more duplicates.cells_per_image find more"
    return [text]
