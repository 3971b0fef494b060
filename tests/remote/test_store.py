"""Requests to a real S3 server, through a proxy that makes them fail."""

import hashlib
import io
import tarfile
import threading

import object_store
import pytest

from dinoforge.errors import UsageError
from dinoforge.remote import is_url
from dinoforge.remote import store as requests
from dinoforge.remote.reading import RemoteFile, read_in_order
from dinoforge.remote.store import (
    expand_pattern,
    find_object,
    list_objects,
    object_key,
    read_object,
    read_range,
)
from dinoforge.remote.upload import upload_files
from dinoforge.remote.urls import local_path, url_fault
from dinoforge.shards.index import index_shard
from dinoforge.shards.reading import RangeReader
from dinoforge.sources.objects import discover_url

CONTENT = bytes(range(256)) * 4000


def put(store, url, data=CONTENT):
    store.pipe_file(object_key(url), data)
    return url


def test_a_url_begins_with_a_scheme():
    assert all(map(is_url, ("s3://b/x", "hf://datasets/a/b", "file:///x", "x://")))
    assert not any(map(is_url, ("/a://b", "./s3://x", "folder/x", "checkpoint:x.pth", "~/x")))


def test_file_urls_are_paths():
    assert local_path("file:///data/a%20b") == "/data/a b"
    assert local_path("s3://b/a%20b") == "s3://b/a%20b"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://KEY:hunter2@bucket/x", "holds credentials"),
        ("s3://bucket/x.tar?X-Amz-Signature=hunter2", "holds credentials"),
        ("ftp://host/x", "unknown scheme `ftp://`"),
        ("s3:///x", "without a bucket"),
        ("file://host/x", "names another machine"),
    ],
)
def test_urls_that_cannot_be_used(url, what):
    fault = str(url_fault("sources[0].paths", url))
    assert what in fault
    assert "hunter2" not in fault
    assert url_fault("sources[0].paths", "s3://bucket/a-{0..3}/*.tar") is None


def test_patterns_match_within_one_name():
    urls = ["s3://b/t/a/1.jpg", "s3://b/t/a/c/1.jpg", "s3://b/t/x.1.jpg", "s3://b/t/a/2.jpg"]
    cases = {
        "s3://b/t/*/*.jpg": ("s3://b/t", [0, 3]),
        "s3://b/t/**/1.jpg": ("s3://b/t", [0, 1]),
        "s3://b/t/a/[13].j?g": ("s3://b/t/a", [0]),
        "s3://b/t/a/{2,1}.jpg": ("s3://b/t/a", [3, 0]),
    }
    for pattern, (start, rows) in cases.items():
        folder, matches = expand_pattern(pattern)
        assert folder == start
        assert [at for match in matches for at, url in enumerate(urls) if match(url)] == rows


def test_what_fails_is_sent_again(proxy, store, bucket):
    url = put(store, f"{bucket}/a b/é#+.bin")
    proxy.share = 0.4
    for offset in range(0, 3000, 100):
        assert read_range(url, offset, 50) == CONTENT[offset : offset + 50]
    assert read_object(url) == CONTENT
    assert set(proxy.faults) == {"busy", "cut before", "cut within"}
    assert len(proxy.requests) > 32 + len(proxy.faults) / 2


def test_a_store_that_always_fails_is_an_error(proxy, store, bucket, monkeypatch):
    monkeypatch.setattr(requests, "ATTEMPTS", 3)
    url = put(store, f"{bucket}/x")
    proxy.requests.clear()
    proxy.share = 1.0
    with pytest.raises(UsageError, match=r"fails after 3 attempts: .* rerun the command"):
        read_range(url, 0, 5)
    assert 3 <= len(proxy.requests) <= 6  # aiohttp repeats one on a connection that was closed


def test_what_is_not_there_is_not_asked_for_again(proxy, store, bucket):
    assert find_object(f"{bucket}/none") is None
    assert list_objects(f"{bucket}/none") == []
    with pytest.raises(FileNotFoundError):
        read_range(f"{bucket}/none", 0, 5)
    with pytest.raises(UsageError, match="no such bucket - s3://no-such-bucket"):
        list_objects("s3://no-such-bucket/x")
    refused = f"s3://{object_store.REFUSED_BUCKET}"
    for read in (list_objects, find_object):
        with pytest.raises(UsageError, match=rf"access refused \(403\) - {refused}"):
            read(f"{refused}/x")


