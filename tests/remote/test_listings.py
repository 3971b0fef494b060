"""Listings are made once: tables hold them."""

import numpy as np
import pytest
from PIL import Image

from dinoforge.curation.config import CurationConfig, SourceConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.errors import UsageError
from dinoforge.remote.listings import find_objects_once, list_once, listings_folder
from dinoforge.remote.store import delete_object, object_key
from dinoforge.sources.discover import discover_files, fingerprint_sources
from dinoforge.stages import make_executor
from dinoforge.stages.pipeline import run_stages


def listings_in(requests):
    return [line for line in requests if "list-type=2" in line]


@pytest.fixture
def pictures(store, bucket, tmp_path):
    """Images, one without a suffix, in two class folders with a list of classes."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    names = {"cat/1.png": data, "dog/2": data, "classes.txt": b"cat\ndog\n"}
    for name, content in names.items():
        store.pipe_file(object_key(f"{bucket}/in/{name}"), content)
    return f"{bucket}/in"


def test_a_bucket_is_listed_once(proxy, pictures, tmp_path):
    first = list_once(pictures, tmp_path)
    assert len(listings_in(proxy.requests)) == 1
    proxy.requests.clear()
    assert list_once(pictures, tmp_path) == first
    assert not proxy.requests
    assert [one.url.removeprefix(f"{pictures}/") for one in first] == [
        *("cat/1.png", "classes.txt", "dog/2")
    ]
    assert all(one.size and one.version for one in first)


def test_to_list_again_the_table_is_removed(pictures, tmp_path):
    before = fingerprint_sources([pictures], tmp_path)
    delete_object(f"{pictures}/cat/1.png")
    assert fingerprint_sources([pictures], tmp_path) == before
    (table,) = tmp_path.glob("*.parquet")
    table.unlink()
    assert fingerprint_sources([pictures], tmp_path) != before


def test_all_stages_of_a_curation_list_a_bucket_once(proxy, pictures, tmp_path):
    config = CurationConfig(out=str(tmp_path), sources=[SourceConfig(paths=[pictures])])
    for last in (1, 2, 3):  # each gate of a cluster plans all stages from the first one
        run_stages("curation", STAGES[:last], tmp_path, config, make_executor("in-process"))
    assert len(listings_in(proxy.requests)) == 1
    assert any("classes.txt" in line for line in proxy.requests)


def test_what_is_only_planned_keeps_nothing(proxy, pictures, tmp_path):
    assert listings_folder(tmp_path / "none") is None
    for _ in range(2):
        assert len(discover_files([pictures]).items) == 2
    assert len(listings_in(proxy.requests)) == 2
    assert not list(tmp_path.rglob("*.parquet"))


def test_objects_of_a_list_are_looked_up_once(proxy, pictures, tmp_path):
    urls = [f"{pictures}/{name}" for name in ("cat/1.png", "none", "dog/2")]
    by_url = find_objects_once(urls, tmp_path, "list.csv")
    assert list(by_url) == [urls[0], urls[2]]
    assert not listings_in(proxy.requests)
    proxy.requests.clear()
    assert find_objects_once(urls, tmp_path, "list.csv") == by_url
    assert not proxy.requests


def test_a_failed_listing_is_not_kept(store, tmp_path):
    for _ in range(2):
        with pytest.raises(UsageError, match="no such bucket"):
            list_once("s3://none/x", tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
