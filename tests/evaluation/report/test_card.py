"""A model card has the numbers of its files, and names what no file records."""

import json
import re

import pytest
import yaml

from dinoforge.cli.main import main
from dinoforge.curated import summary_path
from dinoforge.evaluation.report.card import make_card
from dinoforge.exports.export import FORMATS
from dinoforge.models.config import VitConfig
from dinoforge.models.pooled.building import build_pooled
from dinoforge.models.pooled.files import save_pooled
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone
from dinoforge.records import Record, write_records
from dinoforge.steps import export_file

CONFIG = """\
out: /home/somebody/runs/birds  # command line
seed: 7
steps: 600  # recipe
batch_size: 64
data:
  paths:  # command line
  - /home/somebody/curated
model:
  width: 48  # recipe
crops:
  global_size: 64
  local_size: 32
  num_local: 4
optimizer:
  betas:  # recipe
  - 0.9
  - 0.99
"""
SUMMARY = {
    "funnel": [{"label": "images in", "count": 3423}, {"label": "kept", "count": 1323}],
    "leaks": {
        "images": 31,
        "references": {"birds|test": {"images": 716, "images_hit": 29, "hit_by": 37}},
    },
    "check": {
        "recall": {"hits": 92, "n": 117, "value": 92 / 117},
        "precision": {"hits": 72, "n": 73, "value": 72 / 73},
    },
    "remarks": ["no image of class 3 is left"],
}


def write_run(folder, command, **facts):
    folder.mkdir(parents=True)
    known = {
        "command": command,
        "commit": "0123456789ab",
        "config_hash": "f" * 64,
        "versions": {"dinoforge": "0.1.0", "torch": "2.13.0"},
        "working_folder": str(folder.parent),
        "run_folder": str(folder),
        "started": "2026-11-29T10:00:00+00:00",
        "stopped": "2026-11-29T12:30:00+00:00",
        "exit_code": 0,
    }
    (folder / "run.json").write_text(json.dumps(known | facts))
    return folder


def write_training(folder, *, step=600, **facts):
    write_run(folder, "train", **facts)
    (folder / "config.yaml").write_text(CONFIG)
    config = VitConfig(width=48, depth=2, heads=3, patch_size=8, image_size=64, registers=2)
    model = build_vit(config, seed=0)
    notes = {"step": str(step), "image_mean": "[0.4, 0.5, 0.6]", "image_std": "[0.1, 0.2, 0.3]"}
    save_backbone(export_file(folder, step), model, notes)
    return folder, sum(p.numel() for n, p in model.named_parameters() if n != "mask_token")


def record(model, value, benchmark="knn/birds", metric="accuracy", n=716, **settings):
    interval = (round(value - 0.03, 3), round(value + 0.03, 3))
    return Record(
        benchmark=benchmark,
        model=model,
        metric=metric,
        value=value,
        interval=interval,
        n=n,
        settings=settings,
    )


def difference(value, low, high):
    names = {"model_a": "trained", "model_b": "untrained", "features_a": "cls"}
    return Record(
        benchmark="knn/birds",
        model="trained - untrained",
        metric="accuracy_difference",
        value=value,
        interval=(low, high),
        n=716,
        settings=names | {"features_b": "cls", "k": 20},
    )


RECORDS = [
    record("trained", 0.8125, features="cls", k=20, step=600),
    record("trained", 0.7, features="patch_mean", k=20, step=600),
    record("untrained", 0.8, features="cls", k=20, step=0),
    difference(0.0125, -0.02, 0.045),
    record("trained", 0.41, "segmentation/streets", "mean_iou", 40, features="last block"),
    record("color and position", 0.44, "segmentation/streets", "mean_iou", 40, baseline=True),
    Record(benchmark="leakage/birds", model="m", metric="leaked_images", value=5.0, n=716),
]


@pytest.fixture
def project(tmp_path):
    curation = write_run(tmp_path / "curated", "curate")
    summary_path(curation).parent.mkdir()
    summary_path(curation).write_text(json.dumps(SUMMARY))
    training, parameters = write_training(
        tmp_path / "birds",
        parents=["curated"],
        sources={"images": 1323, "undecodable": 2, "problems": {"truncated_tar": 3}},
        attention={"device": "NVIDIA A100-SXM4-80GB"},
        ranks=8,
        parts=[{"name": "crawl", "images": 1323, "seen": 38_400, "passes": 38_400 / 1323}],
    )
    evaluation = write_run(training / "evaluation/birds/step-000000600", "evaluate")
    write_records(evaluation / "records.jsonl", RECORDS)
    return training, parameters


