"""Leaks: found by comparing all images with all references."""

import json

import numpy as np
import pytest

from dinoforge.tables import read_table


def test_direct_leaks_are_the_images_above_the_threshold_to_a_reference(inputs, cosines):
    leaks = read_table(inputs.file("decontaminate", "leaks.parquet")).to_pylist()
    images, references = cosines.joined
    near = cosines.similarity[np.ix_(images, references)].max(axis=1)
    contents = images[near > inputs.config.decontaminate.threshold]
    is_leak = np.isin(cosines.content, contents) & (cosines.role != "reference")
    expected = np.flatnonzero(is_leak & cosines.admitted)
    assert [row["image_id"] for row in leaks] == expected.tolist()
    assert all(cosines.role[row["reference_id"]] == "reference" for row in leaks)
    assert len(leaks) > 0


def test_the_facts_count_both_readings_and_each_reference_set(inputs, cosines):
    (facts,) = inputs.facts("decontaminate")
    assert facts["images"] <= facts["images_direct"] <= facts["images_by_component"]
    (counts,) = facts["references"].values()
    assert counts["images"] == np.count_nonzero(cosines.role == "reference")
    assert 0 < counts["images_hit"] <= counts["images"]
    assert counts["images_direct"] == facts["images_direct"]
    assert counts["images_by_component"] == facts["images_by_component"]


def test_the_pairs_to_look_at_are_the_closest_of_every_image(inputs, cosines):
    (facts,) = inputs.facts("decontaminate")
    ((_, counts),) = facts["references"].items()
    threshold = inputs.config.decontaminate.threshold
    for pair in counts["pairs"]:
        assert cosines.role[pair["image_id"]] != "reference"
        assert cosines.role[pair["reference_id"]] == "reference"
        similarity = cosines.similarity[pair["image_id"], pair["reference_id"]]
        assert pair["similarity"] == pytest.approx(similarity, abs=1e-4)
    similarities = [pair["similarity"] for pair in counts["pairs"]]
    assert similarities == sorted(similarities, reverse=True)
    assert sum(value > threshold for value in similarities) == min(counts["hit_by"], 20)


def test_what_was_dropped_is_split_by_the_set_of_the_most_similar_reference(calm):
    leaks = json.loads((calm / "published/summary.json").read_text())["leaks"]
    dropped = sum(one["dropped"] for one in leaks["references"].values())
    assert dropped + leaks["dropped_through_others"] == leaks["images"] > 0
