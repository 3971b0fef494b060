import pytest

from dinoforge.config import load_config
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig, named_sets, protocols_for, step_of


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
    words = [load(f"checkpoints={text}").checkpoints for text in ("latest", "all", "5000")]
    assert [step_of(word) for word in words] == [None, None, 5000]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("out: o\ntrain: [bank]\ncheckpoint: c\ncheckpoints: 5000\n")
    assert step_of(load_config(EvaluationConfig, recipe).checkpoints) == 5000


def test_nothing_to_measure_is_a_fault():
    with pytest.raises(UsageError, match="nothing to measure"):
        load("checkpoint=", "baselines=[]")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [(["name=mine"], "mine"), (["test=[data/cifar10-test.tar.gz]"], "cifar10-test"), ([], "bank")],
)
def test_data_are_named_after_the_test_images(overrides, name):
    assert list(named_sets(load(*overrides))) == [name]


def test_data_sets_by_name_start_at_the_root():
    config = load(
        "train=[]",
        "data.root=/data/",
        "sets.pets={train: [pets/train], test: [/elsewhere/pets], protocols: [knn]}",
        "sets.cars={train: [cars]}",
    )
    sets = named_sets(config)
    assert {name: (one.train, one.test) for name, one in sets.items()} == {
        "pets": (["/data/pets/train"], ["/elsewhere/pets"]),
        "cars": (["/data/cars"], []),
    }
    assert protocols_for(config, "pets") == ["knn"]
    assert protocols_for(config, "cars") == ["knn", "logistic", "collapse"]


def test_images_below_a_root_in_a_bucket():
    config = load("train=[]", "data.root=s3://b/data", "sets.a={train: [x], test: [/y]}")
    assert (named_sets(config)["a"].train, named_sets(config)["a"].test) == (
        ["s3://b/data/x"],
        ["/y"],
    )


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["train=[]"], "`train` is empty"),
        (["sets.bank={train: [other]}"], "`bank` is in `sets` and the name of `train`"),
        (["sets.a/b={train: [other]}"], "`sets` holds 'a/b'"),
        (["checkpoint=", "positions=size"], "`positions` without `checkpoint`"),
        (["sets.a={test: [other]}"], "`sets.a.train` is empty"),
        (["sets.a={train: [other], test_classes: {x: y}}"], "`sets.a.test_classes` without `test`"),
        (["sets.a={train: [other], protocols: [knm]}"], "`sets.a.protocols` holds 'knm'"),
        (["sets.a={layout: imagenet, root: 's3://b/x'}"], "`sets.a.root` is in a bucket"),
        (["sets.a={layout: dtd, root: x}", "data.root=s3://b"], "`sets.a.root` is in a bucket"),
        (
            ["sets.a={layout: imagenet, root: x, tests: {v2: 's3://b/x'}}"],
            "`sets.a.tests` is in a bucket - command line - copy it",
        ),
        (["sets.a={train: [x], subsets: ['gs://b/x']}"], "`sets.a.subsets` is in a bucket"),
        (["data.root=ftp://b"], "unknown scheme `ftp://` in `data.root`"),
    ],
)
def test_data_sets_that_cannot_be_measured(overrides, what):
    with pytest.raises(UsageError, match=what):
        load(*overrides)
