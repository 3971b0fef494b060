"""Regions, heat maps, matches, colors, attention and segments through the API, by what they are."""

import numpy as np
import pytest

from dinoforge.demo.views import Box, object_vector, region_vector, similarity_map

COLUMNS, ROWS = 8, 8


@pytest.fixture
def noise(upload):
    """Upload a picture in which every patch differs; returns its id."""

    def send(seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), np.uint8)
        answer = upload(pixels).json()
        assert (answer["rows"], answer["columns"]) == (ROWS, COLUMNS)
        return answer["id"]

    return send


def test_a_heat_map_is_highest_at_the_patch_that_was_clicked(client, noise):
    id_ = noise()
    for x, y in ((2, 5), (7, 0)):
        body = {"id": id_, "boxes": [[x, y, x, y]], "target": {"id": id_}}
        heat = client.post("/api/heat", json=body).json()
        assert (heat["rows"], heat["columns"]) == (ROWS, COLUMNS)
        assert int(np.argmax(heat["values"])) == y * COLUMNS + x
        assert max(heat["values"]) == pytest.approx(1, abs=1e-3)


def test_what_is_subtracted_lowers_the_heat_map_there(client, noise, site):
    id_ = noise()
    body = {"id": id_, "boxes": [[1, 1, 2, 2]], "minus": [[5, 6, 5, 6]], "target": {"id": id_}}
    values = client.post("/api/heat", json=body).json()["values"]
    features = site.sides[0].network.patches(site.pictures.get(id_).pixels, 112)
    vector = region_vector(features, [Box(1, 1, 2, 2)], without=[Box(6, 5, 6, 5)])
    assert np.allclose(values, similarity_map(features, vector).ravel(), atol=1e-4)


def test_the_rest_of_the_image_is_subtracted_if_asked(client, noise, site):
    id_ = noise()
    body = {"id": id_, "boxes": [[1, 1, 2, 2]], "rest": True, "target": {"id": id_}}
    values = client.post("/api/heat", json=body).json()["values"]
    features = site.sides[0].network.patches(site.pictures.get(id_).pixels, 112)
    vector = object_vector(features, [Box(1, 1, 2, 2)])
    assert np.allclose(values, similarity_map(features, vector).ravel(), atol=1e-4)


def test_a_part_of_an_image_of_the_collection_is_where_it_was(client):
    picture = client.post("/api/images/from-row", json={"row": 4}).json()
    x, y = picture["columns"] // 2, picture["rows"] // 2
    body = {"id": picture["id"], "boxes": [[x, y, x, y]], "k": 12}
    hits = client.post("/api/search/region", json=body).json()["hits"]
    itself = next(hit for hit in hits if hit["row"] == 4)
    assert itself["score"] == pytest.approx(1, abs=0.01)
    assert (itself["rows"], itself["columns"]) == (picture["rows"], picture["columns"])
    left, top, right, bottom = itself["box"]
    assert 0 <= left <= right < itself["columns"]
    assert 0 <= top <= bottom < itself["rows"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_an_image_matches_itself_patch_by_patch(client, noise):
    id_ = noise()
    answer = client.post("/api/match", json={"a": id_, "b": id_, "motion": True}).json()
    assert answer["a"] == answer["b"] == [ROWS, COLUMNS]
    assert len(answer["pairs"]) == ROWS * COLUMNS
    assert all(pair[:2] == pair[2:4] for pair in answer["pairs"])
    every = {"a": id_, "b": noise(1), "mutual": False, "min_score": -1}
    assert len(client.post("/api/match", json=every).json()["pairs"]) == ROWS * COLUMNS
    few = client.post("/api/match", json=every | {"min_score": 0.99}).json()["pairs"]
    assert all(pair[4] >= 0.99 for pair in few)
    free = client.post("/api/match", json=every | {"position": True}).json()["pairs"]
    assert len(free) == ROWS * COLUMNS


def test_colors_are_the_same_for_equal_pictures(client, noise):
    ids = [noise(0), noise(1), noise(0)]
    answer = client.post("/api/colors", json={"ids": ids, "threshold": 0.3}).json()
    first, second, again = (image["rgb"] for image in answer["images"])
    assert len(first) == 3 * ROWS * COLUMNS
    assert first == again != second
    assert 0 <= min(first) <= max(first) <= 255
    answer = client.post("/api/colors", json={"ids": ids, "threshold": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_foreground")


def test_attention_has_a_map_per_head_and_its_mass(client, noise):
    answer = client.get(f"/api/attention/{noise()}").json()
    assert answer["heads"] == [0, 1]
    assert len(answer["values"]) == len(answer["mass"]) == 2
    assert len(answer["values"][0]) == answer["rows"] * answer["columns"] == ROWS * COLUMNS
    assert sum(answer["values"][0]) == pytest.approx(answer["mass"][0], rel=1e-3)
    assert 0 < answer["mass"][0] < 1


def test_what_was_clicked_is_in_the_segment_and_its_runs(client, noise):
    id_, other = noise(0), noise(1)
    body = {"id": id_, "plus": [[3, 2]], "minus": [[6, 6]], "propagate": [other]}
    first, second = client.post("/api/segment", json=body).json()["images"]
    at = np.array(first["prob"]).reshape(ROWS, COLUMNS)
    assert at[2, 3] > 0.5 > at[6, 6]
    assert len(second["prob"]) == ROWS * COLUMNS
    lengths = np.repeat(np.arange(len(first["runs"])) % 2 == 1, first["runs"])
    assert np.array_equal(lengths, np.array(first["prob"]) >= 0.5)


def test_frames_are_followed_and_must_have_one_size(client, noise, upload):
    frames = [noise(0), noise(0), noise(1)]
    body = {"id": frames[0], "plus": [[3, 2]], "propagate": frames[1:], "frames": True}
    first, same, _ = client.post("/api/segment", json=body).json()["images"]
    assert same["runs"] == first["runs"]  # the frame again
    wide = upload(np.zeros((60, 200, 3), np.uint8)).json()["id"]
    answer = client.post("/api/segment", json=body | {"propagate": [wide]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("heat", {"boxes": [[0, 0, 8, 0]]}),
        ("heat", {"boxes": [[3, 0, 2, 0]]}),
        ("heat", {"boxes": []}),
        ("segment", {"plus": [[0, 8]]}),
        ("segment", {"plus": []}),
    ],
)
def test_places_beyond_the_picture_are_refused(client, noise, path, body):
    id_ = noise()
    target = {"target": {"id": id_}} if path == "heat" else {}
    answer = client.post(f"/api/{path}", json={"id": id_} | body | target)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
