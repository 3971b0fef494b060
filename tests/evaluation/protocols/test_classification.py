"""Linear probes and few-shot k-NN of the suite, on features that it has extracted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_sets import COLORS
from classified_sets import color_picture, write_files
from evaluations import evaluated, mean_colors

from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.methods.low_shot import center_rows, draw_few, few_shot_knn, msn_low_shot
from dinoforge.evaluation.methods.views import cut_view, random_views
from dinoforge.evaluation.settings import (
    ChoiceConfig,
    FewShotConfig,
    KnnConfig,
    LinearConfig,
    LowShotConfig,
    SplitConfig,
    dino_v1,
)
from dinoforge.evaluation.suite import STAGES
from dinoforge.evaluation.tables import read_digests, read_features, read_items
from dinoforge.sources.image_set import ImageSet
from dinoforge.stages import make_inputs


@pytest.fixture(scope="module")
def config(pictures, run_folder):
    return EvaluationConfig(
        name="colors",
        train=[str(pictures / "bank")],
        test=[str(pictures / "test")],
        checkpoint=str(run_folder),
        baselines=["means=python:evaluations:mean_colors", "pixels_centered"],
        protocols=["linear", "linear_v1", "few_shot", "low_shot", "soft_nn"],
        device="cpu",
        few_shot=FewShotConfig(per_class=[1, 5], tries=3),
        linear=LinearConfig(rates=[1e-3, 0.1], epochs=1, epoch_steps=30, batch_size=32),
        linear_v1=replace(dino_v1(blocks=1, epochs=3), batch_size=8, seeds=[0, 1]),
        low_shot=LowShotConfig(per_class=[2], splits=3),
        bootstrap=BootstrapConfig(resamples=100),
    )


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classification")
    return folder, evaluated(config, folder)


def of(records, benchmark, model):
    return [
        r
        for r in records
        if (r.benchmark, r.model, r.metric) == (f"{benchmark}/colors", model, "accuracy")
    ]


def test_one_head_of_the_grid_is_kept_for_every_network(done):
    _, records = done
    assert {r.model for r in records if r.benchmark == "linear/colors"} == {
        *("trained", "untrained", "means", "trained - untrained", "trained - means")
    }
    (trained,), (means,) = (of(records, "linear", name) for name in ("trained", "means"))
    assert (trained.selection, trained.n) == ("val", 18)
    # One block is all that there is: 2 rates, with and without the mean of the patches.
    assert (trained.settings["heads"], means.settings["heads"]) == (4, 2)
    assert trained.settings["features"] in {"1 cls", "1 cls + patch_mean"}
    assert "5-fold cross-validation" in trained.settings["chosen_on"]
    assert trained.settings["training"] == "cached features"
    assert means.value > 0.8


def test_the_published_choice_is_called_a_peek(config, tmp_path):
    paper = replace(
        config, checkpoint="", protocols=["linear"], linear_choice=ChoiceConfig(select="paper")
    )
    (record,) = evaluated(paper, tmp_path)
    assert record.selection == "test-peek"


def test_few_shot_accuracy_is_the_mean_over_draws(done, config):
    folder, records = done
    (one,) = of(records, "few_shot_1", "means")
    assert {r.settings["k"] for r in of(records, "few_shot_5", "means")} == {5}
    assert (one.settings["bank"], one.settings["tries"], one.settings["k"]) == (3, 3, 1)
    inputs = make_inputs("evaluation", STAGES, folder, config)
    items, vectors = read_items(inputs, 0), read_features(inputs, 2, 0).vectors["vectors"]
    labels = items.labels[items.bank]
    draws = [draw_few(labels, 1, seed) for seed in range(3)]
    bank, test = vectors[items.bank], vectors[items.test]
    predicted = few_shot_knn(bank, labels, test, draws, ks=[1], temperature=0.07)[1]
    each = (predicted == items.labels[items.test]).mean(axis=1)
    assert one.value == pytest.approx(each.mean())
    assert one.settings["deviation"] == pytest.approx(np.std(each, ddof=1))
    assert one.interval[0] <= one.value <= one.interval[1]


def test_soft_neighbors_are_all_labeled_images(done, config):
    folder, records = done
    (record,) = of(records, "soft_nn", "means")
    inputs = make_inputs("evaluation", STAGES, folder, config)
    items, vectors = read_items(inputs, 0), read_features(inputs, 2, 0).vectors["vectors"]
    bank, test = (unit_rows(vectors[rows]) for rows in (items.bank, items.test))
    weights = np.exp(test.astype(np.float64) @ bank.T / 0.1)
    votes = weights @ np.eye(3)[items.labels[items.bank]]
    assert record.value == (votes.argmax(axis=1) == items.labels[items.test]).mean()
    assert record.settings["bank"] == len(items.bank)


def test_soft_neighbors_of_lists_are_their_images(config, pictures, tmp_path):
    folders = sorted(path for path in (pictures / "bank").iterdir() if path.is_dir())
    lists = [str(tmp_path / f"{number}.txt") for number in range(2)]
    for number, file in enumerate(lists):
        chosen = [sorted(folder.iterdir())[number::2][:2] for folder in folders]
        Path(file).write_text("\n".join(image.name for images in chosen for image in images))
    one = SetConfig(train=config.train, test=config.test, subsets=lists, protocols=["soft_nn"])
    changed = {"checkpoint": "", "train": [], "test": [], "sets": {"colors": one}}
    records = evaluated(replace(config, **changed), tmp_path / "run")
    (record,) = of(records, "soft_nn_2", "means")
    assert (record.settings["lists"], record.settings["bank"]) == (2, 2 * len(folders))


def test_low_shot_accuracy_is_the_mean_over_splits(done, config):
    folder, records = done
    (record,) = of(records, "low_shot_2", "means")
    inputs = make_inputs("evaluation", STAGES, folder, config)
    items, vectors = read_items(inputs, 0), read_features(inputs, 2, 0).vectors["vectors"]
    bank, labels, test = vectors[items.bank], items.labels[items.bank], vectors[items.test]
    fits = msn_low_shot(bank, labels, [draw_few(labels, 2, seed) for seed in range(3)])
    each = [(f.predict(center_rows(test)) == items.labels[items.test]).mean() for f in fits]
    assert record.value == pytest.approx(np.mean(each))
    assert record.settings["deviation"] == pytest.approx(np.std(each, ddof=1))
    assert (record.settings["splits"], record.settings["bank"]) == (3, 6)


def test_the_protocol_of_dino_chooses_an_epoch_with_every_seed(done):
    _, records = done
    (trained,) = of(records, "linear_v1", "trained")
    assert (trained.settings["seeds"], trained.settings["heads"]) == (2, 1)
    assert len(trained.settings["epoch"]) == 2
    assert set(trained.settings["epoch"]) <= {1, 2, 3}
    assert trained.settings["deviation"] >= 0
    assert trained.selection == "val"


def test_unit_rows_are_scaled_to_the_norm_that_the_rates_are_for(done, config):
    from dinoforge.evaluation.features import Rows
    from dinoforge.evaluation.protocols.linear import _slots

    rows = np.array([[0.6, 0.8, 0.0, 0.0]], np.float32)
    slots = _slots(Rows({"vectors": rows}, np.zeros(1, np.int64)))
    np.testing.assert_allclose(np.linalg.norm(slots, axis=2), [[2.0]])


def test_heads_may_be_trained_on_augmented_views(config, tmp_path, pictures):
    views = replace(config.linear, views=2)
    changed = replace(config, checkpoint="", protocols=["linear"], linear=views)
    (record,) = evaluated(changed, tmp_path)
    assert record.settings["training"] == "2 augmented views"
    assert record.value > 0.8
    inputs = make_inputs("evaluation", STAGES, tmp_path, changed)
    items, digests = read_items(inputs, 0), read_digests(inputs, 0)
    view = read_features(inputs, 0, 0, 1).vectors["vectors"]
    images = ImageSet(items.table.take(items.bank), config.decode)
    draws = random_views(digests[items.bank], 1)
    for row in (0, 20):
        expected = mean_colors([cut_view(images.decode(row), draws[row])])[0]
        np.testing.assert_allclose(view[row], expected / np.linalg.norm(expected), rtol=1e-5)
    assert len(view) == 39


def test_a_set_without_test_images_may_leave_one_out(config, tmp_path, pictures):
    inside = replace(
        config,
        **{"checkpoint": "", "train": [], "test": [], "protocols": ["knn", "few_shot"]},
        sets={"inside": SetConfig(train=[str(pictures / "bank")])},
        split=SplitConfig(mode="leave_one_out"),
        knn=KnnConfig(k=[3]),
    )
    records = [r for r in evaluated(inside, tmp_path) if r.model == "means"]
    (record,) = records  # few-shot needs test images of its own
    assert (record.benchmark, record.n) == ("knn/inside", 39)
    assert record.settings["leave_one_out"]


def test_wrong_labels_are_suspected_if_no_model_is_above_chance(config, tmp_path, caplog):
    for number in range(80):
        name = f"{('x', 'y')[number % 2]}/{number:02d}.png"
        shown = color_picture(COLORS[(number // 2) % 2], number)  # the class does not show
        write_files(tmp_path, {f"{('bank', 'test')[number < 40]}/{name}": shown})
    paths = {"train": [str(tmp_path / "bank")], "test": [str(tmp_path / "test")]}
    changed = replace(config, **paths, checkpoint="", protocols=["knn"], knn=KnnConfig(k=[5]))
    records = evaluated(changed, tmp_path / "run")
    assert {r.settings["chance"] for r in records} == {0.5}
    assert "every model is near chance, 0.5: check the labels" in caplog.text


def test_a_choice_of_images_is_the_same_wherever_they_are(config, tmp_path, pictures):
    some = SetConfig(
        train=[str(pictures / "bank")], test=[str(pictures / "test")], max_images=[20, 9]
    )
    few = replace(config, checkpoint="", train=[], test=[], protocols=["knn"], knn=KnnConfig(k=[3]))
    records = evaluated(replace(few, sets={"some": some}), tmp_path)
    assert {(r.n, r.settings["bank"]) for r in records} == {(9, 20)}


def test_features_on_disk_may_take_half_the_room(config, tmp_path):
    half = replace(config, checkpoint="", protocols=["linear"], storage="float16")
    evaluated(half, tmp_path)
    dtypes = {np.load(path).dtype for path in tmp_path.rglob("*.vectors.npy")}
    assert dtypes == {np.dtype("float16")}