def test_a_node_has_a_bounded_number_of_requests(monkeypatch):
    monkeypatch.setenv(requests.CONNECTIONS, "2")
    monkeypatch.setattr(requests, "open_store", lambda url: None)
    running, most, lock = [], [], threading.Lock()

    def send(_):
        with lock:
            running.append(1)
            most.append(len(running))
        threading.Event().wait(0.01)
        with lock:
            running.pop()

    threads = [threading.Thread(target=requests.request, args=("s3://b", send)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 2


def make_tar(sizes):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number:04d}.jpg")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes([number % 251]) * size))
    return data.getvalue()


@pytest.mark.parametrize(
    ("sizes", "most_requests", "most_bytes"),
    [
        ([3000] * 400, 8, 2_000_000),  # small members: blocks, each twice as large
        ([3_000_000] * 4, 8, 200_000),  # large ones: headers alone
    ],
)
def test_a_tar_is_indexed_by_ranges(
    store, bucket, tmp_path, monkeypatch, sizes, most_requests, most_bytes
):
    tar = make_tar(sizes)
    (tmp_path / "x.tar").write_bytes(tar)
    url = put(store, f"{bucket}/x.tar", tar)
    read, counted = [], requests.read_range

    def read_range(url, offset, size, at_least=None):
        read.append(len(data := counted(url, offset, size, at_least)))
        return data

    monkeypatch.setattr("dinoforge.remote.reading.read_range", read_range)
    remote, local = index_shard(url), index_shard(tmp_path / "x.tar")
    assert (remote.images, remote.problems) == (local.images, local.problems)
    assert len(read) <= most_requests
    assert sum(read) <= most_bytes
    assert index_shard(f"{bucket}/none.tar").problems[0]["reason"] == "unreadable"


def test_reads_that_follow_one_another_are_joined(proxy, store, bucket):
    url = put(store, f"{bucket}/x")
    other = put(store, f"{bucket}/y")
    reader = RangeReader()
    places = [(url, at, 900) for at in range(0, 200_000, 1000)] + [(other, 5, 10), (url, 7, 1)]
    proxy.requests.clear()
    data = list(read_in_order(places, reader.read))
    assert data == [CONTENT[at : at + size] for _, at, size in places]
    assert len(proxy.requests) <= 4
    with pytest.raises(OSError, match=r"short|bytes|Invalid|range|attempts"):
        reader.read(url, len(CONTENT) + 10, 5)


def test_a_file_reads_ahead_only_where_reads_follow_one_another(proxy, store, bucket):
    file = RemoteFile(put(store, f"{bucket}/x"), len(CONTENT))
    for at in (900_000, 100_000, 500_000):
        assert file.pread(10, at) == CONTENT[at : at + 10]
    assert len(proxy.requests) == 3 + 1  # and the object that was put
    assert file.pread(100, len(CONTENT) - 5) == CONTENT[-5:]


def test_objects_are_in_the_order_of_folders(store, bucket):
    for name in (
        "p/z.jpg",
        "p/a/2.jpg",
        "p/a/1.png",
        "p/a.jpg",
        "p/.h/x.jpg",
        "p/n.txt",
        "p/.b.jpg",
    ):
        put(store, f"{bucket}/{name}", b"text" if "txt" in name else b"\xff\xd8\xff\xe0")
    listed = discover_url(f"{bucket}/p")
    names = ["a.jpg", "z.jpg", "a/1.png", "a/2.jpg"]
    assert [file.path for file in listed.items] == [f"{bucket}/p/{name}" for name in names]
    assert {(entry["shard"].rpartition("/")[2], entry["reason"]) for entry in listed.problems} == {
        *{(".h", "hidden_folder"), (".b.jpg", "hidden"), ("n.txt", "other_file")}
    }
    by_pattern = discover_url(f"{bucket}/p/{{a,.}}/*.png")
    assert [file.path for file in by_pattern.items] == [f"{bucket}/p/a/1.png"]
    before = discover_url(f"{bucket}/p/z.jpg").fingerprint()
    put(store, f"{bucket}/p/z.jpg", b"\xff\xd8\xff\xe1")  # as long as before
    assert discover_url(f"{bucket}/p/z.jpg").fingerprint() != before
    with pytest.raises(UsageError, match="no such object or folder"):
        discover_url(f"{bucket}/none")


@pytest.fixture
def files(tmp_path):
    names = ("shards/pool-000000.tar", "shards/pool-000000.json", "published/ledger.parquet")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(hashlib.sha256(name.encode()).digest() * 1000)
    return {name: tmp_path / name for name in names}


MARKER = "published/uploaded.json"


def test_an_upload_sends_what_is_missing_and_the_marker_last(proxy, store, bucket, files):
    to = f"{bucket}/out"
    proxy.share = 0.2
    assert upload_files(files, to, MARKER).sent == 3
    proxy.share = 0.0
    assert {name: store.cat_file(object_key(f"{to}/{name}")) for name in files} == {
        name: path.read_bytes() for name, path in files.items()
    }
    puts = [line.split()[1] for line in proxy.requests if line.startswith("PUT")]
    assert puts[-1].endswith(MARKER)
    proxy.requests.clear()
    assert upload_files(files, to, MARKER).sent == 0
    assert not [line for line in proxy.requests if not line.startswith(("GET", "HEAD"))]


def test_an_upload_goes_on_and_replaces_what_changed(proxy, store, bucket, files):
    to = f"{bucket}/out"
    upload_files(files, to, MARKER)
    store.rm_file(object_key(f"{to}/{MARKER}"))  # as if killed before the end
    store.pipe_file(
        object_key(f"{to}/published/uploaded-unfinished.json"),
        b'{"objects": [%s]}' % (b",".join(b'{"path": "%s"}' % name.encode() for name in files)),
    )
    proxy.requests.clear()
    assert upload_files(files, to, MARKER).sent == 0
    files["shards/pool-000000.tar"].write_bytes(b"x" * 32_000)  # as long as before
    del files["shards/pool-000000.json"]
    done = upload_files(files, to, MARKER)
    assert (done.sent, done.present, done.removed) == (1, 1, 1)
    assert store.cat_file(object_key(f"{to}/shards/pool-000000.tar")) == b"x" * 32_000
    assert [one.url for one in list_objects(f"{to}/shards")] == [f"{to}/shards/pool-000000.tar"]


def test_an_upload_leaves_alone_what_others_wrote(store, bucket, files):
    put(store, f"{bucket}/out/shards/pool-000000.tar", b"of somebody else")
    with pytest.raises(UsageError, match="objects of something else: shards/pool-000000"):
        upload_files(files, f"{bucket}/out", MARKER)
    kept = store.cat_file(object_key(f"{bucket}/out/shards/pool-000000.tar"))
    assert kept == b"of somebody else"


def test_an_upload_to_a_folder(files, tmp_path):
    to = f"file://{tmp_path}/copy"
    assert upload_files(files, to, MARKER).sent == 3
    assert upload_files(files, to, MARKER).sent == 0
    for name, path in files.items():
        assert (tmp_path / "copy" / name).read_bytes() == path.read_bytes()
