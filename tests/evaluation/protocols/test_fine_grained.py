"""Fine-grained sets and sets of several labels per image, in miniature, by their own metrics."""

from pathlib import Path

import numpy as np
import pytest
from classified_sets import write_multi_label, write_pets, write_textures, write_voc2007
from evaluations import evaluated
from sklearn.metrics import average_precision_score, roc_auc_score

from dinoforge.cli.main import main
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import LAYOUTS, BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.layouts.classified import read_multi_label
from dinoforge.evaluation.layouts.fine_grained import FINE_GRAINED
from dinoforge.evaluation.settings import KnnConfig, LinearConfig, LogisticConfig
from dinoforge.evaluation.suite import STAGES
from dinoforge.evaluation.tables import read_features, read_items
from dinoforge.stages import make_inputs

WRITE = {
    "pets": write_pets,
    "dtd": write_textures,
    "voc2007": write_voc2007,
    "multi_label": write_multi_label,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return EvaluationConfig(
        sets={
            name: SetConfig(layout=name, root=str(write(root / name)))
            for name, write in WRITE.items()
        },
        baselines=["means=python:evaluations:mean_colors", "pixels_centered"],
        protocols=["knn", "linear", "logistic"],
        device="cpu",
        knn=KnnConfig(k=[1]),
        linear=LinearConfig(rates=[0.1], epochs=1, epoch_steps=100, batch_size=40),
        logistic=LogisticConfig(c_min=10, c_max=1e4, c_count=3, pixels=True),
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, evaluated(config, folder)


def of(done, benchmark, metric, model="means"):
    (record,) = (
        r for r in done[1] if (r.benchmark, r.metric, r.model) == (benchmark, metric, model)
    )
    return record


def test_the_mean_over_classes_weighs_images_by_their_class(done):
    record = of(done, "knn/pets", "mean_per_class")
    # Of the three images of one of 37 classes, two are wrong.
    assert record.value == pytest.approx((36 + 1 / 3) / 37)
    assert (record.n, record.settings["classes"]) == (39, 37)
    low, high = record.interval
    assert low < record.value <= high <= 1


def test_the_published_val_chooses(done):
    assert of(done, "knn/dtd", "accuracy").value == 1.0
    linear = of(done, "linear/dtd", "accuracy")
    assert (linear.settings["bank"], linear.n) == (94, 47)
    logistic = of(done, "logistic/dtd", "accuracy")
    assert (logistic.selection, logistic.settings["bank"]) == ("val", 94)


@pytest.mark.parametrize(("name", "metric"), [("voc2007", "map_11"), ("multi_label", "map")])
def test_several_labels_are_scored_one_by_one(done, name, metric):
    record = of(done, f"logistic/{name}", metric)
    assert record.settings["labels"] == 3
    each = [value for value in record.settings["per_label"] if value is not None]
    assert record.value == pytest.approx(np.mean(each))
    assert 0.8 < record.value <= 1
    assert record.interval[0] <= record.value <= record.interval[1]
    assert of(done, f"logistic/{name}", "auroc").value > 0.8
    assert not [r for r in done[1] if r.benchmark in {f"knn/{name}", f"linear/{name}"}]


def test_scikit_learn_agrees_on_several_labels(config, done):
    from dinoforge.evaluation.logistic import choose_and_fit_labels
    from dinoforge.evaluation.metrics.classification import average_precision

    inputs = make_inputs("evaluation", STAGES, done[0], config)
    at = list(WRITE).index("multi_label")
    items, vectors = read_items(inputs, at), read_features(inputs, 0, at).vectors["vectors"]
    root = Path(config.sets["multi_label"].root)
    train, test = (read_multi_label(root, split, "abc").targets for split in ("train", "test"))
    chosen = choose_and_fit_labels(
        vectors[items.bank], train, average_precision, config=config.logistic, seed=0
    )
    scores = chosen.scores(vectors[items.test])
    expected = {"map": average_precision_score(test, scores), "auroc": roc_auc_score(test, scores)}
    for metric, value in expected.items():
        assert of(done, "logistic/multi_label", metric).value == pytest.approx(value)


def test_every_layout_of_a_fine_grained_set_can_be_named():
    assert set(LAYOUTS) >= {name for name, known in FINE_GRAINED.items() if known.read}


def test_a_label_beyond_the_list_is_one_line_and_exit_code_2(config, tmp_path, capsys):
    write_multi_label(tmp_path / "set")
    with (tmp_path / "set/test.csv").open("a") as file:
        file.write("test/0.png,d\n")
    sets = f"sets={{x: {{layout: multi_label, root: {tmp_path / 'set'}}}}}"
    words = [f"out={tmp_path / 'run'}", sets, "baselines=[means=python:evaluations:mean_colors]"]
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "`d`, a label of test/0.png, is none of the 3 of train - " in error


def test_a_wrong_layout_names_the_first_missing_file(tmp_path):
    config = EvaluationConfig(
        sets={"x": SetConfig(layout="voc2007", root=str(tmp_path))}, baselines=["pixels_centered"]
    )
    with pytest.raises(UsageError, match=r"missing file of VOC2007 - .*aeroplane_train\.txt"):
        evaluated(config, tmp_path / "run")
