"""The same recipe gives the same bytes: wherever it runs, whatever order the disk has."""

import json
import os
import shutil
from pathlib import Path

import pool as pools
import pytest


def test_the_pool_sends_every_stage_through_several_partitions(calm):
    for stage, parts in (("20-inspect", 5), ("30-embed", 5), ("40-graph", 2), ("80-export", 3)):
        assert len(list((calm / "curation" / stage).glob("*.done"))) >= parts
    marker = json.loads((calm / "curation/20-inspect/part-00000.done").read_text())
    assert marker["measured"].keys() >= {"seconds", "peak_rss_mib", "host"}


@pytest.mark.parametrize("on", ["in-process", "local:2", "local:4"])
def test_processes_and_folders_leave_every_byte_as_it_was(pool, calm, tmp_path, on):
    pools.curated(pools.recipe(pool.sources, tmp_path / "again"), on=on)
    assert pools.differences(calm, tmp_path / "again") == []


def test_the_order_of_a_folder_on_disk_changes_nothing(pool, calm, tmp_path, monkeypatch):
    walk, scan = os.walk, os.scandir

    class Backwards:
        def __init__(self, path):
            with scan(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            return None

        def __iter__(self):
            return self.entries

        def __next__(self):
            return next(self.entries)

        def close(self):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    names = [name for _, folders, files in walk(pool.folder) for name in (*folders, *files)]
    assert names != sorted(names)
    pools.curated(pools.recipe(pool.sources, tmp_path / "again"))
    monkeypatch.undo()
    assert pools.differences(calm, tmp_path / "again") == []


def test_a_copy_of_the_pool_under_the_same_relative_paths_gives_the_same_bytes(
    pool, tmp_path, monkeypatch
):
    sources = [{"role": r, "paths": [p]} for r, p in (("seed", "seeds"), ("pool", "pool"))]
    for here, backwards in (("one", False), ("two", True)):
        files = [path for path in pool.folder.rglob("*") if path.is_file()]
        for path in sorted(files, reverse=backwards):
            target = tmp_path / here / path.relative_to(pool.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        monkeypatch.chdir(tmp_path / here)
        pools.curated(pools.recipe(sources, Path("run")))
    assert pools.differences(tmp_path / "one/run", tmp_path / "two/run") == []


def test_a_source_named_like_the_outputs_of_the_run_is_read_where_it_lies(
    pool, calm, tmp_path, monkeypatch
):
    # The run writes shards/pool-000000.tar while it reads another file of that relative name.
    shutil.copytree(calm / "shards", tmp_path / "shards")
    (tmp_path / "curation").mkdir()
    shutil.copytree(pool.folder / "seeds", tmp_path / "curation/10-ingest")
    monkeypatch.chdir(tmp_path)
    sources = [{"role": "pool", "paths": ["shards", "curation/10-ingest"], "name": "both"}]
    config = pools.recipe(sources, Path("run"), "retrieve.mode=none", "plant.count=0")
    pools.curated(config)
    rows = pools.ledger(Path("run"))
    assert sum(row["shard"].startswith("./curation/10-ingest/") for row in rows) == 13
    exported = pools.samples(Path("run"))
    for row in rows:
        if row["decision"] == "kept":
            assert pools.sha256(exported[row["out_key"]]) == row["sha256"], row["key"]
