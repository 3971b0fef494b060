"""A curation from and to a bucket, with failing requests and a kill, equals a local one."""

import json
import random
import sys
import time
from pathlib import Path

import object_store
import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.curated import UPLOADED, ledger_path
from dinoforge.remote.store import list_objects, open_store
from dinoforge.tables import read_table


@pytest.fixture(scope="module")
def data(proxy, pool):
    """The pool in a bucket."""
    open_store("s3://data").mkdir("data")
    object_store.copy_folder(pool.folder, "s3://data")
    return [
        source | {"paths": [f"s3://data/{Path(source['paths'][0]).name}"]}
        for source in pool.sources
    ]


SOURCES = ("pool", "seeds", "test")


def listings_of(proxy, name):
    """Return the requests that list a folder, or anything in it."""
    return [line for line in proxy.requests if f"list-type=2&prefix={name}%2F" in line]


def same_but_for_urls(local, remote, folder):
    """Return in which columns two ledgers differ, with paths and URLs made equal."""
    columns = [read_table(ledger_path(run)).to_pydict() for run in (local, remote)]
    columns[0]["shard"] = [name.replace(str(folder), "s3://data") for name in columns[0]["shard"]]
    # A compressed tar: its copy is named by its content, or by its URL and version.
    for one in columns:
        one["shard"] = [n.rpartition("-")[0] if "/unpacked/" in n else n for n in one["shard"]]
    return [name for name in columns[0] if columns[0][name] != columns[1][name]]


@pytest.mark.timeout(400)
def test_from_and_to_a_bucket_as_from_and_to_folders(proxy, data, pool, calm, tmp_path):
    words = ["curate", f"sources={json.dumps(data)}", *pools.SMALL, "publish.to=s3://data/out"]
    proxy.share = 0.05
    process = pools.kill.start(words, tmp_path / "run")
    while not (tmp_path / "run/published/summary.json").exists():  # and the upload begins
        assert process.poll() is None
        time.sleep(0.01)
    pools.kill.kill(process, random.Random(0))
    assert [len(listings_of(proxy, name)) > 0 for name in SOURCES] == [True] * 3
    proxy.requests.clear()
    assert pools.kill.start(words, tmp_path / "run").wait() == 0
    proxy.share = 0.0
    assert proxy.faults
    assert not any(listings_of(proxy, name) for name in SOURCES)
    for file in sorted((calm / "shards").iterdir()):
        assert (tmp_path / "run/shards" / file.name).read_bytes() == file.read_bytes()
    assert same_but_for_urls(calm, tmp_path / "run", pool.folder) == []
    names = {
        path.relative_to(tmp_path / "run").as_posix(): path
        for folder in ("shards", "published")
        for path in (tmp_path / "run" / folder).rglob("*")
        if path.is_file()
    }
    listed = {one.url.removeprefix("s3://data/out/") for one in list_objects("s3://data/out")}
    assert listed == {*names, UPLOADED}
    store = open_store("s3://data")
    for name, path in names.items():
        assert store.cat_file(f"data/out/{name}") == path.read_bytes()
    # No file of the run holds the secret, nor what is published.
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert object_store.SECRET.encode() not in path.read_bytes()
            assert object_store.ACCESS.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sources=[{paths: ['s3://none/x']}]"], "no such bucket - s3://none - "),
        (["sources=[{paths: ['s3://refused/x']}]"], r"access refused (403) - s3://refused - "),
        (["sources=[{paths: ['s3://data/none']}]"], "no such object or folder - s3://data/none - "),
        (["sources=[{paths: ['s3:///x']}]"], "a URL without a bucket in `sources[0].paths` - "),
        (["sources=[{paths: ['ftp://h/x']}]"], "unknown scheme `ftp://` in `sources[0].paths` - "),
        (["sources=[{paths: ['s3://me:hunter2@b/x']}]"], "in `sources[0].paths` holds credentials"),
        (["sources=[{paths: [.]}]", "publish.to=s3://none/x"], "no such bucket - s3://none - "),
        (["sources=[{paths: [.]}]", "publish.to=hf://datasets/a"], "unknown scheme `hf://` in "),
        (["sources=[{paths: [.]}]", "publish.to=folder"], "`publish.to` is no URL - "),
    ],
)
def test_what_cannot_be_used_is_one_line(proxy, data, tmp_path, capsys, words, message):
    assert main(["curate", *words, f"out={tmp_path / 'run'}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "hunter2" not in lines[0]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


@pytest.mark.parametrize(
    ("package", "extra", "url"),
    [
        ("s3fs", "s3", "s3://b/x"),
        ("gcsfs", "gs", "gs://b/x"),
        ("huggingface_hub", "hf", "hf://datasets/u/n/x"),
    ],
)
def test_a_missing_package_is_one_line(package, extra, url, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["curate", f"sources=[{{paths: ['{url}']}}]", f"out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{package} cannot be imported" in error
    assert f'pip install "dinoforge[{extra}]"' in error
