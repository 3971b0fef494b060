import pytest

from dinoforge.config import load_config
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig


def load(*overrides):
    return load_config(
        EvaluationConfig, None, ["out=o", "train=[bank]", "checkpoint=c", *overrides]
    )


def test_defaults_are_the_published_protocols():
    config = load()
    assert config.knn.k == [10, 20, 100, 200]
    assert config.knn.temperature == 0.07
    assert config.baselines == ["pixels_centered"]
    assert (config.logistic.c_min, config.logistic.c_max, config.logistic.c_count) == (
        1e-6,
        1e5,
        45,
    )


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("features=[cls,patches]", "features"),
        ("protocols=[]", "protocols"),
        ("knn.k=[]", "knn.k"),
        ("knn.k=[0]", "knn.k"),
        ("knn.temperature=0", "knn.temperature"),
        ("logistic.c_min=0", "logistic.c_min"),
        ("logistic.c_count=0", "logistic.c_count"),
        ("logistic.held_out=1", "logistic.held_out"),
        ("logistic.patience=-1", "logistic.patience"),
        ("bootstrap.resamples=10", "bootstrap.resamples"),
        ("collapse.max_images=1", "collapse.max_images"),
        ("split.share=0", "split.share"),
        ("batch_size=-1", "batch_size"),
        ("name=a/b", "name"),
        ("train=[]", "train"),
        ("checkpoints=newest", "checkpoints"),
        ("checkpoints=0", "checkpoints"),
        ("checkpoints=-50", "checkpoints"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(override, key):
    with pytest.raises(UsageError, match=f"`{key}`") as caught:
        load(override)
    assert len(caught.value.faults) == 1


def test_checkpoints_are_a_word_or_a_step(tmp_path):
    assert [load(f"checkpoints={text}").step for text in ("latest", "all", "5000")] == [
        None,
        None,
        5000,
    ]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("out: o\ntrain: [bank]\ncheckpoint: c\ncheckpoints: 5000\n")
    assert load_config(EvaluationConfig, recipe).step == 5000


def test_nothing_to_measure_is_a_fault():
    with pytest.raises(UsageError, match="nothing to measure"):
        load("checkpoint=", "baselines=[]")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [(["name=mine"], "mine"), (["test=[data/cifar10-test.tar.gz]"], "cifar10-test"), ([], "bank")],
)
def test_data_are_named_after_the_test_images(overrides, name):
    assert load(*overrides).data_name == name
