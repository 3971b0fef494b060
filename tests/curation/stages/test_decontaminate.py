"""Leaks: found by comparing all images with all references."""

import numpy as np

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
