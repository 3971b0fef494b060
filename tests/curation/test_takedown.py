"""Takedowns: only the shards that hold the images change, and nothing brings them back."""

import json
import shutil

import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.curation import rewrite
from dinoforge.curation.takedowns import Takedown, add_takedowns
from dinoforge.shards.index import index_shard, verify_shard

MORE = ("export.shard_images=10", "retrieve.mode=none")


@pytest.fixture(scope="module")
def sources(pool):
    """Few images: 56 and copies that the run plants of them, and references."""
    paths = {"pool": "test", "reference": "seeds"}
    return [{"role": role, "paths": [str(pool.folder / path)]} for role, path in paths.items()]


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    pools.curated(pools.recipe(sources, out, *MORE))
    return out


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def state(run):
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, pools.sha256(path.read_bytes()))
        for path in (run / "shards").iterdir()
    }


def kept(run):
    return [row for row in pools.ledger(run) if row["decision"] == "kept"]


def in_shard(run, number):
    return [row for row in kept(run) if row["out_shard"] == f"pool-{number:06d}.tar"]


def take(run, *words):
    return main(["takedown", str(run), *map(str, words), "-q"])


def check(run, gone):
    """The ledger, the summary, the list of shards and the shards agree."""
    rows, summary = pools.ledger(run), json.loads((run / "published/summary.json").read_text())
    hashes = {rows[image]["sha256"] for image in gone}
    same = {row["image_id"] for row in rows if row["sha256"] in hashes}
    expected = same | {row["image_id"] for row in rows if row["planted_from"] in same}
    assert {row["image_id"] for row in rows if row["reason"] == "taken_down"} == expected
    exported = {row["out_key"] for row in rows if row["out_key"]}
    assert set(pools.samples(run)) == exported
    assert summary["kept"] == summary["exported"] == len(exported) == len(kept(run))
    listed = json.loads((run / "published/shards.json").read_text())
    tars = sorted((run / "shards").glob("*.tar"))
    assert [one["shard"] for one in listed] == [f"shards/{tar.name}" for tar in tars]
    for one, tar in zip(listed, tars, strict=True):
        assert verify_shard(tar) == []
        assert len(index_shard(tar).samples) == one["images"] > 0
    assert sum(one["images"] for one in listed) == summary["kept"]
    (counted,) = (row["count"] for row in summary["funnel"] if row["label"] == "kept")
    assert counted == summary["kept"]


def test_only_the_shards_that_hold_them_are_written(run):
    before = state(run)
    first, second = in_shard(run, 1)[0], in_shard(run, 3)[2]
    assert take(run, first["image_id"], second["out_key"], "--reason", "request 7") == 0
    after = state(run)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"pool-{n:06d}.{end}" for n in (1, 3) for end in ("tar", "json")}
    check(run, {first["image_id"], second["image_id"]})
    row = pools.ledger(run)[first["image_id"]]
    assert (row["decision"], row["out_shard"], row["copies"]) == ("dropped", None, 0)
    assert row["detail"].endswith(": request 7")
    assert len(row["detail"].split(":")[0]) == 10


def test_a_rerun_does_not_bring_them_back(run, sources):
    row = in_shard(run, 0)[4]
    assert take(run, row["sha256"]) == 0
    before = state(run)
    pools.curated(pools.recipe(sources, run, *MORE))
    assert state(run) == before
    check(run, {row["image_id"]})
    other = pools.recipe(sources, run, "export.shard_images=17", "retrieve.mode=none")
    pools.curated(other, on_change="update")
    check(run, {row["image_id"]})


def test_a_new_start_does_not_bring_them_back(run, sources):
    row = in_shard(run, 0)[4]
    assert take(run, row["image_id"]) == 0
    words = [f"sources={json.dumps(sources)}", f"out={run}", *pools.SMALL, *MORE]
    assert main(["curate", *words, "--fresh", "-q"]) == 0
    check(run, {row["image_id"]})


def test_the_result_is_that_of_a_curation_without_them(run, sources, tmp_path):
    rows = [in_shard(run, 0)[4], in_shard(run, 2)[0]]
    assert take(run, *(row["image_id"] for row in rows), "--reason", "why") == 0
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(run / "takedowns.jsonl", other)
    pools.curated(pools.recipe(sources, other, *MORE))
    assert pools.differences(run, other) == []


