"""Groups of duplicates: who takes part, and counts that add up."""

import numpy as np
import pool as pools
import pytest

from dinoforge.tables import read_table


def test_every_admitted_image_but_references_is_in_one_group(inputs, cosines):
    table = read_table(inputs.file("components", "groups.parquet"))
    expected = np.flatnonzero(cosines.admitted & (cosines.role != "reference"))
    assert table.column("image_id").to_pylist() == expected.tolist()


def test_images_above_the_threshold_share_a_component_and_counts_add_up(inputs, cosines):
    rows = read_table(inputs.file("components", "groups.parquet")).to_pylist()
    component = {row["image_id"]: row["component"] for row in rows}
    for i, j in np.argwhere(np.triu(cosines.similarity, 1) > 0.951).tolist():
        if i in component and j in component and {i, j} <= set(cosines.joined[0].tolist()):
            assert component[i] == component[j]
    (facts,) = inputs.facts("components")
    dropped = facts["exact_duplicates"] + facts["near_duplicates"]
    assert facts["kept"] + dropped == facts["candidates"] == len(rows)
    sizes = {int(size): count for size, count in facts["components_of_size"].items()}
    assert sum(sizes.values()) == facts["components"]
    assert sum(size * count for size, count in sizes.items()) == len(rows)
    assert facts["largest_component"] == max(sizes)


def test_the_largest_component_reports_its_least_similar_images(inputs, cosines):
    table = read_table(inputs.file("components", "groups.parquet"))
    component = table.column("component").to_numpy()
    names, sizes = np.unique(component, return_counts=True)
    members = table.column("image_id").to_numpy()[component == names[sizes.argmax()]]
    (facts,) = inputs.facts("components")
    inside = cosines.similarity[np.ix_(members, members)]
    assert facts["largest_component"] == len(members) > 1
    assert facts["smallest_similarity"] == pytest.approx(inside.min(), abs=1e-3)


def test_hubs_are_reported_and_link_no_others(pool, tmp_path):
    chain = ("duplicates.floor=0.6", "duplicates.threshold=0.7", "retrieve.mode=none")
    config = pools.recipe(pool.sources, tmp_path / "run", *chain, "duplicates.max_degree=2")
    summary = pools.curated(config)
    with_hubs = summary.duplicates
    assert with_hubs["hubs"] > 0
    assert with_hubs["hub_examples"][0]["pairs"] > 2
    assert any("hubs that link no others" in line for line in summary.remarks)
    without = pools.curated(
        pools.recipe(pool.sources, tmp_path / "run", *chain), on_change="update"
    ).duplicates
    assert without["hubs"] == 0
    assert without["largest_component"] > with_hubs["largest_component"]
