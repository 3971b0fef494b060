"""The whole path through the command: what a newcomer sees, in small and (slow) as it is."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from quickstarts import run_small

from dinoforge.cli.main import main

pytestmark = pytest.mark.timeout(400)  # the quickstart is made by the first that needs it


def report_of(out):
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_it_ends_with_counts_scores_times_and_the_path_of_the_report(small_quickstart):
    out, printed = small_quickstart
    for word in ("images in", "dropped: near duplicate", "kept", "trained", "untrained", "pixels"):
        assert word in printed
    assert "95 % interval" in printed
    assert "where the time went" in printed
    assert printed.strip().endswith(str(out / "report.html"))


def test_the_report_carries_every_record_in_the_agreed_form(small_quickstart):
    report = report_of(small_quickstart[0])
    knn = [r for r in report["records"] if r["benchmark"].startswith("knn")]
    accuracies = [r for r in knn if r["metric"] == "accuracy"]
    assert {r["model"] for r in accuracies} >= {"trained", "untrained", "pixels"}
    for record in accuracies:
        assert {"k", "features"} <= record["settings"].keys()
        low, high = record["interval"]
        assert 0 <= low <= record["value"] <= high <= 1
    differences = [r for r in knn if r["metric"] != "accuracy"]
    assert any(
        (r["settings"]["model_a"], r["settings"]["model_b"]) == ("trained", "untrained")
        for r in differences
    )


def test_the_report_asks_the_network_for_nothing(small_quickstart):
    html = (small_quickstart[0] / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", html)
    assert "url(http" not in html
    assert "@import" not in html


def test_started_again_it_does_nothing_twice_and_states_the_same(small_quickstart):
    out, _ = small_quickstart
    names = ["evaluation/records.jsonl", "training/metrics.jsonl", "report.json"]
    before = [(out / name).read_bytes() for name in names[:2]]
    run_small(out, [])
    assert [(out / name).read_bytes() for name in names[:2]] == before
    assert report_of(out)["curation"] is not None


def own_pictures(folder, *, classes, count=60):
    """Write pictures with some structure, in two class folders or none."""
    draw = np.random.default_rng(0)
    for number in range(count):
        kind = number % 2
        y, x = np.mgrid[0:96, 0:128] / (8 + 12 * kind)
        wave = np.sin(x * (1 + kind) + draw.uniform(0, 6)) + np.cos(y + draw.uniform(0, 6))
        pixels = (
            127 + 60 * wave[..., None] * draw.uniform(0.4, 1, 3) + draw.normal(0, 8, (96, 128, 3))
        )
        place = folder / (f"kind{kind}" if classes else ".")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number:03d}.jpg")
    return folder


def test_own_pictures_in_class_folders_have_an_accuracy(tmp_path):
    images = own_pictures(tmp_path / "photos", classes=True)
    out, printed = run_small(tmp_path / "run", ["--images", str(images)])
    assert "k-NN accuracy" in printed
    funnel = report_of(out)["curation"]["funnel"]
    assert funnel["images"] == 60 + 12  # planted copies of a fifth


def test_own_pictures_without_classes_and_with_seeds_give_a_report_too(tmp_path):
    images = own_pictures(tmp_path / "photos", classes=False)
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for name in ("000.jpg", "002.jpg", "004.jpg"):
        (images / name).rename(seeds / name)
    out, printed = run_small(tmp_path / "run", ["--images", str(images), "--seeds", str(seeds)])
    assert "no labels" in printed
    assert "of these: seed" in printed
    assert report_of(out)["records"]


@pytest.mark.parametrize(
    ("count", "classes", "planted", "left_out"),
    [
        (
            12,
            False,
            2,
            [
                "planted 2 of 24 copies (plant.count): pool images 12, plant.max_share 0.2",
                "no k-NN: it needs labeled images that decode",
                "no logistic regression: it needs a network, two classes, separate test images",
            ],
        ),
        (
            12,
            True,
            2,
            [
                "planted 2 of 24 copies (plant.count): pool images 12, plant.max_share 0.2",
                "no k-NN with k = 20, 100, 200: the size of the bank is 12",
                "no logistic regression: it needs a network, two classes, separate test images",
            ],
        ),
        (
            1,
            False,
            1,
            [
                "planted 1 of 24 copies (plant.count): pool images 1, plant.max_share 0.2",
                "no evaluation: signs of collapse need 2 images, got 1, and other protocols need "
                "labels",
            ],
        ),
    ],
    ids=["twelve", "twelve in classes", "one"],
)
def test_few_pictures_end_with_a_report_of_what_was_left_out(
    tmp_path, count, classes, planted, left_out
):
    images = own_pictures(tmp_path / "photos", classes=classes, count=count)
    out, printed = run_small(tmp_path / "run", ["--images", str(images)])
    report = report_of(out)
    assert report["curation"]["funnel"]["planted"] == planted
    assert report["left_out"] == left_out
    assert all(text in " ".join(printed.split()) for text in left_out)
    page = (out / "report.html").read_text()
    assert ">nan" not in page.lower()
    assert "no values" not in page


def test_pictures_that_are_all_dropped_end_with_a_report_of_the_curation(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / f"photos/{number}.png")
    out, printed = run_small(tmp_path / "run", ["--images", str(tmp_path / "photos"), "--json"])
    assert json.loads(printed)["left_out"] == [
        "planted 1 of 24 copies (plant.count): pool images 3, plant.max_share 0.2",
        "no image was kept, of 4: flat 4 (filter.min_std)",
        "no training and no evaluation: no image was kept",
    ]
    assert report_of(out)["training"] is None
    assert "0 were kept" in (out / "report.html").read_text()


def test_a_missing_folder_is_reported_in_one_line(tmp_path, capsys):
    missing = tmp_path / "nowhere"
    assert main(["quickstart", "--images", str(missing), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert str(missing) in error[0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_as_it_is_learns_more_than_an_untrained_network_knows(tmp_path):
    pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    assert main(["quickstart", "--out", str(tmp_path / "run"), "-q"]) == 0
    report = report_of(tmp_path / "run")
    headline = report["headline"]
    learned = [d for d in headline["differences"] if d["model_b"] == "untrained"]
    assert headline["k"] == 20
    assert len(learned) == 1
    assert learned[0]["record"]["interval"][0] > 0
    check = json.loads((tmp_path / "run/curation/published/summary.json").read_text())["check"]
    assert check["recall_by_edit"]["exact"]["value"] == 1.0
