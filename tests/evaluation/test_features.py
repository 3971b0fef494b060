import shutil

import numpy as np
import pytest
from PIL import Image

import dinoforge.evaluation.features
from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.data import open_data
from dinoforge.evaluation.features import Extractor, extract, open_extractor, rows_of
from dinoforge.evaluation.models import find_models
from dinoforge.sources.image_set import open_images


@pytest.fixture
def bank(pictures, tmp_path):
    return open_images([str(pictures / "bank")], cache=tmp_path)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(dinoforge.evaluation.features, "PART_IMAGES", 10)


class Counting:
    """An extractor that counts the images that it saw."""

    def __init__(self, fingerprint="counting", stop_after=None):
        self.seen = 0
        self.stop_after = stop_after
        self.extractor = Extractor(self.describe, fingerprint, "counting")

    def describe(self, images):
        if self.stop_after is not None and self.seen >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        means = [image.mean(axis=(0, 1)) for image in images]
        return {"vectors": np.array(means, np.float32).reshape(-1, 3)}


def trained(run_folder, **more):
    return find_models(EvaluationConfig(checkpoint=str(run_folder), **more))[0]


def test_a_second_extraction_reads_the_cache(bank, tmp_path, small_parts):
    once, again = Counting(), Counting()
    first = extract(once.extractor, bank, tmp_path, "x")
    second = extract(again.extractor, bank, tmp_path, "x")
    assert (once.seen, again.seen) == (39, 0)
    np.testing.assert_array_equal(first.vectors["vectors"], second.vectors["vectors"])


def test_a_killed_extraction_goes_on_after_its_last_part(bank, tmp_path, small_parts):
    whole = extract(Counting().extractor, bank, tmp_path / "whole", "x")
    with pytest.raises(KeyboardInterrupt):
        extract(Counting(stop_after=20).extractor, bank, tmp_path / "cut", "x")
    rest = Counting()
    result = extract(rest.extractor, bank, tmp_path / "cut", "x")
    assert rest.seen == 19
    np.testing.assert_array_equal(result.vectors["vectors"], whole.vectors["vectors"])


@pytest.mark.parametrize("damage", [b"", b"no such format", None])
def test_a_damaged_part_is_made_again(bank, tmp_path, small_parts, damage):
    extract(Counting().extractor, bank, tmp_path, "x")
    part = sorted(tmp_path.rglob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:-7] if damage is None else damage)
    again = Counting()
    result = extract(again.extractor, bank, tmp_path, "x")
    assert again.seen == 10
    assert np.isfinite(result.vectors["vectors"]).all()


def test_other_weights_and_other_images_have_other_places(bank, pictures, tmp_path):
    extract(Counting("a").extractor, bank, tmp_path, "x")
    other = Counting("b")
    extract(other.extractor, bank, tmp_path, "x")
    test = open_images([str(pictures / "test")], cache=tmp_path)
    same = Counting("a")
    extract(same.extractor, test, tmp_path, "x")
    assert (other.seen, same.seen) == (39, 18)


def test_one_forward_pass_gives_what_each_encoder_gives(bank, run_folder, tmp_path):
    model = trained(run_folder)
    result = extract(open_extractor(model, device="cpu"), bank, tmp_path, "x")
    pictures = [bank.decode(index) for index in range(len(bank))]
    from dinoforge.encoders.checkpoint import FEATURES

    for kind in model.features:
        encoder = make_encoder(f"checkpoint:{model.file}#{kind}")
        actual = unit_rows(FEATURES[kind](result.vectors))
        np.testing.assert_array_equal(actual, encoder.encode(pictures))
        assert actual.shape[1] == encoder.dim


def test_vectors_of_a_vit_are_not_normalized(bank, run_folder, tmp_path):
    result = extract(open_extractor(trained(run_folder), device="cpu"), bank, tmp_path, "x")
    norms = np.linalg.norm(result.vectors["cls"], axis=1)
    assert (abs(norms - 1) > 0.1).all()


def test_undecodable_images_are_left_out_and_the_others_stay_in_place(pictures, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(pictures / "bank", folder)
    for name in ("blue/blue-003.png", "red/red-012.png"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    config = EvaluationConfig(train=[str(folder)], test=[str(pictures / "test")], checkpoint="")
    data = open_data(config, tmp_path)
    (model,) = find_models(config)
    extractor = open_extractor(model, device="cpu")
    result = extract(extractor, data.bank.images, tmp_path, "x")
    bank, test = rows_of(model, data, result, extract(extractor, data.test.images, tmp_path, "x"))
    assert (len(bank), len(test)) == (37, 18)
    assert np.flatnonzero(~result.is_decoded).tolist() == [3, 38]
    assert np.bincount(bank.labels).tolist() == [13, 12, 12]
    encoder = make_encoder("pixels_centered")
    image = np.asarray(Image.open(folder / "blue" / "blue-004.png"))
    np.testing.assert_array_equal(bank.features["pixels"][3], encoder.encode([image])[0])


def test_a_test_set_without_any_picture_is_refused(pictures, tmp_path):
    broken = tmp_path / "broken" / "red"
    broken.mkdir(parents=True)
    source = next((pictures / "test" / "red").glob("*.png"))
    (broken / "a.png").write_bytes(source.read_bytes()[:200])
    config = EvaluationConfig(train=[str(pictures / "bank")], test=[str(broken.parent)])
    data = open_data(config, tmp_path)
    (model,) = find_models(config)
    extractor = open_extractor(model, device="cpu")
    bank, test = (extract(extractor, part.images, tmp_path, "x") for part in (data.bank, data.test))
    with pytest.raises(UsageError, match="none of the 1 test images decodes"):
        rows_of(model, data, bank, test)


def test_raw_pixels_are_taken_less_the_mean_of_the_bank(pictures, tmp_path):
    config = EvaluationConfig(
        train=[str(pictures / "bank")], test=[str(pictures / "test")], baselines=["pixels_raw"]
    )
    data = open_data(config, tmp_path)
    (model,) = find_models(config)
    extractor = open_extractor(model, device="cpu")
    result = [extract(extractor, part.images, tmp_path, "x") for part in (data.bank, data.test)]
    bank, test = rows_of(model, data, *result)
    rows = bank.features["pixels_less_mean"]
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)
    raw = [part.vectors["vectors"] for part in result]
    shifted = test.features["pixels_less_mean"]
    np.testing.assert_allclose(shifted, raw[1] - raw[0].mean(axis=0), atol=1e-6)


def test_the_size_of_a_batch_changes_the_last_bits_only(bank, run_folder, tmp_path):
    model = trained(run_folder)
    one, other = (
        extract(open_extractor(model, device="cpu", batch_size=size), bank, tmp_path, "x")
        for size in (0, 7)
    )
    assert len(list((tmp_path / "features").iterdir())) == 2
    np.testing.assert_allclose(one.vectors["cls"], other.vectors["cls"], atol=1e-5)
