"""`dinoforge classes`: records, the page, what is kept, and what it refuses."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.clusters.layouts import lay_out
from dinoforge.records import read_records

COLORS = {
    "red": (220, 20, 20),
    "orange": (220, 120, 20),
    "blue": (20, 20, 220),
    "cyan": (20, 160, 220),
}
TREE = "warm\tcolor\nred\twarm\norange\twarm\ncold\tcolor\nblue\tcold\ncyan\tcold\n"


@pytest.fixture
def photos(tmp_path):
    """Three images of each of four colors, one class folder each."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.array(color) + rng.integers(-15, 15, (16, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "tree.tsv").write_text(TREE)
    return tmp_path / "photos"


@pytest.fixture
def run(photos, tmp_path, capsys):
    def call(*words, taxonomy="tree.tsv"):
        flags = ["--taxonomy", str(tmp_path / taxonomy), "--out", str(tmp_path / "out")]
        few = ["--resamples", "100", "--permutations", "99", "--workers", "1"]
        code = main(["classes", str(photos), *flags, *few, "--json", "-q", *words])
        text = capsys.readouterr()
        return code, json.loads(text.out), text.err.splitlines()

    return call


def test_colors_lie_as_their_tree_does(run, tmp_path):
    code, answer, errors = run("--encoder", "raw=pixels_raw", "--encoder", "pixels")
    assert code == 0, errors
    assert (answer["num_classes"], answer["num_images"]) == (4, 12)
    assert answer["scores"]["raw"]["cophenetic"] > 0.9
    records = read_records(tmp_path / "out/records.jsonl")
    named = {(record.model, record.metric): record for record in records}
    assert len(named) == len(records) == 6
    raw = named["raw", "spearman"]
    assert raw.benchmark == "classes/photos"
    assert raw.n == 12
    assert raw.value == answer["scores"]["raw"]["spearman"]
    assert 0.01 <= raw.settings["p_value"] <= 1
    difference = named["raw", "spearman_difference"]
    assert difference.is_difference
    assert difference.value == pytest.approx(raw.value - named["pixels", "spearman"].value)
    page = (tmp_path / "out/classes.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    for name in (*COLORS, "warm", "cold"):
        assert name in page
    before = page, (tmp_path / "out/records.jsonl").read_bytes()
    assert run("--encoder", "raw=pixels_raw", "--encoder", "pixels")[0] == 0
    assert (
        (tmp_path / "out/classes.html").read_text(),
        (tmp_path / "out/records.jsonl").read_bytes(),
    ) == before


@pytest.mark.parametrize(
    ("words", "tree", "reported"),
    [
        ((), TREE.replace("cyan", "teal"), "the taxonomy lacks the class `cyan`"),
        ((), "red\tc\norange\tc\nblue\tc\ncyan\tc\n", "all classes are equally far"),
        (("--encoder", "a=pixels_raw", "--encoder", "a=pixels"), TREE, "two encoders are named a"),
        (("--layout", "spiral"), TREE, "`--layout` got 'spiral', need pca | tsne - "),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, words, tree, reported):
    (tmp_path / "other.tsv").write_text(tree)
    code, _, errors = run("--encoder", "pixels", *words, taxonomy="other.tsv")
    assert code == 2
    assert len(errors) == 1
    assert reported in errors[0]
    assert errors[0].count(" - ") >= 2


def test_too_few_classes_are_refused(run, photos):
    for path in [*(photos / "red").glob("*"), *(photos / "blue").glob("*")]:
        path.unlink()
    code, _, errors = run("--encoder", "pixels")
    assert code == 2
    assert "need images of at least 4 classes, got 2" in errors[0]


@pytest.mark.parametrize("layout", ["pca", "tsne"])
def test_a_layout_keeps_two_clusters_apart(layout):
    rng = np.random.default_rng(0)
    centers = np.repeat([[4.0, 0, 0, 0], [0, 4.0, 0, 0]], 12, axis=0)
    means = centers + 0.3 * rng.normal(size=centers.shape)
    points = lay_out(means - means.mean(axis=0), layout, 0, where="")
    assert points.shape == (24, 2)
    between = np.linalg.norm(points[:12].mean(axis=0) - points[12:].mean(axis=0))
    within = np.linalg.norm(points[:12] - points[:12].mean(axis=0), axis=1).mean()
    assert between > 2 * within
