"""One S3 server for all tests; each test here has a bucket of its own."""

import itertools

import pytest

_numbers = itertools.count()


@pytest.fixture
def store(proxy, monkeypatch):
    """The file system of S3; nothing fails until ``proxy.share`` is set."""
    from dinoforge.remote import store as requests

    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.001)
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
