"""Every scheme against a server on loopback: what is read is what is in the files."""

import os

import hub_server
import object_store
import pytest
from shard_sets import picture, run_shard, samples_of, write_tar

from dinoforge.cli.main import main
from dinoforge.errors import UsageError
from dinoforge.remote import store as requests
from dinoforge.remote.store import find_object, list_objects, read_object, read_range
from dinoforge.remote.upload import upload_files
from dinoforge.remote.urls import bucket_of
from dinoforge.shards.index import index_shard

TOKEN = "hf_tokenthatnofilemayhold"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tar, and images in two class folders."""
    folder = tmp_path_factory.mktemp("stores")
    write_tar(folder / "in/tars/a b.tar", samples_of(0, 5))
    for number, name in enumerate(("cat", "dog", "cat")):
        path = folder / f"in/{name}/{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(number + 50))
    return folder


@pytest.fixture(scope="module")
def gs(folder):
    gcsfs = pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    with (
        object_store.gs_server() as port,
        object_store.FaultyProxy(port).running() as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("NO_GCE_CHECK", "true")  # no search for credentials in the network
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.port}")
        patch.setenv("NO_PROXY", "127.0.0.1")
        gcsfs.GCSFileSystem.clear_instance_cache()
        object_store.copy_folder(folder, "gs://data")
        yield "gs://data/in", proxy
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def hf(folder):
    hub = pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")
    with hub_server.HubServer(folder).running() as server, pytest.MonkeyPatch.context() as patch:
        # What HF_ENDPOINT does when the package is imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("NO_PROXY", "127.0.0.1")
        hub.HfFileSystem.clear_instance_cache()
        yield f"hf://{hub_server.REPOSITORY}/in", server
        hub.HfFileSystem.clear_instance_cache()


@pytest.fixture(params=["gs", "hf", "file"])
def place(request, folder):
    """The URL of the folder in a store, and its server."""
    if request.param == "file":
        return f"file://{folder}/in", None
    url, server = request.getfixturevalue(request.param)
    server.requests.clear()
    return url, server


def test_shards_of_any_store_are_those_of_files(place, folder, tmp_path):
    url, server = place
    runs = {"local": str(folder / "in"), "remote": url}
    for name, source in runs.items():
        run_shard(tmp_path / name, f"sources=['{source}']", "shard_images=3")
    names = sorted(path.name for path in (tmp_path / "local/shards").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "remote/shards").iterdir())
    for name in names:
        if not name.endswith(".parquet"):  # it names the sources
            content = (tmp_path / "local/shards" / name).read_bytes()
            assert (tmp_path / "remote/shards" / name).read_bytes() == content
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    if server is not None:
        listings = [one for one in server.requests if "/tree/" in one or "/o?" in one]
        assert len(listings) == 1


@pytest.mark.parametrize("place", ["gs", "hf"], indirect=True)
def test_a_range_is_one_request(place, folder):
    url, server = place
    content = (folder / "in/tars/a b.tar").read_bytes()
    read_range(f"{url}/tars/a b.tar", 0, 1)
    server.requests.clear()
    assert read_range(f"{url}/tars/a b.tar", 700, 30) == content[700:730]
    assert read_range(f"{url}/tars/a b.tar", 700, 1 << 20, at_least=1) == content[700:]
    assert find_object(f"{url}/tars/a b.tar").size == len(content)
    assert find_object(f"{url}/tars/none") is None
    assert len(server.requests) == 4
    with pytest.raises(FileNotFoundError):
        read_range(f"{url}/tars/none", 0, 10)
    assert len(index_shard(f"{url}/tars/a b.tar").images) == 5


@pytest.mark.parametrize("place", ["gs", "hf"], indirect=True)
def test_a_pattern(place, tmp_path, capsys):
    words = [f"{place[0]}/{{dog,cat}}/*.jpg", f"out={tmp_path / 'run'}", "--json"]
    assert main(["shard", *words]) == 0
    assert '"samples": 3' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("store", "url", "message"),
    [
        ("gs", "gs://none/x", "no such bucket - gs://none - "),
        ("gs", "gs://refused/x", "access refused (403) - gs://refused - "),
        ("gs", "gs://data/none", "no such object or folder - gs://data/none - "),
        ("hf", "hf://datasets/user/none/x", "no such repository, or it is private - "),
        ("hf", f"hf://{hub_server.PRIVATE}/x", "check its name, and HF_TOKEN"),
        ("hf", f"hf://{hub_server.REPOSITORY}/none", "no such object or folder - "),
        ("", "file://host/x", "names another machine"),
        ("", "file:///none/x", "no such file or folder - /none/x"),
    ],
)
def test_what_cannot_be_used_is_one_line(store, url, message, request, tmp_path, capsys):
    if store:
        request.getfixturevalue(store)
    assert main(["shard", url, f"out={tmp_path / 'run'}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_requests_to_google_that_fail_are_sent_again(gs, folder, monkeypatch):
    url, proxy = gs
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.001)
    content = (folder / "in/tars/a b.tar").read_bytes()
    proxy.faults.clear()
    proxy.share = 0.4
    try:
        for start in range(0, 2000, 200):
            assert read_range(f"{url}/tars/a b.tar", start, 200) == content[start : start + 200]
        assert len(list_objects(url)) == 4
    finally:
        proxy.share = 0.0
    assert proxy.faults


def test_an_upload_to_google(gs, folder):
    paths = {f"shards/{path.name}": path for path in (folder / "in/tars").iterdir()}
    marker = "published/uploaded.json"
    assert upload_files(paths, "gs://data/out", marker).sent == 1
    assert upload_files(paths, "gs://data/out", marker).present == 1
    assert b"a b.tar" in read_object(f"gs://data/out/{marker}")


def test_a_repository_is_a_bucket():
    assert bucket_of("hf://datasets/user/name/a/b") == "hf://datasets/user/name"
    assert bucket_of("hf://user/model/a") == "hf://user/model"
    assert bucket_of("s3://bucket/a/b") == "s3://bucket"


def test_a_store_of_the_hub_that_always_fails_is_an_error(hf, monkeypatch):
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.0001)
    monkeypatch.setattr(hub_server.HubServer, "is_broken", True)
    with pytest.raises(UsageError, match="the store fails after 10 attempts") as error:
        read_range(f"{hf[0]}/tars/a b.tar", 0, 10)
    assert TOKEN not in str(error.value)
    assert os.environ["HF_TOKEN"] == TOKEN
