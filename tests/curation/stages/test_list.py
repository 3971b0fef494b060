"""Files are listed in partitions, once: whatever the partitions, the index is the same."""

import io
import tarfile

import pool as pools
import pytest

from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.stages import discover
from dinoforge.curation.stages.ingest import IngestStage
from dinoforge.errors import UsageError
from dinoforge.stages import make_executor, make_inputs
from dinoforge.stages.pipeline import run_stages
from dinoforge.stages.stage import Output

PLAIN = ("plant.count=0", "retrieve.mode=none")


def listed(config, run):
    run_stages("curation", STAGES[:3], run, config, make_executor("in-process"))
    return make_inputs("curation", STAGES, run, config)


def ingested(run):
    files = (run / "curation/10-ingest").rglob("*")
    return {
        path.relative_to(run): path.read_bytes()
        for path in files
        if path.is_file() and path.suffix != ".done"
    }


def write_tar(path, labels):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            for name, data in (("png", b"\x89PNG\r\n\x1a\n"), ("cls", label.encode())):
                entry = tarfile.TarInfo(f"{number:04d}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def test_the_index_does_not_depend_on_the_partitions(pool, calm, tmp_path, monkeypatch):
    monkeypatch.setattr(discover, "PARTITION_FILES", 3)
    monkeypatch.setattr(discover, "PARTITION_BYTES", 1)
    run = tmp_path / "run"
    inputs = listed(pools.recipe(pool.sources, run), run)
    assert len(inputs.facts("list")) > 50
    assert {facts["source"] for facts in inputs.facts("list")} == {0, 1, 2}
    assert ingested(run) == ingested(calm)


def test_a_source_that_grew_is_listed_again(tmp_path):
    run, sources = tmp_path / "run", [{"paths": [str(tmp_path / "tars")]}]
    write_tar(tmp_path / "tars/a.tar", "01")
    config = pools.recipe(sources, run, *PLAIN)
    assert listed(config, run).facts("ingest")[0]["images"] == 2
    write_tar(tmp_path / "tars/b.tar", "012")
    assert listed(config, run).facts("ingest")[0]["images"] == 5
    (tmp_path / "tars/a.tar").unlink()
    assert listed(config, run).facts("ingest")[0]["images"] == 3


def test_a_recipe_that_stops_before_it_selects_may_change_and_lists_nothing_again(tmp_path):
    write_tar(tmp_path / "tars/a.tar", "01")
    source = {"paths": [str(tmp_path / "tars")]}
    run = tmp_path / "run"
    with pytest.raises(UsageError, match="there is no class `7`"):
        pools.curated(pools.recipe([source | {"classes": {"7": "x"}}], run, *PLAIN))
    markers = sorted(run.glob("curation/0*/*.done"))
    written = [path.stat().st_mtime_ns for path in markers]
    changed = pools.recipe([source | {"classes": {"1": "x"}}], run, *PLAIN, "max_bad_rate=1")
    assert pools.curated(changed).images == 2
    assert [path.stat().st_mtime_ns for path in markers] == written
    assert len(written) == 2


def test_a_list_of_classes_that_changes_meanwhile_is_reported(tmp_path):
    write_tar(tmp_path / "tars/a.tar", "01")
    (tmp_path / "tars/classes.txt").write_text("cat\ndog\n")
    run = tmp_path / "run"
    inputs = listed(pools.recipe([{"paths": [str(tmp_path / "tars")]}], run, *PLAIN), run)
    (tmp_path / "tars/classes.txt").write_text("owl\ndog\n")
    with pytest.raises(UsageError, match=r"has changed since .*classes\.txt - run the command"):
        IngestStage().run({}, inputs.scoped(IngestStage()), Output(run, run / "again", 0))
