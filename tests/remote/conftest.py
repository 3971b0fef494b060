"""One S3 server and one proxy for all tests here; each test has a bucket of its own."""

import itertools
import os

import object_store
import pytest

_numbers = itertools.count()


@pytest.fixture(scope="module")
def proxy():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with object_store.s3_server() as port, object_store.FaultyProxy(port).running() as proxy:
        before = dict(os.environ)
        os.environ.update(object_store.environment(proxy.port))
        yield proxy
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def store(proxy, monkeypatch):
    """The file system of S3; nothing fails until ``proxy.share`` is set."""
    import s3fs

    from dinoforge.remote import store as requests

    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.001)
    s3fs.S3FileSystem.clear_instance_cache()  # of another server
    proxy.share = 0.0
    yield requests.open_store("s3://any")
    proxy.share = 0.0


@pytest.fixture
def bucket(proxy, store):
    name = f"bucket-{next(_numbers)}"
    store.mkdir(name)
    proxy.requests.clear()
    proxy.faults.clear()
    return f"s3://{name}"