@pytest.mark.parametrize("kill_at", range(3))
def test_a_takedown_that_was_killed_is_completed(run, tmp_path, monkeypatch, kill_at):
    ids = [in_shard(run, number)[0]["image_id"] for number in (0, 4)]
    whole = shutil.copytree(run, tmp_path / "whole")
    assert take(whole, *ids) == 0
    real, calls = rewrite.run_task, []

    def killed(task):
        calls.append(task)
        if len(calls) > kill_at:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(rewrite, "run_task", killed)
    assert take(run, *ids) == 75
    monkeypatch.undo()
    assert take(run) == 0
    check(run, ids)
    assert pools.differences(run, whole) == []


def test_a_curation_completes_a_takedown_that_was_killed(run, sources, tmp_path):
    row = in_shard(run, 0)[0]
    whole = shutil.copytree(run, tmp_path / "whole")
    assert take(whole, row["image_id"]) == 0
    entry = json.loads((whole / "takedowns.jsonl").read_text())
    add_takedowns(run, [Takedown(**entry)])
    pools.curated(pools.recipe(sources, run, *MORE))
    assert pools.differences(run, whole) == []


def test_a_shard_of_which_nothing_is_left_goes(run, sources):
    rows = in_shard(run, 2)
    listing = run.parent / "ids.txt"
    listing.write_text("".join(f"{row['out_key']}\n" for row in rows))
    assert take(run, "--file", listing) == 0
    assert not (run / "shards/pool-000002.tar").exists()
    assert (run / "shards/pool-000003.tar").exists()
    check(run, {row["image_id"] for row in rows})
    before = state(run)
    pools.curated(pools.recipe(sources, run, *MORE))
    assert state(run) == before


def test_duplicates_that_it_replaced_do_not_come_back_and_kept_ones_are_named(run, capsys):
    rows = pools.ledger(run)
    copy = next(
        row for row in rows if row["reason"] == "near_duplicate" and row["edit"] is not None
    )
    keeper = rows[copy["duplicate_of"]]
    assert take(run, copy["image_id"], "--json") == 0
    assert keeper["image_id"] in json.loads(capsys.readouterr().out)["duplicates_kept"]
    assert take(run, keeper["image_id"]) == 0
    again = pools.ledger(run)
    group = [row for row in again if row["component"] == keeper["component"]]
    assert len(group) > 1
    assert all(row["decision"] == "dropped" for row in group)


def test_planted_copies_of_an_image_go_with_it(run):
    rows = pools.ledger(run)
    copy = next(row for row in rows if row["planted_from"] is not None)
    assert take(run, copy["planted_from"]) == 0
    assert pools.ledger(run)[copy["image_id"]]["reason"] == "taken_down"


def test_sources_are_not_needed(pool, tmp_path):
    images = shutil.copytree(pool.folder / "test", tmp_path / "images")
    run = tmp_path / "run"
    source = [{"role": "pool", "paths": [str(images)]}]
    pools.curated(pools.recipe(source, run, *MORE))
    shutil.rmtree(images)
    row = in_shard(run, 1)[0]
    assert take(run, row["image_id"]) == 0
    check(run, {row["image_id"]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "no image `nobody`"),
        (["99999"], "no image `99999`"),
        ([], "nothing to take down"),
        (["REFERENCE"], "is a reference, which is never exported"),
    ],
)
def test_mistakes_change_nothing(run, capsys, words, message):
    reference = next(row for row in pools.ledger(run) if row["role"] == "reference")
    words = [str(reference["image_id"]) if word == "REFERENCE" else word for word in words]
    before = state(run)
    assert take(run, *words) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert message in line
    assert state(run) == before
    assert not (run / "takedowns.jsonl").exists()
    assert (run / "published/summary.json").exists()


def test_explain_and_the_report_know_about_it(run, tmp_path, capsys):
    row = in_shard(run, 0)[0]
    assert take(run, row["image_id"], "--reason", "request of the author") == 0
    capsys.readouterr()
    assert main(["explain", str(run), str(row["image_id"])]) == 0
    assert "was taken down on" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "report"), "--curation", str(run)]) == 0
    assert "Taken down" in (tmp_path / "report/report.html").read_text()
