"""Any name that a file system allows works for runs, sources, checkpoints, baselines and recipes.

The names hold every printable ASCII character, line breaks, and bytes that are not UTF-8, where a
shell, YAML, OmegaConf, pyarrow, argparse or a spec of an encoder would read something else.
"""

import json
import os
import shutil
import string
from pathlib import Path

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.curated import ledger_path
from dinoforge.files import path_of_text
from dinoforge.tables import read_table

TINY = Path(__file__).parents[1] / "training/tiny.yaml"

NAMES = {
    "ascii": " " + "".join(sorted(set(string.printable[:94]) - {"/"})) + "#cls",
    "bytes": "~x:#both=%j%%{a,b}[0]*?\n\t'\"\\xe9\x1b\x7f" + os.fsdecode(b"\xe9\xff") + " ",
}


def run(capsys, *words):
    """Run the command here; returns what it printed."""
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def make_images(folder, name, count=6):
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        place = folder / ("ab"[number % 2] + name[:200])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{name[:200]}{number}.png")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_may_be_anything(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    # Out of the shell's reach `./` marks a name that begins with `~` or `-`.
    images, curated, trained, measured = (f"./{name}/{n}{name}"[:250] for n in "ictm")
    make_images(Path(images), name)
    recipe = f"./{name}/recipe{name}.yaml"
    shutil.copy(TINY, recipe)
    run(capsys, "curate", f"sources={json.dumps([{'paths': [images]}])}", f"out={curated}", "-q")
    run(capsys, "train", recipe, f"data.paths={json.dumps([curated])}", f"out={trained}", "steps=1")
    file = f"./{name}/{name}"
    shutil.copy(Path(trained) / "export/step-000000001/model.safetensors", f"{file}.safetensors")
    baselines = json.dumps(
        [f"checkpoint:{file}.safetensors#both", f"x=checkpoint:{file}.safetensors"]
    )
    words = [f"train={json.dumps([images])}", f"checkpoint={trained}", f"baselines={baselines}"]
    words += ["protocols=[knn]", "split.mode=leave_one_out", "bootstrap.resamples=100"]
    run(capsys, "evaluate", *words, f"out={measured}", f"cache=./{name}/cache", "-q")
    words = ["--encoder", f"checkpoint:{file}.safetensors#patch_mean", "--out", f"./{name}/vectors"]
    answer = json.loads(run(capsys, "embed", images, *words, "--json", "-q"))
    assert answer["num_embedded"] == 6
    assert np.load(answer["embeddings"]).shape == (6, 16)
    rows = read_table(ledger_path(Path(curated))).to_pylist()
    assert [row["decision"] for row in rows] == ["kept"] * 6
    files = {path.read_bytes() for path in Path(images).rglob("*.png")}
    assert set(pools.samples(Path(curated)).values()) == files
    page = f"./{name}/why{name}.html"
    for row in rows:
        said = run(capsys, "explain", curated, path_of_text(row["shard"]), "--html", page)
        assert "kept" in said
        assert Path(page).read_text(encoding="utf-8").count('src="data:image/') >= 1


def num_pictures(page):
    return page.read_text(encoding="utf-8").count('src="data:image/')


def test_pictures_are_found_from_any_folder_and_after_a_move(tmp_path, monkeypatch, capsys):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    make_images(project / "photos", "x")
    elsewhere.mkdir()
    monkeypatch.chdir(project)
    sources = json.dumps([{"paths": ["photos"]}])
    run(capsys, "curate", f"sources={sources}", "plant.count=2", "out=runs/curated", "-q")
    moved, alone = tmp_path / "moved", tmp_path / "alone"
    monkeypatch.chdir(elsewhere)
    assert main(["curate", f"sources={sources}", f"out={project}/runs/curated", "-q"]) == 2
    capsys.readouterr()
    counts = []
    for here, old, new, curated in (
        (project, project, project, project / "runs/curated"),
        (elsewhere, project, project, project / "runs/curated"),
        (elsewhere, project, moved, moved / "runs/curated"),  # the run and its sources
        (elsewhere, moved, project, project / "runs/curated"),
        (elsewhere, project / "runs/curated", alone, alone),  # the run
    ):
        old.rename(new)
        monkeypatch.chdir(here)
        run(capsys, "explain", curated, project / "photos/ax/x0.png", "--html", "why.html")
        run(capsys, "report", "report", "--curation", curated)
        counts.append((num_pictures(Path("why.html")), num_pictures(Path("report/report.html"))))
    assert set(counts) == {(2, 4)}, counts


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_any_name_is_printed_in_any_encoding(dinoforge, tmp_path, encoding):
    make_images(tmp_path / "images", "x", count=1)
    out = os.fsdecode(b"caf\xe9 \xe2\x82\xac\n")
    env = {"PYTHONIOENCODING": encoding}
    done = dinoforge("embed", "images", "--out", out, "-q", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "caf\\xe9 " in done.stdout
    assert ("\N{EURO SIGN}" if encoding == "utf-8" else "\\u20ac") in done.stdout
