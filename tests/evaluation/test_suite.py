import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluations import evaluated

from dinoforge.errors import UsageError
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.settings import (
    InputConfig,
    KnnConfig,
    LeakageConfig,
    LogisticConfig,
    SplitConfig,
)
from dinoforge.files import write_json
from dinoforge.records import read_records


@pytest.fixture(scope="module", autouse=True)
def _one_commit():
    """Someone may commit while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dinoforge.evaluation.stages.records.git_commit", lambda: "0123456789ab")
        yield


@pytest.fixture(scope="module")
def config(pictures, run_folder):
    return EvaluationConfig(
        out="",
        name="colors",
        train=[str(pictures / "bank")],
        test=[str(pictures / "test")],
        checkpoint=str(run_folder),
        device="cpu",
        knn=KnnConfig(k=[5, 20, 100]),
        logistic=LogisticConfig(c_min=1e-2, c_max=1e2, c_count=3),
        bootstrap=BootstrapConfig(resamples=200),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return folder, evaluated(config, folder)


def find(records, **wanted):
    """Records with these fields; settings by their names."""
    return [
        r for r in records if all(getattr(r, k, r.settings.get(k)) == v for k, v in wanted.items())
    ]


def test_records_are_those_in_the_file(done):
    folder, records = done
    assert read_records(folder / "records.jsonl") == records


def test_knn_of_every_model_feature_and_k(done):
    _, records = done
    knn = find(records, benchmark="knn/colors", metric="accuracy")
    assert {(r.model, r.settings["features"], r.settings["k"]) for r in knn} == {
        *(
            (model, features, k)
            for model in ("trained", "untrained")
            for features in ("cls", "patch_mean", "both")
            for k in (5, 20)
        ),
        *(("pixels", "pixels", k) for k in (5, 20)),
    }
    for record in knn:
        low, high = record.interval
        assert 0 <= low <= record.value <= high <= 1
        assert record.n == 18
        assert record.settings["bank"] == 39
        assert record.settings["k_left_out"] == [100]


def test_colors_can_be_told_apart(done):
    _, records = done
    (pixels,) = find(records, metric="accuracy", model="pixels", k=5)
    assert pixels.value > 0.9


def test_a_value_is_what_a_plain_loop_finds(done, pictures):
    """The accuracy of pixels at k = 5, from the files, by hand."""
    from dinoforge.encoders.make import make_encoder
    from dinoforge.images import decode

    def read(name):
        files = sorted((pictures / name).rglob("*.png"))
        vectors = make_encoder("pixels_centered").encode([decode(f.read_bytes()) for f in files])
        return vectors.astype(np.float64), [f.parent.name for f in files]

    (bank, classes), (queries, truth) = read("bank"), read("test")
    right = 0
    for query, true_class in zip(queries, truth, strict=True):
        cosines = bank @ query
        order = np.argsort(-cosines, kind="stable")[:5]
        votes = dict.fromkeys(sorted(set(classes)), 0.0)
        for index in order:
            votes[classes[index]] += np.exp(cosines[index] / 0.07)
        right += max(votes, key=lambda name: votes[name]) == true_class
    (record,) = find(done[1], metric="accuracy", model="pixels", k=5)
    assert record.value == right / 18


def test_differences_name_both_models(done):
    _, records = done
    result = find(records, metric="accuracy_difference", k=20)
    named = {(r.settings["model_a"], r.settings["model_b"]) for r in result}
    assert named == {("trained", "untrained"), ("trained", "pixels")}
    for record in result:
        s = record.settings
        values = [
            find(
                records,
                metric="accuracy",
                benchmark="knn/colors",
                model=s[f"model_{x}"],
                features=s[f"features_{x}"],
                k=20,
            )[0].value
            for x in "ab"
        ]
        assert record.value == pytest.approx(values[0] - values[1])
        assert record.interval[0] <= record.value <= record.interval[1]


def test_logistic_regression_is_chosen_on_held_out_images(done):
    _, records = done
    result = find(records, benchmark="logistic/colors", metric="accuracy")
    assert {r.selection for r in result} == {"val"}
    assert {r.settings["C"] for r in result} <= {0.01, 1.0, 100.0}
    assert [r.model for r in result] == ["trained"] * 3 + ["untrained"] * 3
    assert max(r.value for r in result) > 1 / 2


def test_logistic_regression_on_pixels_is_there_when_asked_for(config, tmp_path):
    asked = replace(config.logistic, pixels=True)
    records = evaluated(
        replace(config, checkpoint="", protocols=["logistic"], logistic=asked), tmp_path
    )
    assert [(r.benchmark, r.model) for r in records] == [("logistic/colors", "pixels")]
    assert records[0].value > 1 / 2


def test_signs_of_collapse_are_of_networks(done):
    _, records = done
    result = find(records, benchmark="collapse/colors")
    assert {r.model for r in result} == {"trained", "untrained"}
    assert {"rankme", "feature_std", "uniformity"} <= {r.metric for r in result}
    assert {r.n for r in result} == {18}


def test_records_state_what_they_are_of(done, run_folder):
    import hashlib

    _, records = done
    file = run_folder / "export" / "step-000000100" / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    trained = find(records, model="trained")
    assert {r.checkpoint for r in trained} == {f"step-000000100:{digest[:12]}"}
    assert {r.settings["step"] for r in trained} == {100}
    assert len({r.data for r in records}) == 1


def test_a_second_start_writes_the_same_bytes_and_extracts_nothing(done, config, monkeypatch):
    import dinoforge.evaluation.stages.features

    folder, _ = done
    first = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").unlink()
    monkeypatch.setattr(dinoforge.evaluation.stages.features, "describe", None)  # would raise
    evaluated(config, folder)
    assert (folder / "records.jsonl").read_bytes() == first


def test_another_folder_gets_the_same_bytes(done, config, tmp_path):
    evaluated(config, tmp_path)
    actual, reference = ((f / "records.jsonl").read_bytes() for f in (tmp_path, done[0]))
    assert actual == reference


def test_the_cache_may_lie_elsewhere(done, config, tmp_path):
    folder, _ = done
    entries = sorted((folder / "cache/features").iterdir())
    other = replace(config, cache=str(folder / "cache"), protocols=["knn"])
    evaluated(other, tmp_path / "first")
    assert not (tmp_path / "first/cache").exists()
    if not torch.cuda.is_available():  # the same device under another name
        evaluated(replace(other, device="auto"), tmp_path / "second")
    assert sorted((folder / "cache/features").iterdir()) == entries


def test_the_report_reads_the_records(done):
    from dinoforge.evaluation.scores import arrange, headline

    _, records = done
    scores = arrange(records)
    assert [table.benchmark for table in scores.tables] == ["knn/colors", "logistic/colors"]
    assert scores.tables[0].columns == ["5", "20"]
    assert [row.model for row in scores.tables[0].rows] == [
        *["trained"] * 3,
        *["untrained"] * 3,
        "pixels",
    ]
    head = headline(records)
    assert (head.k, [r.model for r in head.best]) == (20, ["trained", "untrained", "pixels"])
    assert [d.model_b for d in head.differences] == ["untrained", "pixels"]


def test_data_are_test_images_with_their_classes(done, config, pictures, tmp_path):
    shutil.copytree(pictures / "test", tmp_path / "moved")
    (same,) = {r.data for r in done[1]}
    few = replace(config, checkpoint="", protocols=["knn"])
    changes = {
        "moved": {"test": [str(tmp_path / "moved")]},
        "renamed": {"test_classes": {"red": "blue"}},
        "held out": {"test": []},
        "more of them": {"test": [], "split": SplitConfig(share=0.5)},
    }
    data = {}
    for number, (name, change) in enumerate(changes.items()):
        records = evaluated(replace(few, **change), tmp_path / str(number))
        (data[name],) = {r.data for r in records}
    assert data.pop("moved") == same
    assert len({same, *data.values()}) == 4


def test_all_checkpoints_give_the_curve(config, tmp_path, done):
    from dinoforge.evaluation.scores import arrange

    records = evaluated(replace(config, checkpoints="all"), tmp_path)
    more = [r for r in records if r.settings.get("step") == 50]
    assert {r.metric for r in more} == {"accuracy"}
    assert len(records) == len(done[1]) + 6  # 3 kinds of features, 2 values of k
    curve = arrange(records).checkpoints["knn/colors"]["cls"]
    assert [record.settings["step"] for record in curve] == [50, 100]


def test_images_without_labels_have_signs_of_collapse_alone(config, pictures, tmp_path, caplog):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (pictures / "bank").rglob("*.png"):
        shutil.copy(path, flat / path.name)
    with caplog.at_level(logging.INFO, logger="dinoforge.evaluation"):
        records = evaluated(
            replace(config, train=[str(flat)], test=[], checkpoints="all"), tmp_path
        )
        other = replace(config, train=[str(flat)], test=[], protocols=["depth"])
        of_others = evaluated(other, tmp_path / "depth")
    assert {r.benchmark for r in records + of_others} == {"collapse/colors"}
    assert caplog.text.count("no labels") == 2
    text = "data set colors: none of the protocols of the recipe applies; measuring knn,"
    assert caplog.text.count(text) == 1


def test_without_test_images_some_are_held_out(config, tmp_path):
    records = evaluated(replace(config, test=[], protocols=["knn"]), tmp_path)
    assert {(r.n, r.settings["bank"]) for r in find(records, metric="accuracy")} == {(8, 31)}


def test_leave_one_out_asks_every_image_and_fits_nothing(config, tmp_path, caplog):
    split = SplitConfig(mode="leave_one_out")
    records = evaluated(replace(config, test=[], split=split), tmp_path)
    knn = find(records, benchmark="knn/colors", metric="accuracy")
    assert {(r.n, r.settings["leave_one_out"]) for r in knn} == {(39, True)}
    assert {r.settings["k"] for r in knn} == {5, 20}
    assert not find(records, benchmark="logistic/colors")
    assert "logistic regression skipped" in caplog.text


def test_undecodable_images_are_counted_in_one_line(config, pictures, tmp_path, caplog):
    test = tmp_path / "test"
    shutil.copytree(pictures / "test", test)
    victim = next((test / "green").glob("*.png"))
    victim.write_bytes(victim.read_bytes()[:300])
    records = evaluated(replace(config, test=[str(test)], protocols=["knn"]), tmp_path / "out")
    assert {r.n for r in records} == {17}
    reported = [r.getMessage() for r in caplog.records if "do not decode" in r.getMessage()]
    assert reported == ["test set: 1 of 18 images do not decode and are left out"]


def test_a_class_that_the_bank_lost_is_reported(config, pictures, tmp_path, caplog):
    shutil.copytree(pictures / "bank", tmp_path / "bank")
    for file in (tmp_path / "bank/green").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    evaluated(replace(config, train=[str(tmp_path / "bank")], protocols=["knn"]), tmp_path / "out")
    text = "7 test images belong to classes of which no image of the bank decodes"
    assert text in caplog.text


def test_a_single_file_is_compared_with_the_baseline(config, run_folder, tmp_path):
    file = run_folder / "export" / "step-000000050" / "model.safetensors"
    records = evaluated(
        replace(config, checkpoint=str(file), protocols=["knn"], features=["cls"]), tmp_path
    )
    assert {r.model for r in records} == {"trained", "pixels", "trained - pixels"}
    assert all("step" not in r.settings for r in records)


def test_the_command_prints_the_records(config, pictures, run_folder, tmp_path, capsys):
    from dinoforge.cli.main import main

    code = main(
        [
            "evaluate",
            f"out={tmp_path / 'run'}",
            f"train=[{pictures / 'bank'}]",
            f"test=[{pictures / 'test'}]",
            f"checkpoint={run_folder}",
            "protocols=[knn]",
            "features=[cls]",
            "knn.k=[5]",
            "bootstrap.resamples=100",
            "--json",
        ]
    )
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["benchmark"] for row in printed} == {"knn/test"}
    assert (tmp_path / "run" / "records.jsonl").is_file()


def test_a_bank_of_one_class_has_no_logistic_regression(config, pictures, tmp_path, caplog):
    bank = tmp_path / "bank"
    shutil.copytree(pictures / "bank" / "red", bank / "red")
    records = evaluated(
        replace(config, train=[str(bank)], protocols=["knn", "logistic"]), tmp_path / "out"
    )
    assert {r.benchmark for r in records} == {"knn/colors"}
    # Five of eighteen are red; the other classes are never predicted.
    assert {r.value for r in find(records, metric="accuracy")} == {5 / 18}
    assert "logistic regression skipped: needs test images and two classes" in caplog.text


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        ({"baselines": ["pixels_centred"]}, "did you mean `pixels_centered`"),
        ({"baselines": ["mine=checkpoint:nowhere.pth"]}, "no such checkpoint"),
        ({"baselines": ["mine=checkpoint:"]}, "no file is given"),
        ({"baselines": ["hf"]}, "did you mean `hf:FOLDER`"),
        ({"baselines": ["hf:facebook/dinov2-small"]}, "no such folder.* nothing is downloaded"),
        ({"checkpoint": "nowhere.safetensors"}, "no such checkpoint"),
        ({"device": "cuda"}, "device `cuda` cannot be used"),
        ({"leakage": LeakageConfig(curation=["nowhere"])}, "no such file or folder - nowhere"),
        ({"input": InputConfig(side=3)}, "`input.side` 3 is less than a patch"),
    ],
)
def test_a_mistake_is_reported_before_any_image_is_read(config, tmp_path, changed, reported):
    if "device" in changed and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    cache = tmp_path / "cache"
    with pytest.raises(UsageError, match=reported):
        evaluated(replace(config, cache=str(cache), **changed), tmp_path)
    assert not cache.exists()


def test_a_folder_is_no_list_of_images(config, pictures, tmp_path):
    one = SetConfig(train=[str(pictures / "bank")], subsets=[str(pictures)])
    with pytest.raises(UsageError, match="missing file of a labeled subset"):
        evaluated(replace(config, sets={"few": one}), tmp_path)


def test_local_processes_write_the_same_bytes(done, config, tmp_path):
    write_json(tmp_path / "run.json", {"commit": "0123456789ab"})
    evaluated(replace(config, partition_images=16), tmp_path, on="local:2")
    actual, reference = ((f / "records.jsonl").read_bytes() for f in (tmp_path, done[0]))
    assert actual == reference