def split(card):
    _, front, text = card.split("---\n", maxsplit=2)
    return yaml.safe_load(front), text


def row(text, name):
    """Cells of the only row of a table with this name."""
    (line,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_every_number_is_that_of_a_file(project):
    training, parameters = project
    _, text = split(make_card(training))
    assert "Images: 1,323; undecodable and replaced: 2." in text
    assert 'Source problem "truncated tar": 3.' in text
    assert (row(text, "images in"), row(text, "kept")) == (["3,423"], ["1,323"])
    assert "Of 117 edited copies that were planted, 92 were found; 72 of 73 pairs" in text
    assert "31 images were dropped as leaks" in text
    assert row(text, r"birds\|test") == ["716", "29", "37"]
    assert "birds: 5 of 716 test images were found among the training images." in text
    assert row(text, "parameters") == [f"{parameters:,}"]
    assert row(text, "width, depth, heads") == ["48, 2, 3"]
    assert row(text, "patch") == ["8 x 8 pixels"]
    assert row(text, "register tokens") == ["2"]
    assert row(text, "positions") == ["offset, on a grid of 8 x 8 (64 pixels)"]
    assert "minus [0.4, 0.5, 0.6], divided by [0.1, 0.2, 0.3]" in row(text, "input")[0]
    assert row(text, "images seen") == [f"{600 * 64:,}"]
    assert row(text, "crawl") == ["1,323", "38,400", "29.02"]
    assert row(text, "`optimizer.betas`") == ["[0.9, 0.99]", "recipe"]
    assert row(text, "seed") == ["7"]
    assert row(text, "GPU-hours") == ["20", "measured: wall time x processes"]
    assert row(text, "energy")[0] == f"{20 * 0.4 * 1.1:.4g} kWh"
    assert row(text, "carbon")[0] == f"{20 * 0.4 * 1.1 * 0.385:.4g} kg CO2eq"
    assert "somebody" not in text  # no paths of a machine


def test_scores_and_weak_spots_are_those_of_the_records(project):
    training, _ = project
    front, text = split(make_card(training))
    assert "81.2†<br>[78.2, 84.3]" in row(text, "trained")[0]
    assert "- Chosen on the test images, therefore optimistic: knn/birds." in text
    assert "- Not clearly better than `untrained` (paired difference): knn/birds." in text
    assert "- Not better than `color and position`: segmentation/streets mean_iou." in text
    assert "- Curation: no image of class 3 is left." in text
    assert "--" not in text.partition("## Limits")[0].partition("## Evaluation")[2].replace(
        "---", ""
    )
    (model,) = front["model-index"]
    scores = {r["dataset"]["name"]: (r["task"]["type"], r["metrics"]) for r in model["results"]}
    assert scores == {
        "birds": (
            "image-classification",
            [
                {
                    "type": "accuracy",
                    "value": 0.8125,
                    "name": "accuracy (k = 20, cls, chosen on the test images)",
                }
            ],
        ),
        "streets": (
            "image-segmentation",
            [{"type": "mean_iou", "value": 0.41, "name": "mean_iou (last block)"}],
        ),
    }


def test_the_front_matter_has_what_the_author_gives(project, tmp_path, capsys):
    training, _ = project
    out = tmp_path / "README.md"
    words = ["--license", "apache-2.0", "--name", "birds-s", "--dataset", "a/b", "--out", str(out)]
    assert main(["card", str(training), *words]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    front, text = split(out.read_text())
    assert front["license"] == "apache-2.0"
    assert front["datasets"] == ["a/b"]
    assert front["model-index"][0]["name"] == "birds-s"
    assert (front["library_name"], front["pipeline_tag"]) == (
        "dinoforge",
        "image-feature-extraction",
    )
    assert text.lstrip().startswith("# birds-s\n")
    assert "[apache-2.0](https://www.apache.org/licenses/LICENSE-2.0)" in text


def test_labeled_images_are_counted_apart(tmp_path):
    sources = {"images": 1323, "labeled": 40, "undecodable": 0}
    training, _ = write_training(tmp_path / "run", sources=sources)
    assert "Images: 1,323; labeled images: 40; undecodable and replaced: 0." in make_card(training)


def test_what_is_unknown_is_not_recorded(tmp_path):
    training, _ = write_training(tmp_path / "run", step=300)
    front, text = split(make_card(training))
    assert front["license"] == "unknown"
    assert "model-index" not in front
    assert "Images: not recorded" in text
    assert "No curation is recorded." in text
    assert row(text, "device")[0] == "not recorded"
    assert row(text, "energy, carbon")[0] == "not recorded"
    assert "## Evaluation\n\nNot recorded.\n" in text
    for limit in (
        "The training has not finished: step 300 of 600.",
        "No curation is recorded: duplicates and leaks in the data were not examined.",
        "No evaluation is recorded: the features were not measured.",
    ):
        assert f"- {limit}" in text
    assert "## License\n\nNot recorded." in text


def test_a_run_that_has_exported_nothing_has_a_card(tmp_path):
    training = write_run(tmp_path / "run", "train")
    _, text = split(make_card(training))
    assert "No backbone was exported yet." in text
    assert row(text, "steps") == ["not recorded"]


def test_a_network_without_patches_is_not_described_as_a_vit(tmp_path, monkeypatch):
    training = write_run(tmp_path / "run", "train")
    (training / "config.yaml").write_text("method: paws\nsteps: 600\n")
    model = build_pooled("wrn10_1")
    model.init_weights(0)
    save_pooled(export_file(training, 600), model, model.state_dict(), {"step": "600"})
    front, text = split(make_card(training))
    assert "A network without patch tokens (wrn10_1) that maps" in text
    assert row(text, "parameters") == [f"{sum(p.numel() for p in model.parameters()):,}"]
    assert not any(word in text for word in ("| patch |", "register tokens", "dinoforge export"))
    assert "vision-transformer" not in front["tags"]
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(export_file(training, 600).parent)
    scope: dict = {}
    exec(code, scope)
    assert scope["metadata"]["step"] == "600"


def test_other_runs_can_be_named(project, tmp_path):
    training, _ = project
    other = write_run(tmp_path / "other", "evaluate")
    write_records(
        other / "records.jsonl", [record("trained", 0.5, "knn/fish", features="cls", k=20)]
    )
    unfinished = write_run(tmp_path / "unfinished", "curate")
    text = make_card(training, evaluation=other, curations=[unfinished])
    assert "knn/fish" in text
    assert "knn/birds" not in text
    assert "(unfinished, commit 0123456789ab)" in text
    assert "not recorded: the curation has not finished" in text


@pytest.mark.parametrize("measured", ["quick/training", "another"])
def test_a_quickstart_has_its_evaluation_beside_the_training(
    tmp_path, monkeypatch, capsys, measured
):
    monkeypatch.chdir(tmp_path)
    write_training(tmp_path / "quick/training")
    beside = write_run(tmp_path / "quick/evaluation", "evaluate", parents=[measured])
    write_records(beside / "records.jsonl", RECORDS)
    assert main(["card", "quick"]) == 0
    assert ("knn/birds" in capsys.readouterr().out) == (measured == "quick/training")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["curated"], "the folder holds a run of `dinoforge curate`"),
        (["nothing"], "the folder holds no run"),
        (["odd"], "the folder holds no run"),
        (["birds", "--curation", "birds"], "the folder holds no curation"),
        (["birds", "--evaluation", "curated"], "no evaluation"),
    ],
)
def test_a_wrong_folder_is_one_line(project, tmp_path, monkeypatch, capsys, words, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/run.json").write_text("[]")
    assert main(["card", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {why} - ")
    assert line.count(" - ") == 2


def test_every_format_of_the_export_is_named(project):
    training, _ = project
    (line,) = [line for line in make_card(training).splitlines() if "FORMAT is" in line]
    assert set(FORMATS) <= set(re.findall(r"\w+", line.partition("FORMAT is")[2]))


@pytest.mark.parametrize("value", ["-1", "inf", "much"])
def test_a_power_that_is_no_power_is_refused(capsys, value):
    with pytest.raises(SystemExit) as stopped:
        main(["card", "runs/x", "--pue", value])
    assert stopped.value.code == 2
    assert f"need a positive number, got {value}" in capsys.readouterr().err
