"""Commands on data in a bucket, with failing requests, give what they give on the same files."""

import json
import random
import time
from pathlib import Path

import numpy as np
import object_store
import pool as pools
import pytest
import safetensors.numpy
from shard_sets import picture

from dinoforge.cli.main import main
from dinoforge.curated import UPLOADED
from dinoforge.remote.store import list_objects, open_store, read_object
from dinoforge.steps import exported_steps
from dinoforge.tables import read_table

TINY = Path(__file__).parents[1] / "training/tiny.yaml"
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def places(proxy, tmp_path_factory):
    """Folders with images in class folders and with shards of them; where both are in a bucket."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(24):
        path = folder / f"images/{NAMES[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, side=32))
        path.with_suffix(".txt").write_text(f"caption {number}")
    words = [f"out={folder / 'sharded'}", "shard_images=7"]
    assert main(["shard", str(folder / "images"), *words]) == 0
    open_store("s3://urls").mkdir("urls")
    for name, here in {"images": "images", "shards": "sharded/shards"}.items():
        object_store.copy_folder(folder / here, f"s3://urls/{name}")
    local = {"images": str(folder / "images"), "shards": str(folder / "sharded/shards")}
    return local, {name: f"s3://urls/{name}" for name in local}


@pytest.fixture
def faulty(proxy, monkeypatch):
    from dinoforge.remote import store

    monkeypatch.setattr(store, "FIRST_WAIT_S", 0.001)
    proxy.requests.clear()
    proxy.faults.clear()
    proxy.share = 0.1
    yield proxy
    proxy.share = 0.0


def listings(proxy):
    return [line for line in proxy.requests if "list-type=2" in line]


def check_requests(proxy, lists):
    """Each bucket is listed once, apart from requests that failed."""
    assert proxy.faults
    assert lists <= len(listings(proxy)) <= lists + len(proxy.faults)


def run_both(places, tmp_path, command):
    """Run a command on files and on URLs; returns the two folders."""
    for where, place in zip(("local", "remote"), places, strict=True):
        assert main(command(place, tmp_path / where)) == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert object_store.SECRET.encode() not in content
            assert object_store.ACCESS.encode() not in content
    return tmp_path / "local", tmp_path / "remote"


@pytest.mark.parametrize(("source", "order"), [("images", "listed"), ("shards", "random")])
def test_shards_from_a_bucket_are_those_from_files(places, faulty, tmp_path, source, order):
    def command(place, out):
        words = [f"order={order}", "shard_images=10", "seed=1"]
        return ["shard", place[source], *words, f"out={out}"]

    local, remote = run_both(places, tmp_path, command)
    check_requests(faulty, 1)
    names = sorted(path.name for path in (local / "shards").iterdir())
    assert names == sorted(path.name for path in (remote / "shards").iterdir())
    assert "shard-000002.tar" in names
    for name in names:
        if not name.endswith(".parquet"):  # it names the sources
            assert (local / "shards" / name).read_bytes() == (remote / "shards" / name).read_bytes()


def test_a_root_in_a_bucket(places, tmp_path):
    words = ["data.root=s3://urls", "sources=[images/cat]", f"out={tmp_path / 'run'}"]
    assert main(["shard", *words]) == 0
    table = read_table(tmp_path / "run/shards/shard-000000.parquet")
    assert table.num_rows == 12
    assert set(table["extensions"].to_pylist()[0]) == {"jpg", "txt"}


def test_embeddings_of_a_bucket(places, faulty, tmp_path):
    def command(place, out):
        return ["embed", place["images"], place["shards"], "--batch-size", "16", "--out", str(out)]

    local, remote = (np.load(out / "embeddings.npy") for out in run_both(places, tmp_path, command))
    check_requests(faulty, 2)
    assert np.array_equal(local, remote)
    assert len(local) == 48


def test_an_evaluation_of_a_bucket(places, faulty, tmp_path):
    def command(place, out):
        sets = json.dumps({"animals": {"train": [place["images"]], "test": [place["shards"]]}})
        words = ["train=[]", "checkpoint=", "baselines=[pixels]", "protocols=[knn]", "knn.k=[5]"]
        return ["evaluate", "cifar10_cpu", f"sets={sets}", *words, f"out={out}"]

    local, remote = run_both(places, tmp_path, command)
    check_requests(faulty, 2)
    values = [
        [
            [one.get(name) for name in ("benchmark", "data", "metric", "value", "problems")]
            for one in map(json.loads, (out / "records.jsonl").read_text().splitlines())
        ]
        for out in (local, remote)
    ]
    assert values[0] == values[1]
    assert values[0]


def test_a_training_on_shards_in_a_bucket(places, faulty, tmp_path):
    def command(place, out):
        return ["train", str(TINY), f"data.paths=['{place['shards']}']", "steps=2", f"out={out}"]

    local, remote = run_both(places, tmp_path, command)
    check_requests(faulty, 1)
    weights = [safetensors.numpy.load_file(exported_steps(out)[2]) for out in (local, remote)]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    # Another start reads what was listed: it asks for images alone.
    faulty.requests.clear()
    words = command(places[1], remote)
    assert main([*words[:-2], "steps=3", words[-1], "--update"]) == 0
    assert not listings(faulty)


def kill_at(words, run, has_begun):
    """Kill a command as soon as a file of its run, or an object, is there; it must still run."""
    process = pools.kill.start(words, run)
    while not has_begun():
        assert process.poll() is None
        time.sleep(0.005)
    pools.kill.kill(process, random.Random(0))


def test_a_killed_training_on_shards_in_a_bucket_resumes_to_the_same_bytes(places, proxy, tmp_path):
    words = ["train", str(TINY), f"data.paths=['{places[1]['shards']}']", "steps=9"]
    assert main([*words, f"out={tmp_path / 'calm'}"]) == 0
    run = tmp_path / "killed"
    kill_at(words, run, lambda: any((run / "checkpoints").glob("step-*/manifest.json")))
    assert 9 not in exported_steps(run)
    proxy.requests.clear()
    assert main([*words, f"out={run}"]) == 0
    assert not listings(proxy)
    assert pools.kill.state(run) == pools.kill.state(tmp_path / "calm")


def test_killed_shards_from_and_to_a_bucket_are_those_of_an_undisturbed_run(
    places, proxy, tmp_path
):
    words = ["shard", places[1]["images"], "order=random", "shard_images=2"]
    assert main([*words, f"out={tmp_path / 'calm'}", "publish.to=s3://urls/calm"]) == 0
    run, to = tmp_path / "killed", "s3://urls/killed"
    kill_at(words, run, lambda: any((run / "shards").glob("*.tar")))
    words.append(f"publish.to={to}")
    kill_at(words, run, lambda: any(one.url.endswith(".tar") for one in list_objects(to)))
    assert f"{to}/{UPLOADED}" not in {one.url for one in list_objects(to)}
    assert main([*words, f"out={run}"]) == 0
    assert pools.differences(tmp_path / "calm", run) == []
    objects = [
        {one.url.removeprefix(at): read_object(one.url) for one in list_objects(at)}
        for at in ("s3://urls/calm", to)
    ]
    assert objects[0] == objects[1]
    assert sum(name.endswith(".tar") for name in objects[1]) == 12
    # What was published is a source.
    assert main(["shard", to, f"out={tmp_path / 'again'}", "shard_images=24"]) == 0
    assert read_table(tmp_path / "again/shards/shard-000000.parquet").num_rows == 24


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shard", "s3://none/x"], "no such bucket - s3://none - "),
        (["shard", "s3://refused/x"], "access refused (403) - s3://refused - "),
        (["shard", "s3://k:hunter2@b/x"], "the URL in `sources` holds credentials"),
        (["embed", "s3://urls/none", "--out"], "no such object or folder - s3://urls/none - "),
        (["embed", "s3://k:hunter2@b/x", "--out"], "the URL in `IMAGES` holds credentials"),
        (["train", str(TINY), "data.paths=['s3://none/x']"], "no such bucket - s3://none - "),
        (["train", str(TINY), "data.paths=['gs:///x']"], "without a bucket in `data.paths`"),
        (["evaluate", "cifar10_cpu", "train=['s3://none/x']"], "no such bucket - s3://none - "),
        (["evaluate", "cifar10_cpu", "train=['ftp://h/x']"], "unknown scheme `ftp://` in `train`"),
    ],
)
def test_what_cannot_be_used_is_one_line(places, tmp_path, capsys, words, message):
    out = str(tmp_path / "run")
    words = [*words, "checkpoint=", "baselines=[pixels]"] if words[0] == "evaluate" else words
    assert main([*words, out if words[-1] == "--out" else f"out={out}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "hunter2" not in lines[0]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()
