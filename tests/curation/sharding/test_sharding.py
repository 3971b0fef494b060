"""Shards from sources: every sample once, all its members unchanged, whatever is asked for."""

import gzip
import json
import shutil
import tarfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_sets import files_of, picture, run_shard, samples_of, write_tar, written

from dinoforge.errors import UsageError
from dinoforge.shards.index import index_shard, verify_shard
from dinoforge.tables import read_table


def test_a_reshard_keeps_every_sample_and_every_byte(tars, tmp_path):
    folder, samples = tars
    summary = run_shard(tmp_path, f"sources=[{folder}]", "shard_images=7")
    assert dict(written(tmp_path)) == samples
    assert [key for key, _ in written(tmp_path)] == list(samples)
    assert [shard["samples"] for shard in summary.shards] == [7] * 8 + [4]
    assert (
        summary.source_bytes
        == summary.bytes
        == sum(len(data) for members in samples.values() for data in members.values())
    )
    for shard in (tmp_path / "shards").glob("*.tar"):
        assert index_shard(shard).problems == verify_shard(shard) == []
        with tarfile.open(shard) as tar:
            assert {(m.mtime, m.uid, m.uname) for m in tar.getmembers()} == {(0, 0, "")}


def test_a_table_beside_each_shard_locates_every_image(tars, tmp_path):
    folder, samples = tars
    run_shard(tmp_path, f"sources=[{folder}]", "shard_images=25")
    for table in sorted((tmp_path / "shards").glob("*.parquet")):
        tar = table.with_suffix(".tar").read_bytes()
        for row in read_table(table).to_pylist():
            data = samples[row["key"]]["jpg"]
            assert tar[row["offset"] : row["offset"] + row["size"]] == data
            assert (row["format"], row["height"], row["status"]) == ("JPEG", 24, "ok")
            assert row["extensions"] == ["jpg", "txt", "json"]


def test_folders_become_samples_by_stem_with_their_class(folders, tmp_path):
    summary = run_shard(tmp_path, f"sources=[{folders}]")
    samples = dict(written(tmp_path))
    assert samples["cat/0_v1"] == {"jpg": picture(100), "txt": b"a caption 0", "cls": b"0"}
    assert Counter(members["cls"] for members in samples.values()) == {b"0": 3, b"1": 3, b"2": 3}
    assert (tmp_path / "shards/classes.txt").read_text() == "cat\ndog\neel\n"
    assert summary.problems == {"other_file": 1}
    assert summary.bytes - summary.source_bytes == 9
    run_shard(tmp_path, f"sources=[{folders}]", "classes=ignore")
    assert all("cls" not in members for _, members in written(tmp_path))
    assert not (tmp_path / "shards/classes.txt").exists()


@pytest.mark.parametrize("order", ["listed", "random"])
def test_the_bytes_do_not_depend_on_processes_and_partitions(tars, tmp_path, order):
    folder, _ = tars
    words = (f"sources=[{folder}]", "shard_images=9", f"order={order}")
    run_shard(tmp_path / "one", *words)
    run_shard(tmp_path / "two", *words, on="local:2")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert not list((tmp_path / "one").rglob("*.bytes")), "copies of the first pass are removed"


def test_a_random_order_has_every_sample_once_and_depends_on_the_seed(tars, tmp_path):
    folder, samples = tars
    orders = []
    for seed in (1, 2):
        run_shard(tmp_path / str(seed), f"sources=[{folder}]", "order=random", f"seed={seed}")
        assert dict(written(tmp_path / str(seed))) == samples
        orders.append([key for key, _ in written(tmp_path / str(seed))])
    assert orders[0] != orders[1] != list(samples)


def test_a_missing_shard_of_a_random_order_is_written_again_from_the_sources(tars, tmp_path):
    folder, _ = tars
    words = (f"sources=[{folder}]", "shard_images=9", "order=random")
    run_shard(tmp_path, *words)
    before = files_of(tmp_path)
    (tmp_path / "shards/shard-000002.tar").unlink()
    run_shard(tmp_path, *words)
    assert files_of(tmp_path) == before


def as_text(path, ids):
    path.write_text("\n".join(ids))


def as_csv(path, ids):
    path.write_text("number,key\n" + "".join(f"0,{one}\n" for one in ids))


def as_parquet(path, ids):
    pq.write_table(pa.table({"key": ids}), path)


