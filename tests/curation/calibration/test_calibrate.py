"""Calibrations of a finished curation: pairs, answers that survive kills, a threshold to reuse."""

import csv
import http.client
import json
import shutil
import threading

import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.curated import ledger_path
from dinoforge.curation.calibration.calibration import Calibration
from dinoforge.curation.calibration.labels import Labels
from dinoforge.curation.calibration.server import PairServer
from dinoforge.tables import read_table

FLOOR, THRESHOLD = 0.6, 0.8


@pytest.fixture(scope="module")
def curated(pool, tmp_path_factory):
    """A curation with a low floor, so that it has many pairs."""
    out = tmp_path_factory.mktemp("curated") / "run"
    more = (f"duplicates.floor={FLOOR}", f"duplicates.threshold={THRESHOLD}")
    pools.curated(pools.recipe(pool.sources, out, *more, "retrieve.mode=none"))
    return out


@pytest.fixture
def run(curated, tmp_path):
    return shutil.copytree(curated, tmp_path / "run")


def label(path, limit):
    """Label a CSV: the same above a similarity."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        row["label"] = "same" if float(row["similarity"]) > limit else "different"
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return rows


def calibrated(run, tmp_path, limit=0.9, *words):
    path = tmp_path / "labels.csv"
    options = ["--bins", "8", "--per-bin", "6", *words]
    assert main(["calibrate", str(run), "--export", str(path), *options, "-q"]) == 0
    rows = label(path, limit)
    assert main(["calibrate", str(run), "--import", str(path), *options, "-q"]) == 0
    return rows, json.loads((run / "calibration.json").read_text())


def test_labels_of_a_file_give_the_threshold_that_separates_them(run, tmp_path):
    rows, result = calibrated(run, tmp_path)
    assert len(rows) == result["sampled"] == result["labeled"] > 20
    assert result["threshold"] == 0.9
    above = next(one for one in result["thresholds"] if one["threshold"] == 0.9)
    assert (above["precision"], above["recall"]) == (1.0, 1.0)
    for one in result["bins"]:
        inside = [r for r in rows if one["low"] < float(r["similarity"]) <= one["high"]]
        assert len(inside) == min(6, one["pairs"])


def test_planted_copies_are_not_shown(run, tmp_path):
    rows, _ = calibrated(run, tmp_path)
    planted = read_table(ledger_path(run), ["planted_from"]).column(0).to_pylist()
    assert any(origin is not None for origin in planted)
    assert all(planted[int(row[end])] is None for row in rows for end in "ij")


def test_the_same_seed_draws_the_same_pairs_and_another_one_others(run, tmp_path):
    first, _ = calibrated(run, tmp_path, 0.9, "--per-bin", "2")
    again, _ = calibrated(run, tmp_path, 0.9, "--per-bin", "2", "--fresh")
    other, _ = calibrated(run, tmp_path, 0.9, "--per-bin", "2", "--fresh", "--seed", "1")
    ids = [[(row["i"], row["j"]) for row in rows] for rows in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_a_recipe_takes_the_calibrated_threshold(run, pool, tmp_path):
    calibrated(run, tmp_path)
    sources = json.dumps([{"role": "pool", "paths": [str(pool.folder / "seeds")]}])
    out = tmp_path / "other"
    words = ["curate", f"sources={sources}", f"duplicates.calibrated={run}", f"out={out}", "-q"]
    assert main(words) == 0
    assert "threshold: 0.9\n" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["duplicates.encoder=pixels_centered"], "calibrated for the encoder pixels"),
        (["decode.range=[0,4095]"], "calibrated with other keys of `decode`"),
        (["duplicates.floor=0.95"], "`duplicates.threshold` is 0.9"),
    ],
)
def test_another_encoder_decoder_or_floor_is_refused(run, tmp_path, capsys, words, message):
    calibrated(run, tmp_path)
    given = ["curate", "sources=[{paths: [x]}]", f"duplicates.calibrated={run}", *words]
    capsys.readouterr()
    assert main([*given, "duplicates.threshold=0.99", f"out={tmp_path / 'o'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_a_run_without_calibration_or_without_a_threshold_is_refused(run, tmp_path, capsys):
    given = ["curate", "sources=[{paths: [x]}]", f"duplicates.calibrated={run}", "out=o"]
    assert main(given) == 2
    assert "no calibration" in capsys.readouterr().err
    calibrated(run, tmp_path, 2.0)
    assert main(given) == 2
    assert "no threshold reaches a precision of 0.99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,1,same", "was not drawn"),
        ("x,1,same", "without the numbers"),
        ("0,1,yes", "label `yes`"),
    ],
)
def test_a_bad_row_changes_nothing(run, tmp_path, capsys, row, message):
    path = tmp_path / "labels.csv"
    path.write_text(f"i,j,label\n{row}\n")
    assert main(["calibrate", str(run), "--import", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (run / "calibration/labels.jsonl").exists()


def test_pairs_that_have_changed_are_not_mixed_with_old_answers(run, pool, tmp_path, capsys):
    calibrated(run, tmp_path)
    more = ("duplicates.floor=0.7", f"duplicates.threshold={THRESHOLD}", "retrieve.mode=none")
    pools.curated(pools.recipe(pool.sources, run, *more), on_change="update")
    assert main(["calibrate", str(run), "--export", str(tmp_path / "x.csv")]) == 2
    assert "the pairs of the run have changed" in capsys.readouterr().err


def test_a_kill_in_the_middle_of_a_line_loses_only_that_answer(tmp_path):
    path = tmp_path / "labels.jsonl"
    labels = Labels(path)
    labels.set((1, 2), "same")
    labels.set((3, 4), "different")
    labels.set((1, 2), None)
    with path.open("a") as file:
        file.write('{"i": 5, "j"')
    again = Labels(path)
    assert again.answers == {(3, 4): "different"}
    again.set((5, 6), "same")
    assert Labels(path).answers == {(3, 4): "different", (5, 6): "same"}


def ask(url, method, path, body=None, host=None):
    port, token = url.split(":")[2].split("/")[:2]
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    connection.request(method, path.replace("TOKEN", token), body, {"Host": host} if host else {})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


@pytest.fixture
def page(run):
    """An open calibration and the address of its page."""
    calibration = Calibration.open(run, target=0.99, bins=4, per_bin=3)
    with PairServer(calibration) as server:
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield run, server.url
        server.stop()
        thread.join()
    calibration.close()


def test_the_page_takes_answers_and_each_is_on_the_disk_at_once(page):
    run, url = page
    status, html = ask(url, "GET", "/TOKEN/")
    assert status == 200
    assert b"connect-src 'self'" in html
    assert b"http://" not in html
    status, data = ask(url, "GET", "/TOKEN/pair/0")
    pictures = json.loads(data)["pictures"]
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    for number, answer in ((0, "same"), (1, "different"), (1, None)):
        status, data = ask(url, "POST", f"/TOKEN/answer/{number}", json.dumps({"answer": answer}))
        assert status == 200
        assert json.loads(data)["answers"][number] == answer
        lines = (run / "calibration/labels.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["label"] == answer
        written = json.loads((run / "calibration.json").read_text())
        assert written["labeled"] == (2 if answer == "different" else 1)


def test_nobody_without_the_address_reads_or_answers(page):
    _, url = page
    assert ask(url, "GET", "/")[0] == 404
    assert ask(url, "GET", "/guess/state")[0] == 404
    assert ask(url, "GET", "/TOKEN/state", host="evil.example:80")[0] == 404
    assert ask(url, "POST", "/TOKEN/answer/0", '{"answer": "x"}')[0] == 400
    assert ask(url, "POST", "/TOKEN/answer/99999", '{"answer": "same"}')[0] == 404
    assert ask(url, "POST", "/TOKEN/answer/0", "no json")[0] == 400


def test_two_at_a_time_are_refused(page, capsys):
    run, _ = page
    assert main(["calibrate", str(run), "--export", str(run / "x.csv")]) == 2
    assert "is being calibrated" in capsys.readouterr().err
