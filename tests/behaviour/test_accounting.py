"""Every command accounts for what its sources hold: rows, or problems by reason."""

import csv
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import crawled_sets as crawls
import numpy as np
import object_store
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.records import Record, read_records, write_records
from dinoforge.remote.store import open_store
from dinoforge.runs import read_facts

TINY = Path(__file__).parent.parent / "training/tiny.yaml"


def jpeg(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def tar_bytes(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            data = b"1" if name.endswith("cls") else jpeg(sum(name.encode()))
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photos"
    (folder / "cat").mkdir(parents=True)
    for number in range(4):
        (folder / f"cat/{number}.jpg").write_bytes(jpeg(number))
    (folder / "cat/broken.jpg").write_bytes(b"text")
    (folder / "notes.txt").write_bytes(b"text")
    os.mkfifo(folder / "pipe.jpg")
    cut = tar_bytes([f"c.{number}.jpg" for number in range(6)])
    (folder / "cut.tar").write_bytes(cut[: cut.index(b"c.4.jpg") + 700])
    (folder / "two.tar").write_bytes(tar_bytes(["0.jpg", "1.jpg"]) + tar_bytes(["0.jpg"]))
    crawls.write_crawl(folder / "crawl", crawls.url_list(8), "webdataset")
    return folder


# 5 files, 4 images of the cut tar, 3 of the appended ones, 5 of a download of 8
FAILED = {"failed_to_download": 2, "failed_to_resize": 1}
NEVER = "3 never downloaded (2 failed_to_download, 1 failed_to_resize)"
ACCOUNT = {
    "images": 17,
    "undecodable": 1,
    "not_downloaded": FAILED,
    "problems": {
        "appended_tar": 1,
        "duplicate_key": 1,
        "not_regular": 1,
        "other_file": 1,
        "own_output": 1,
        "truncated": 1,
    },
}
COMMANDS = {
    "curate": ["sources=[{{role: pool, paths: [{source}]}}]", "out={out}"],
    "train": [
        str(TINY),
        "data.paths=['{source}']",
        "data.num_workers=0",
        "batch_size=17",
        "steps=1",
        "data.max_bad_share=1",
        "out={out}",
    ],
    "evaluate": ["train=[{source}]", "out={out}", "protocols=[knn]", "knn.k=[1]"],
    "embed": ["{source}", "--out", "{out}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_the_account_of_its_sources(source, command, capsys):
    out = source / "run"  # inside the source: its own output is no input
    words = [word.format(source=source, out=out) for word in COMMANDS[command]]
    for _ in range(2):
        assert main([command, *words, "-q"]) == 0
        screen = capsys.readouterr().err
        assert f"{source}/cut.tar is incomplete: truncated (" in screen
        assert f"17 images read, {NEVER}; problems: 1 appended_tar" in screen
        if command == "embed":  # it has no run folder before it starts
            assert "own_output" in screen
        recorded = read_facts(out)["sources"]
        incomplete = {(entry["reason"], entry["member"]) for entry in recorded.pop("incomplete")}
        assert incomplete == {("truncated", "c.4.jpg"), ("not_regular", "")}
        assert f"{source}/pipe.jpg was not read: not_regular (" in screen
        assert recorded == ACCOUNT
        assert "1 undecodable" in screen  # also of a training without a step left
    log = "".join(path.read_text() for path in (out / "log").iterdir())
    assert "is incomplete: truncated" in log
    if command != "curate":  # which has a table of them
        rows = read_csv(out / "problems.csv")
        counts = ACCOUNT["problems"] | {"undecodable": 1}
        assert Counter(row["reason"] for row in rows) == counts
        named = {row["reason"]: row["shard"] for row in rows}
        assert named["other_file"] == f"{source}/notes.txt"
        assert named["undecodable"] == f"{source}/cat/broken.jpg"
    if command == "evaluate":
        counts = ACCOUNT["problems"] | {"undecodable": 1} | FAILED
        assert {json.dumps(r.problems) for r in read_records(out / "records.jsonl")} == {
            json.dumps(counts, sort_keys=True)
        }
    if command == "curate":
        summary = json.loads((out / "published/summary.json").read_text())
        funnel = {row["label"]: row["count"] for row in summary["funnel"]}
        lost = sum(count for label, count in funnel.items() if label.startswith("no image"))
        assert funnel["entries of the sources"] - lost == funnel["images in"] == 17
        assert lost == 7


@pytest.mark.parametrize(
    ("command", "layout"),
    [*((one, "webdataset") for one in ("train", "embed", "shard")), ("evaluate", "files")],
)
def test_downloads_that_failed_are_counted_beside_urls(proxy, tmp_path, capsys, command, layout):
    crawls.write_crawl(tmp_path / "crawl", crawls.url_list(8), layout)
    bucket = f"{command}-{layout}"
    open_store("s3://any").mkdir(bucket)
    object_store.copy_folder(tmp_path / "crawl", f"s3://{bucket}")
    given = COMMANDS | {"shard": ["{source}", "out={out}"]}
    given["evaluate"] = ["train=['{source}']", *COMMANDS["evaluate"][1:]]
    words = [word.format(source=f"s3://{bucket}", out=tmp_path / "run") for word in given[command]]
    for _ in range(2):  # of a finished run, or from the listing that was kept
        assert main([command, *words]) == 0
        assert f"5 images read, {NEVER}; no problems" in capsys.readouterr().err
        assert read_facts(tmp_path / "run")["sources"]["not_downloaded"] == FAILED
    if command == "shard":
        summary = json.loads((tmp_path / "run/published/summary.json").read_text())
        assert (summary["samples"], summary["not_downloaded"]) == (5, FAILED)
        page = (tmp_path / "run/shards.html").read_text()
        assert "Never downloaded: failed to download" in page


@pytest.mark.parametrize(
    ("command", "more", "why", "undecodable"),
    [
        ("embed", [], "none of the 4 images can be decoded", 4),
        ("evaluate", [], "no labels", 0),
        ("evaluate", ["protocols=[collapse]"], "none of the 4 images", 4),
        ("train", [], "none of the 4 images decodes", 4),
        ("train", ["data.num_workers=1"], "none of the 4 images decodes", 4),
        ("curate", [], "none of the 4 images decodes", 4),
    ],
)
def test_a_command_that_fails_has_an_account_too(tmp_path, capsys, command, more, why, undecodable):
    names = [f"{number}.jpg" for number in range(6)]
    cut = tar_bytes(names).replace(b"\xff\xd8\xff", b"\0\0\0")
    (tmp_path / "cut.tar").write_bytes(cut[: cut.index(b"4.jpg") + 700])
    words = [w.format(source=tmp_path / "cut.tar", out=tmp_path / "run") for w in COMMANDS[command]]
    assert main([command, *words, *more]) == 2
    screen = capsys.readouterr().err
    assert why in screen
    assert "cut.tar is incomplete: truncated" in screen
    recorded = read_facts(tmp_path / "run")["sources"]
    assert (recorded["images"], recorded["undecodable"]) == (4, undecodable)
    assert recorded["problems"] == {"truncated": 1}
    if command != "curate":
        rows = read_csv(tmp_path / "run/problems.csv")
        assert Counter(row["reason"] for row in rows) == Counter(
            truncated=1, undecodable=undecodable
        )
        assert {row["shard"] for row in rows} == {str(tmp_path / "cut.tar")}


@pytest.mark.parametrize("on", ["in-process", "local:1"])
def test_a_curation_that_stops_early_has_an_account_too(tmp_path, capsys, on):
    cut = tar_bytes([f"{number}.jpg" for number in range(6)])
    cut = cut.replace(b"\xff\xd8\xff", b"\0\0\0", 3)
    (tmp_path / "cut.tar").write_bytes(cut[: cut.index(b"4.jpg") + 700])
    words = [f"sources=[{{paths: [{tmp_path}/cut.tar]}}]", f"out={tmp_path}/run", "--on", on]
    assert main(["curate", *words]) == 2
    screen = capsys.readouterr().err
    assert "3 of 4 images do not decode (3 not_an_image)" in screen
    assert "cut.tar is incomplete: truncated" in screen
    recorded = read_facts(tmp_path / "run")["sources"]
    assert (recorded["images"], recorded["undecodable"]) == (4, 3)
    rename = words[0].replace("cut.tar]", "cut.tar], classes: {cat: dog}")
    assert main(["curate", rename, *words[1:], "--update"]) == 2
    screen = capsys.readouterr().err
    assert "sources[0].classes" in screen
    assert "cut.tar is incomplete: truncated" in screen
    recorded = read_facts(tmp_path / "run")["sources"]
    assert (recorded["images"], recorded["undecodable"]) == (4, 0)
    assert recorded["problems"] == {"truncated": 1}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_run_folder_is_refused_as_a_source(source, command, capsys):
    words = [word.format(source=source, out=source) for word in COMMANDS[command]]
    before = sorted(source.rglob("*"))
    assert main([command, *words]) == 2
    assert "error: the run folder is also a source - " in capsys.readouterr().err
    assert sorted(source.rglob("*")) == before


def test_what_is_not_selected_is_counted(source, tmp_path, capsys):
    pool = f"{{role: pool, paths: [{source}], keys: 'cat/*', limit: 2}}"
    assert main(["curate", f"sources=[{pool}]", f"out={tmp_path}/run"]) == 0
    words = capsys.readouterr().out.split()
    assert "2" in words
    summary = json.loads((tmp_path / "run/published/summary.json").read_text())
    assert (summary["images"], summary["not_selected"]) == (2, 15)


def test_records_without_problems_are_written_as_before(tmp_path):
    clean = Record(benchmark="knn", model="pixels", metric="accuracy", value=1.0)
    assert "problems" not in clean.as_json()
    noted = Record(
        benchmark="knn", model="pixels", metric="x", value=1.0, problems={"truncated": 2}
    )
    write_records(tmp_path / "records.jsonl", [clean, noted])
    assert read_records(tmp_path / "records.jsonl") == [clean, noted]