@pytest.mark.parametrize(
    ("name", "write"), [("ids.txt", as_text), ("ids.csv", as_csv), ("ids.parquet", as_parquet)]
)
def test_a_list_of_keys_chooses_samples(tars, tmp_path, name, write):
    folder, samples = tars
    ids = ["00000041", "00000003", "00000003", "nowhere"]
    write(tmp_path / name, ids)
    words = (f"sources=[{folder}]", f"ids.file={tmp_path / name}")
    summary = run_shard(tmp_path / "run", *words)
    assert dict(written(tmp_path / "run")) == {key: samples[key] for key in ids[1::-1]}
    assert summary.ids == {"listed": 4, "repeated": 1, "unmatched": 1, "samples_without": 0}


def test_uids_of_datacomp_choose_samples_by_a_field_of_their_json(tars, tmp_path):
    folder, _ = tars
    write_tar(tmp_path / "more.tar", {"x": {"jpg": picture(7)}, "y": {"json": b"{", "jpg": b""}})
    uids = np.array([(0, 5), (0, 17), (9, 17)], np.dtype("u8,u8"))
    np.save(tmp_path / "uids.npy", uids)
    words = (f"sources=[{folder},{tmp_path / 'more.tar'}]", f"ids.file={tmp_path / 'uids.npy'}")
    summary = run_shard(tmp_path / "run", *words, "ids.field=uid")
    assert [key for key, _ in written(tmp_path / "run")] == ["00000005", "00000017"]
    assert summary.ids == {"listed": 3, "repeated": 0, "unmatched": 1, "samples_without": 2}
    np.save(tmp_path / "pairs.npy", np.array([[0, 5]], np.uint64))
    words = (words[0], f"ids.file={tmp_path / 'pairs.npy'}", "ids.field=uid")
    assert run_shard(tmp_path / "pair", *words).samples == 1


def test_merged_sources_keep_the_first_key_and_number_the_others(tmp_path):
    for at, name in enumerate("abc"):
        samples = {"0": {"jpg": picture(at)}, f"only-{name}": {"jpg": picture(10 + at)}}
        write_tar(tmp_path / f"{name}.tar", samples)
    write_tar(tmp_path / "d.tar", {"0-2": {"jpg": picture(50)}})
    words = [f"sources=[{tmp_path}/a.tar,{tmp_path}/b.tar,{tmp_path}/c.tar,{tmp_path}/d.tar]"]
    with pytest.raises(UsageError, match=r"1 keys occur more than once: 0 \(3\)"):
        run_shard(tmp_path / "run", *words)
    summary = run_shard(tmp_path / "run", *words, "repeated_keys=rename")
    samples = dict(written(tmp_path / "run"))
    assert samples.keys() == {"0", "0-2-2", "0-3", "0-2", "only-a", "only-b", "only-c"}
    pictures = {members["jpg"] for members in samples.values()}
    assert pictures == {picture(at) for at in (0, 1, 2, 10, 11, 12, 50)}
    assert summary.renamed == 2
    (table,) = (tmp_path / "run/shards").glob("*.parquet")
    keys = {row["key"]: row["source_key"] for row in read_table(table).to_pylist()}
    assert (keys["0-3"], keys["0-2-2"], keys["0-2"]) == ("0", "0", "0-2")


def test_sources_that_number_classes_differently_are_refused(folders, tmp_path):
    write_tar(tmp_path / "numbered.tar", {"0": {"jpg": picture(1), "cls": b"0"}})
    words = f"sources=[{folders},{tmp_path / 'numbered.tar'}]"
    with pytest.raises(UsageError, match="the sources number classes differently: class folders"):
        run_shard(tmp_path / "run", words)
    assert run_shard(tmp_path / "run", words, "classes=ignore").samples == 10


def test_a_list_of_classes_beside_tars_goes_with_them(tmp_path):
    samples = {str(at): {"jpg": picture(at), "cls": b"%d" % at} for at in (3, 7)}
    write_tar(tmp_path / "in/a.tar", samples)
    (tmp_path / "in/classes.tsv").write_text("3\tthree\n7\tseven\n")
    run_shard(tmp_path / "run", f"sources=[{tmp_path / 'in'}]")
    assert dict(written(tmp_path / "run")) == samples
    assert (tmp_path / "run/shards/classes.tsv").read_text() == "3\tthree\n7\tseven\n"


