"""Downloads of img2dataset, DataComp and Hugging Face: every sample counted, its side data kept."""

import json

import crawled_sets as crawls
import pool as pools
import pytest

from dinoforge.curation.remarks import side_remarks
from dinoforge.errors import UsageError
from dinoforge.shards.reading import read_samples

FEW = ("retrieve.mode=none", "plant.count=0", "partition_images=7", "filter.min_side=8")
NUM = 20  # of 3 shards


def curate(out, paths, *words):
    sources = [{"role": "pool", "paths": [str(path) for path in paths]}]
    return pools.curated(pools.recipe(sources, out, *FEW, *words))


def notes(out):
    """The JSON of every exported sample, by key."""
    samples = [m for tar in sorted((out / "shards").glob("*.tar")) for _, m in read_samples(tar)]
    return {note["key"]: note for note in (json.loads(m["json"]) for m in samples)}


@pytest.mark.parametrize("layout", ["webdataset", "files", "parquet"])
def test_layouts_of_img2dataset_are_counted_and_keep_their_side_data(tmp_path, layout):
    rows = crawls.url_list(NUM, punsafe=[at / NUM for at in range(NUM)])
    successes = crawls.write_crawl(tmp_path / "crawl", rows, layout)
    where = "punsafe < 0.5 and host(url) != 'site1.org' and status == 'success'"
    columns = "side.columns=[uid,url,caption,punsafe,status,error_message,sha256,width]"
    summary = curate(tmp_path / "run", [tmp_path / "crawl"], columns, f"filter.where={where}")
    failed = {"failed_to_download": 5, "failed_to_resize": 2}
    assert summary.images == successes == NUM - sum(failed.values())
    funnel = {row.label: row.count for row in summary.funnel()}
    assert funnel["entries of the sources"] == NUM
    if layout == "parquet":  # a row that failed is a row without an image
        assert summary.problems == {"no_image": 7}
    else:
        assert (summary.not_downloaded, summary.problems) == (failed, {})
        assert funnel["no image: failed to download"] == 5
    ledger = {row["side.uid"]: row for row in pools.ledger(tmp_path / "run")}
    good = [row for at, row in enumerate(rows) if at % crawls.PER_SHARD not in crawls.FAILED]
    assert {row["uid"] for row in good} == set(ledger)
    for row in good:
        matched = ledger[row["uid"]]
        assert (matched["side.url"], matched["side.caption"]) == (row["url"], row["caption"])
        assert (matched["side.punsafe"], matched["side.status"]) == (row["punsafe"], "success")
        assert (matched["width"], matched["side.width"], len(matched["side.sha256"])) == (
            48,
            48,
            64,
        )
        is_kept = row["punsafe"] < 0.5 and "site1" not in row["url"]
        assert matched["decision"] == ("kept" if is_kept else "dropped")
    exported = notes(tmp_path / "run")
    assert len(exported) == summary.kept > 2
    for note in exported.values():
        assert note["side"]["url"] == ledger[note["side"]["uid"]]["side.url"]


def test_the_metadata_of_datacomp_is_joined_to_its_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("dinoforge.curation.stages.measures.side_tables.PARTITION_ROWS", 8)
    successes = crawls.write_datacomp(tmp_path / "small", NUM)
    words = (
        *("side.columns=['clip_*',uid,face_bboxes,url]", "side.on=uid"),
        f"side.tables=['{tmp_path}/small/metadata/*.parquet']",
        "filter.where=clip_l14_similarity_score > 0.4 and face_bboxes == '[]'",
    )
    summary = curate(tmp_path / "run", [tmp_path / "small/shards"], *words)
    assert summary.images == successes
    scores = {row["side.uid"]: row for row in pools.ledger(tmp_path / "run")}
    assert len(scores) == successes
    assert summary.remarks == []
    parts = [{"images": 8, "in_no_table": 2}, {"images": 4, "in_no_table": 1}]
    assert side_remarks(parts) == ["3 of 12 images have no row in any table (side.tables, side.on)"]
    for row in scores.values():
        at = int(row["side.url"].rpartition("/")[2].removesuffix(".jpg"))
        assert row["side.clip_b32_similarity_score"] == pytest.approx(at / NUM)
        is_kept = 1 - at / NUM > 0.4 and at % 4 != 0
        assert row["decision"] == ("kept" if is_kept else "dropped")
    assert all(
        "clip_l14_similarity_score" in note["side"] for note in notes(tmp_path / "run").values()
    )


def test_a_slice_of_datacomp_is_read_from_its_folder(tmp_path):
    # The lists of URLs hold no images: named as other files, not read as sources.
    successes = crawls.write_datacomp(tmp_path / "small", NUM)
    summary = curate(tmp_path / "run", [tmp_path / "small"])
    assert (summary.images, summary.problems) == (successes, {"other_file": 2})


def test_the_columns_of_a_hugging_face_table_are_side_data(tmp_path):
    crawls.write_hugging_face(tmp_path / "data", NUM)
    words = ("side.columns=['*']", "filter.where=nsfw < 0.25 and text.startswith('picture')")
    summary = curate(tmp_path / "run", [tmp_path / "data"], *words)
    rows = pools.ledger(tmp_path / "run")
    assert summary.images == NUM
    assert summary.kept == 5
    assert [row["side.text"] for row in rows] == [f"picture {at}" for at in range(NUM)]
    assert not [name for name in rows[0] if name.startswith("side.image")]
    assert {note["side"]["text"] for note in notes(tmp_path / "run").values()} == {
        f"picture {at}" for at in range(5)
    }


def test_a_tar_with_fewer_samples_than_were_downloaded_is_incomplete(tmp_path):
    crawls.write_crawl(tmp_path / "a", crawls.url_list(8), "webdataset")
    crawls.write_crawl(tmp_path / "b", crawls.url_list(3), "webdataset")
    (tmp_path / "b/00000.tar").rename(tmp_path / "a/00000.tar")  # of 2 samples, where 5 should be
    summary = curate(tmp_path / "run", [tmp_path / "a"])
    assert (summary.images, summary.problems) == (2, {"missing_samples": 1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["side.tables=[{}/none*.parquet]", "side.columns=[a]"], "no table matches"),
        (["side.tables=[{}/t.parquet]", "side.columns=[a]", "side.on=id"], "no column `id`"),
        (["side.tables=[{}/t.parquet]"], "`side.columns` names no column"),
        (["side.tables=[{}/t.parquet]", "side.columns=[a]"], "no column that `side.columns` names"),
        (["side.tables=['s3://k:pw@b/t']", "side.columns=[a]"], "`side.tables` holds credentials"),
    ],
)
def test_tables_that_cannot_be_joined_are_refused(tmp_path, words, message):
    crawls.write_crawl(tmp_path / "a", crawls.url_list(2), "webdataset")
    (tmp_path / "a/00000.parquet").rename(tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=message):
        curate(tmp_path / "run", [tmp_path / "a"], *(word.format(tmp_path) for word in words))
