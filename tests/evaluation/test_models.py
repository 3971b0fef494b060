import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.models import Model, find_models


def names(models):
    return [(m.name, m.step, m.is_newest) for m in models]


def test_a_run_gives_its_newest_and_its_first_backbone(run_folder):
    models = find_models(EvaluationConfig(checkpoint=str(run_folder)))
    assert names(models) == [("trained", 100, True), ("untrained", 0, True), ("pixels", None, True)]
    assert models[0].file == run_folder / "export" / "step-000000100" / "model.safetensors"
    assert models[0].features == ("cls", "patch_mean", "both")
    assert models[2].features == ("pixels",)


def test_all_checkpoints_come_after_what_is_compared(run_folder):
    models = find_models(EvaluationConfig(checkpoint=str(run_folder), checkpoints="all"))
    assert names(models)[-1] == ("trained", 50, False)
    assert len(models) == 4


def test_a_step_is_measured_as_if_it_were_the_newest(run_folder):
    models = find_models(EvaluationConfig(checkpoint=str(run_folder), checkpoints=50))
    assert names(models) == [("trained", 50, True), ("untrained", 0, True), ("pixels", None, True)]


def test_a_step_that_is_not_exported_is_refused_and_those_that_are_named(run_folder):
    for step in (75, 150):
        config = EvaluationConfig(checkpoint=str(run_folder), checkpoints=step)
        with pytest.raises(UsageError, match=f"step {step} is not exported - .* - .* 50, 100$"):
            find_models(config)


def test_a_step_needs_a_run(run_folder):
    file = run_folder / "export" / "step-000000050" / "model.safetensors"
    with pytest.raises(UsageError, match="is not a training run"):
        find_models(EvaluationConfig(checkpoint=str(file), checkpoints=50))


def test_a_file_is_the_trained_model(run_folder):
    file = run_folder / "export" / "step-000000050" / "model.safetensors"
    (model,) = find_models(EvaluationConfig(checkpoint=str(file), baselines=[]))
    assert (model.name, model.step, model.file) == ("trained", None, file)


def test_features_keep_the_order_of_the_report(run_folder):
    config = EvaluationConfig(checkpoint=str(run_folder), features=["both", "cls"])
    assert find_models(config)[0].features == ("cls", "both")


def test_baselines_have_names_that_reports_know():
    config = EvaluationConfig(
        baselines=["pixels_centered", "pixels_raw", "mobilenetv2", "mine=checkpoint:a.pth#cls"]
    )
    models = find_models(config)
    assert [m.name for m in models] == ["pixels", "pixels_less_mean", "mobilenetv2", "mine"]
    assert [m.subtracts_mean for m in models] == [False, True, False, False]
    assert models[3].features == ("cls",)
    assert str(models[3].file) == "a.pth"


def test_the_mode_of_positions_belongs_to_its_file(run_folder):
    path = run_folder / "export" / "step-000000050" / "model.safetensors"
    baselines = ["a=checkpoint:a.pth#size", "b=checkpoint:b.pth#size_antialias,cls"]
    config = EvaluationConfig(checkpoint=str(path), positions="offset", baselines=baselines)
    models = find_models(config)
    assert [m.positions for m in models] == ["offset", "size", "size_antialias"]
    assert models[2].features == ("cls",)
    assert Model.from_json(models[1].as_json()) == models[1]


def test_two_models_of_one_name_or_of_none_are_refused():
    with pytest.raises(UsageError, match="two models are named pixels"):
        find_models(EvaluationConfig(baselines=["pixels_centered", "pixels=pixels_raw"]))
    with pytest.raises(UsageError, match="a model has no name - `baselines` - write NAME=ENCODER"):
        find_models(EvaluationConfig(baselines=["=pixels_raw"]))


def test_a_run_without_a_trained_backbone_is_refused(tmp_path):
    (tmp_path / "export" / "step-000000000").mkdir(parents=True)
    (tmp_path / "export" / "step-000000000" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="has not exported a trained backbone"):
        find_models(EvaluationConfig(checkpoint=str(tmp_path)))


def test_a_hash_or_an_equals_sign_in_a_path_belongs_to_it():
    config = EvaluationConfig(
        baselines=[
            *("checkpoint:a#1/b=c.pth", "checkpoint:a#1/b.pth#both", "x=checkpoint:y=z#cls#both"),
            "checkpoint:b#patches",
        ]
    )
    every = ("cls", "patch_mean", "both")
    assert [(m.name, str(m.file), m.features) for m in find_models(config)] == [
        ("checkpoint:a#1/b=c.pth", "a#1/b=c.pth", every),
        ("checkpoint:a#1/b.pth#both", "a#1/b.pth", ("both",)),
        ("x", "y=z#cls", ("both",)),
        ("checkpoint:b#patches", "b#patches", every),
    ]


def test_a_file_whose_name_ends_like_an_option_is_a_checkpoint(tmp_path):
    path = tmp_path / "weights#cls"
    (model,) = find_models(EvaluationConfig(checkpoint=str(path), baselines=[]))
    assert (model.file, model.features) == (path, ("cls", "patch_mean", "both"))
