"""Lists in a bucket, and lists of what is in one: sources, ids, conditions, side data."""

import json
from collections import Counter
from pathlib import Path

import crawled_sets as crawls
import numpy as np
import object_store
import pyarrow as pa
import pytest
from shard_sets import run_shard, samples_of, write_tar

from dinoforge.curation.policies.where import ConditionError, parse_where
from dinoforge.errors import UsageError
from dinoforge.remote.store import object_key
from dinoforge.shards.index import index_shard
from dinoforge.sources.beside import SideReader
from dinoforge.sources.discover import discover_files, fingerprint_sources
from dinoforge.sources.image_set import open_images
from dinoforge.sources.listing import ClassLists, list_each, name_files
from dinoforge.tables import write_table


@pytest.fixture
def folder(tmp_path):
    """A tar with a table beside it, and files with a text and a JSON file beside each image."""
    samples = samples_of(0, 6)
    write_tar(tmp_path / "in/a.tar", samples)
    table = pa.table({"key": list(samples), "score": list(range(6))})
    write_table(tmp_path / "in/a.parquet", table, table.schema)
    for key, members in samples_of(6, 9).items():
        for extension, data in members.items():
            (tmp_path / f"in/{key}.{extension}").write_bytes(data)
    (tmp_path / "in/00000008.json").unlink()
    return tmp_path / "in"


@pytest.fixture
def url(store, bucket, folder, proxy):
    for path in folder.iterdir():
        store.pipe_file(object_key(f"{bucket}/in/{path.name}"), path.read_bytes())
    proxy.requests.clear()
    return f"{bucket}/in"


def put(store, url, text):
    store.pipe_file(object_key(url), text.encode())
    return url


@pytest.mark.parametrize("place", ["bucket", "here"])
def test_images_of_a_list_in_its_order_with_its_labels(store, url, proxy, tmp_path, place):
    start = "" if place == "bucket" else f"{url}/"
    rows = [("00000007.jpg", "dog"), ("a.tar", ""), ("gone.jpg", "cat"), ("00000006.jpg", "cat")]
    text = "\n".join(["path,label", *(f"{start}{name},{label}" for name, label in rows)])
    if place == "bucket":
        manifest = put(store, f"{url}/list.csv", text)
    else:
        manifest = str(tmp_path / "list.csv")
        Path(manifest).write_text(text)
    proxy.requests.clear()
    images = open_images([manifest], cache=tmp_path / "cache")
    keys = images.table.column("key").to_pylist()
    assert [keys[0], keys[-1], len(keys)] == ["00000007", "00000006", 8]
    assert images.table.column("class_name").to_pylist()[::7] == ["dog", "cat"]
    assert [(one["shard"], one["reason"]) for one in images.problems] == [
        (f"{url}/gone.jpg", "unreadable")
    ]
    assert images.decode(0).shape[0] == 24
    assert not [line for line in proxy.requests if "list-type=2" in line]
    # What was looked up is not asked for again.
    proxy.requests.clear()
    mark = fingerprint_sources([manifest], tmp_path / "cache/listings")
    assert not [line for line in proxy.requests if ".jpg" in line]
    assert mark == fingerprint_sources([manifest], tmp_path / "cache/listings")


@pytest.mark.parametrize(
    "row", ["s3://k:hunter2@b/x.jpg", "s3://b/x?Signature=hunter2", "ftp://h/x"]
)
def test_a_list_with_urls_that_cannot_be_used_is_one_line(row, tmp_path):
    (tmp_path / "list.csv").write_text(f"path\n{row}\n")
    with pytest.raises(UsageError, match="in `line 2`") as error:
        discover_files([str(tmp_path / "list.csv")])
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", ["ids.txt", "ids.npy"])
def test_ids_of_a_list_in_a_bucket(store, url, folder, tmp_path, name):
    wanted = [1, 4]
    if name == "ids.npy":
        path = tmp_path / name
        np.save(path, np.array([[0, at] for at in wanted], np.uint64))
        store.pipe_file(object_key(f"{url}/../{name}"), path.read_bytes())
        where = f"{url}/../{name}"
    else:
        where = put(store, f"{url}/../{name}", "".join(f"{at:032x}\n" for at in wanted))
    words = [f"sources=[{folder / 'a.tar'}]", f"ids.file={where}", "ids.field=uid"]
    summary = run_shard(tmp_path / "run", *words)
    assert (summary.samples, summary.ids["unmatched"]) == (2, 0)
    with pytest.raises(UsageError, match="no such object"):
        run_shard(tmp_path / "none", words[0], f"ids.file={url}/none.txt")


def test_a_condition_on_a_list_in_a_bucket(store, url):
    blocked = put(store, f"{url}/blocked.txt", "# these\nb\n")
    where = parse_where(f"key not in lines('{blocked}')")
    assert where.apply({"key": pa.chunked_array([["a", "b"]])}).tolist() == [1, 0]
    for text, what in ((f"{url}/none", "unreadable"), ("s3://k:hunter2@b/x", "holds credentials")):
        with pytest.raises(ConditionError, match=what) as error:
            parse_where(f"key in lines('{text}')")
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("layout", ["webdataset", "files"])
def test_failed_downloads_beside_data_in_a_bucket_are_counted(store, bucket, tmp_path, layout):
    crawls.write_crawl(tmp_path / "crawl", crawls.url_list(10), layout)
    object_store.copy_folder(tmp_path / "crawl", f"{bucket}/crawl")
    counts = []
    for place in (str(tmp_path / "crawl"), f"{bucket}/crawl"):
        files = discover_files([place])
        listed = list_each(name_files(files.items), ClassLists(), unpacked=tmp_path)
        counts.append(sum((Counter(one.failed) for one in listed), Counter(files.failed)))
    assert counts[0] == counts[1]
    assert counts[1].total() == 3


def test_side_data_in_a_bucket_are_those_of_files(url, folder, tmp_path):
    rows = {}
    for where in (str(folder), url):
        places = [
            {"shard": f"{where}/a.tar", "member": one.member.name, "offset": one.member.offset}
            for one in index_shard(folder / "a.tar").images
        ]
        places += [
            {"shard": f"{where}/{at:08d}.jpg", "member": "", "offset": 0} for at in (6, 7, 8)
        ]
        rows[where] = list(SideReader(["*"]).read_each(places))
    assert rows[str(folder)] == rows[url]
    assert rows[url][5] == json.loads(samples_of(5, 6)["00000005"]["json"]) | {
        "score": 5,
        "caption": "caption 5",
    }
    assert rows[url][8] == {"caption": "caption 8"}
