"""Which images the feature maps show, and that there is a map of each by every model."""

import numpy as np
import pytest

from dinoforge.evaluation.report.facts import Sources
from dinoforge.evaluation.report.ledger import read_ledger
from dinoforge.evaluation.report.maps import make_feature_maps


@pytest.fixture(scope="module")
def ledger(project):
    return read_ledger(project["curation"])


@pytest.fixture(scope="module")
def maps(project, ledger, tmp_path_factory):
    return make_feature_maps(Sources(**project), ledger, tmp_path_factory.mktemp("cache"))


def without(project, **changed):
    return Sources(**{**project, **changed})


def test_there_is_a_map_of_every_image_by_the_untrained_and_the_trained_model(maps):
    assert maps.origin == "kept images"
    assert len(maps.keys) == len(set(maps.keys)) == len(maps.pictures) == 6
    assert list(maps.models) == ["untrained", "trained"]
    for model in maps.models.values():
        assert model.colors.shape == (6, 16, 16, 3)
        assert model.attention.shape == (6, 16, 16)
        assert model.heads.shape == (6, 3, 16, 16)


def test_the_two_models_see_different_things(maps):
    untrained, trained = (model.attention[0].astype(int) for model in maps.models.values())
    assert np.abs(untrained - trained).mean() > 5


def test_kept_images_are_shown_of_every_class(maps, ledger):
    rows = [int(np.flatnonzero(ledger["key"] == key)[0]) for key in maps.keys]
    assert set(ledger["decision"][rows]) == {"kept"}
    assert set(ledger["label"][rows]) == {0, 1, 2, 3, 4}


def test_test_images_of_the_evaluation_come_first(project, ledger, photographs, tmp_path):
    images = tmp_path / "test"
    images.mkdir()
    for number, data in enumerate(photographs[:9]):
        (images / f"image_{number}.jpg").write_bytes(data)
    (images / "image_4.jpg").write_bytes(photographs[4][:100])
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "config.yaml").write_text(f"test: ['{images}']\n")
    sources = without(project, evaluation=evaluation)
    maps = make_feature_maps(sources, ledger, tmp_path / "cache")
    assert maps.origin == "test images"
    # Evenly spread; the one that does not decode is left out.
    assert maps.keys == ["image_0", "image_2", "image_3", "image_5", "image_6", "image_8"]


def test_images_that_moved_are_reported_and_others_are_shown(project, ledger, tmp_path, caplog):
    (tmp_path / "config.yaml").write_text(f"test: ['{tmp_path / 'moved'}']\n")
    sources = without(project, evaluation=tmp_path)
    assert make_feature_maps(sources, ledger, tmp_path).origin == "kept images"
    assert "no feature maps of the test images" in caplog.text


def test_without_backbones_or_images_there_are_no_maps(project, ledger, tmp_path):
    assert make_feature_maps(without(project, training=None), ledger, tmp_path) is None
    assert make_feature_maps(without(project, training=tmp_path), ledger, tmp_path) is None
    assert make_feature_maps(without(project, evaluation=None), None, tmp_path) is None
