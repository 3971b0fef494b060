"""Faces are blurred until none is found, and nothing else is changed."""

import io
import json

import numpy as np
import pool as pools
import pytest
from PIL import Image
from skimage import data

from dinoforge.errors import UsageError
from dinoforge.scorers.blurring import blur_faces
from dinoforge.scorers.faces import face_detector
from dinoforge.shards.reading import read_samples


@pytest.fixture(scope="module")
def detector():
    try:
        return face_detector()
    except UsageError as error:
        pytest.skip(str(error))


def test_a_face_is_blurred_and_the_rest_stays(detector):
    photograph = data.astronaut()
    file, number = blur_faces(photograph, detector.find)
    assert number >= 1
    blurred = np.asarray(Image.open(io.BytesIO(file)))
    assert len(detector.find(blurred)) == 0
    change = np.abs(blurred.astype(int) - photograph).max(axis=2)
    assert change[80:150, 190:255].mean() > 20  # the face
    assert np.percentile(change[:, 300:], 99) < 30  # compression alone
    assert change[200:].mean() < 5


def test_faces_of_lfw_are_gone_from_every_file(detector):
    grid = [np.uint8(255 * crop) for crop in data.lfw_subset()[:100]]
    large = [np.asarray(Image.fromarray(crop).resize((60, 60))) for crop in grid]
    sheet = np.vstack([np.hstack(large[row : row + 10]) for row in range(0, 100, 10)])
    sheet = np.repeat(sheet[..., None], 3, axis=2)
    before = len(detector.find(sheet))
    assert before >= 90  # a group photograph, of sorts
    file, number = blur_faces(sheet, detector.find)
    assert number >= before
    assert len(detector.find(np.asarray(Image.open(io.BytesIO(file))))) == 0


def test_it_ends_even_if_a_face_is_found_wherever_there_is_detail():
    def find(image):
        return np.array([[10.0, 10, 20, 20]] if image.std() > 2 else np.empty((0, 4)))

    rng = np.random.default_rng(0)
    file, number = blur_faces(rng.integers(0, 255, (40, 300, 3), np.uint8), find)
    assert 3 < number <= 24
    assert np.asarray(Image.open(io.BytesIO(file))).std() <= 2


def test_exported_images_have_no_face(detector, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("astronaut", "chelsea", "rocket"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"images/{name}.png")
    sources = [{"role": "pool", "paths": [str(tmp_path / "images")]}]
    few = ("retrieve.mode=none", "plant.count=0", "scores=[{name: people, scorer: faces}]")
    config = pools.recipe(sources, tmp_path / "run", *few, "export.blur_faces=true")
    pools.curated(config)
    assert {row["key"]: row["scores.people_count"] for row in pools.ledger(tmp_path / "run")} == {
        **{"astronaut": 1, "chelsea": 0, "rocket": 0}
    }
    (shard,) = (tmp_path / "run/shards").glob("*.tar")
    samples = {json.loads(m["json"])["key"]: m for _, m in read_samples(shard)}
    assert samples["chelsea"]["png"] == (tmp_path / "images/chelsea.png").read_bytes()
    assert "png" not in samples["astronaut"]
    assert json.loads(samples["astronaut"]["json"])["faces_blurred"] >= 1
    assert "faces_blurred" not in json.loads(samples["rocket"]["json"])
    blurred = np.asarray(Image.open(io.BytesIO(samples["astronaut"]["jpg"])))
    assert len(detector.find(blurred)) == 0


def test_faces_to_blur_must_be_scored(tmp_path):
    with pytest.raises(UsageError, match=r"`export.blur_faces` without a score of faces"):
        pools.recipe([{"role": "pool", "paths": ["x"]}], tmp_path, "export.blur_faces=true")
