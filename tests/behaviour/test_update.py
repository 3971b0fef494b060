"""A changed recipe runs what reads the changed key, and what follows, again: nothing else."""

import json
import shutil
from pathlib import Path

import pool as pools
import pytest

from dinoforge.errors import UsageError

ORDER = [
    *("05-discover", "07-list", "10-ingest", "15-plant", "20-inspect", "25-filter", "30-embed"),
    *("31-embed-meaning", "35-exact", "40-graph", "50-components", "55-check", "60-decontaminate"),
    *("62-survivors", "65-search", "70-retrieve", "75-select", "80-export"),
]


def markers(run):
    """Stage -> the fingerprint and the time of writing of each of its markers."""
    result = {}
    for path in sorted(run.glob("curation/*/*.done")):
        fingerprint = json.loads(path.read_text())["fingerprint"]
        result.setdefault(path.parent.name, []).append((fingerprint, path.stat().st_mtime_ns))
    return result


@pytest.mark.parametrize(
    ("change", "runs_again"),
    [
        ("duplicates.threshold=0.9", ORDER[10:12] + ORDER[13:]),
        ("duplicates.rule=direct", [ORDER[10], *ORDER[13:]]),
        ("filter.min_std=1.5", ["25-filter", *ORDER[10:]]),
        ("decontaminate.threshold=0.99", ORDER[12:]),
        ("retrieve.k=3", ORDER[14:]),
        ("export.shard_images=40", ORDER[16:]),
        ("duplicates.floor=0.8", ORDER[9:]),
    ],
)
def test_only_the_stages_that_a_changed_key_touches_run_again(
    pool, calm, tmp_path, change, runs_again
):
    shutil.copytree(calm, tmp_path / "run")
    before = markers(tmp_path / "run")
    config = pools.recipe(pool.sources, tmp_path / "run", change)
    key = change.partition("=")[0]
    with pytest.raises(UsageError, match=f"finished run changed: `{key}`"):
        pools.curated(config)
    assert markers(tmp_path / "run") == before
    pools.curated(config, on_change="update")
    after = markers(tmp_path / "run")
    assert before.keys() == after.keys() == set(ORDER) - {"31-embed-meaning"}
    assert sorted(name for name in after if after[name] != before[name]) == runs_again
    for name in runs_again:
        old, new = ({fingerprint for fingerprint, _ in m[name]} for m in (before, after))
        assert not old & new, name


def test_a_changed_limit_selects_from_what_is_listed(pool, calm, tmp_path):
    run = shutil.copytree(calm, tmp_path / "run")
    before = markers(run)
    sources = [
        source | ({"limit": 40} if "pool" in source["role"] else {}) for source in pool.sources
    ]
    summary = pools.curated(pools.recipe(sources, run), on_change="update")
    after = markers(run)
    assert {name for name in after if after[name] != before[name]} == set(after) - set(ORDER[:2])
    assert summary.not_selected > 0


def test_an_updated_run_is_the_run_that_the_changed_recipe_gives(pool, calm, tmp_path):
    shutil.copytree(calm, tmp_path / "run")
    change = ("duplicates.threshold=0.9", "retrieve.k=1", "export.shard_images=60")
    pools.curated(pools.recipe(pool.sources, tmp_path / "run", *change), on_change="update")
    pools.curated(pools.recipe(pool.sources, tmp_path / "new", *change))
    assert pools.differences(tmp_path / "run", tmp_path / "new") == []
    assert len(list((calm / "shards").glob("*.tar"))) > 1
    assert [tar.name for tar in Path(tmp_path / "run/shards").glob("*.tar")] == ["pool-000000.tar"]


def test_back_to_the_old_recipe_gives_the_old_bytes(pool, calm, tmp_path):
    shutil.copytree(calm, tmp_path / "run")
    for change in (["retrieve.mode=none", "plant.count=0"], []):
        pools.curated(pools.recipe(pool.sources, tmp_path / "run", *change), on_change="update")
    assert pools.differences(calm, tmp_path / "run") == []