def test_only_large_images_are_encoded_again_and_only_if_asked_for(tmp_path):
    samples = {
        "large": {"png": picture(1, 80, "png"), "txt": b"large", "seg.png": picture(2, 80, "png")},
        "small": {"jpg": picture(3, 20)},
        "damaged": {"jpg": picture(4, 80)[:200]},
        "text": {"txt": b"no image"},
    }
    write_tar(tmp_path / "in.tar", samples)
    source = f"sources=[{tmp_path / 'in.tar'}]"
    summary = run_shard(tmp_path / "run", source, "check=true")
    assert dict(written(tmp_path / "run")) == samples
    assert summary.status == {"no_image": 1, "ok": 2, "truncated": 1}
    summary = run_shard(tmp_path / "run", source, "resize.short_side=32")
    result = dict(written(tmp_path / "run"))
    large = result.pop("large")
    assert list(large) == ["jpg", "txt", "seg.png"]
    assert large["seg.png"] == samples["large"]["seg.png"]
    assert result == {key: samples[key] for key in result}
    assert summary.status == {"encoded": 1, "no_image": 1, "ok": 1, "truncated": 1}
    row = next(
        row
        for row in read_table(tmp_path / "run/shards/shard-000000.parquet").to_pylist()
        if row["key"] == "large"
    )
    assert (row["format"], row["height"], row["width"], row["status"]) == (
        "JPEG",
        32,
        32,
        "encoded",
    )


def test_verify_names_a_shard_that_changed(tars, tmp_path):
    folder, _ = tars
    words = (f"sources=[{folder}]", "shard_images=30")
    assert run_shard(tmp_path, *words, "verify=true").verified == 2
    shard = tmp_path / "shards/shard-000001.tar"
    before = shard.read_bytes()
    data = bytearray(before)
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UsageError, match=r"shard changed: checksum_mismatch .*shard-000001.tar"):
        run_shard(tmp_path, *words, "verify=true")
    shard.unlink()
    assert run_shard(tmp_path, *words, "verify=true").verified == 2
    assert shard.read_bytes() == before


def test_compressed_and_damaged_tars_give_what_they_have(tmp_path):
    plain = write_tar(tmp_path / "plain.tar", samples_of(0, 4)).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/whole.tar.gz").write_bytes(gzip.compress(plain, mtime=0))
    cut = write_tar(tmp_path / "in/cut.tar", samples_of(10, 14))
    cut.write_bytes(cut.read_bytes()[:-12_000])
    summary = run_shard(tmp_path / "run", f"sources=[{tmp_path / 'in'}]")
    keys = [key for key, _ in written(tmp_path / "run")]
    assert {"00000000", "00000003", "00000010"} <= set(keys)
    assert summary.problems["truncated"] == 1
    assert summary.samples == len(keys) < 8


def test_a_source_that_grew_is_listed_again(tars, tmp_path):
    folder, _ = tars
    source = shutil.copytree(folder, tmp_path / "in")
    words = (f"sources=[{source}]", "shard_images=50")
    assert run_shard(tmp_path / "run", *words).samples == 60
    write_tar(source / "00003.tar", samples_of(60, 65))
    assert run_shard(tmp_path / "run", *words).samples == 65
    (source / "00003.tar").unlink()
    (source / "00002.tar").unlink()
    assert run_shard(tmp_path / "run", *words).samples == 40
    assert len(list((tmp_path / "run/shards").glob("*.tar"))) == 1, "no shard of before is left"


def test_the_summary_is_what_the_shards_hold(tars, tmp_path):
    folder, samples = tars
    run_shard(tmp_path, f"sources=[{folder}]")
    summary = json.loads((tmp_path / "published/summary.json").read_text())
    assert summary["members"] == {"jpg": 60, "json": 60, "txt": 60}
    assert summary["formats"] == {"JPEG": 60}
    assert summary["samples_in"] == summary["samples"] == len(samples)
    page = (tmp_path / "shards.html").read_text()
    assert page.count("data:image/jpeg") == 6, "pictures of the one shard"
    for text in ("60 samples of 60 in 1 shard", "16 to 31 px", "00000059"):
        assert text in page
    again = run_shard(tmp_path / "again", f"sources=[{tmp_path / 'shards'}]")
    assert again.problems == {}, "checksum files and tables beside shards are no problems"


def test_rows_of_a_table_become_samples_with_the_class_of_their_label(tmp_path):
    table = tmp_path / "t.parquet"
    columns = {
        "image": [picture(0), None, picture(2), picture(3)],
        "label": ["dog", "dog", None, "cat"],
        "key": ["a.b", "c", "d", "e"],
    }
    pq.write_table(pa.table(columns), table, row_group_size=3)
    summary = run_shard(tmp_path / "run", f"sources=[{table}]", "shard_images=2", "order=random")
    assert dict(written(tmp_path / "run")) == {
        "a_b": {"jpg": picture(0), "cls": b"1"},
        "d": {"jpg": picture(2)},
        "e": {"jpg": picture(3), "cls": b"0"},
    }
    assert (tmp_path / "run/shards/classes.txt").read_text() == "cat\ndog\n"
    assert summary.problems == {"no_image": 1}
