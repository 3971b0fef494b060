"""Upload a picture, find images like it; the card, rows and thumbnails beside it."""

import io

import numpy as np
import pytest
from PIL import Image


def test_an_image_of_the_collection_finds_itself_first(client, upload, demo_index):
    data = (demo_index.parent / "images/p05.png").read_bytes()
    picture = upload(data).json()
    assert (picture["width"], picture["height"], picture["faces"]) == (175, 170, 0)
    hits = client.post("/api/search", json={"id": picture["id"], "k": 3}).json()["hits"]
    assert len(hits) == 3
    assert hits[0]["facts"]["key"] == "p05"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)


def test_a_row_finds_others_than_itself(client):
    answer = client.post("/api/search", json={"row": 5, "k": 100}).json()
    rows = [hit["row"] for hit in answer["hits"]]
    assert sorted([*rows, 5]) == list(range(12))
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_different_results_leave_out_copies(client, site, monkeypatch):
    index = site.sides[0].index
    basis = np.eye(32, dtype=np.float32)
    copies = {row: basis[row // 2] for row in range(12)}  # pairs of copies
    monkeypatch.setattr(index, "vector", copies.__getitem__)
    hits = client.post("/api/search", json={"row": 0, "k": 12, "diverse": True}).json()["hits"]
    assert len({hit["row"] // 2 for hit in hits}) == len(hits) == 6


def test_the_card_states_model_index_and_what_happens_to_faces(client):
    card = client.get("/api/card").json()
    (model,) = card["models"]
    assert model["model"]["trained"] is False
    assert model["model"]["patch_size"] == 14
    assert model["index"]["num_images"] == 12
    assert card["faces"] == "refuse"


def test_rows_have_facts_thumbnails_and_images(client):
    page = client.get("/api/rows?from=10&count=5").json()
    assert page["total"] == 12
    assert [row["row"] for row in page["rows"]] == [10, 11]
    assert page["rows"][0]["facts"]["key"] == "p10"
    for kind, media in (("thumb", "image/webp"), ("image", "image/jpeg")):
        answer = client.get(f"/api/rows/10/{kind}")
        assert answer.headers["content-type"] == media
        assert Image.open(io.BytesIO(answer.content)).size == (150, 220)
    assert set(client.get("/api/samples").json()["rows"]) == set(range(12))


def test_a_picture_of_the_collection_is_taken_as_it_is(client):
    picture = client.post("/api/images/from-row", json={"row": 3}).json()
    answer = client.get(f"/api/images/{picture['id']}")
    assert Image.open(io.BytesIO(answer.content)).size == (picture["width"], picture["height"])
    status = client.get(f"/api/images/{picture['id']}/status").json()
    assert status["ready"] == []
    assert {name: status[name] for name in ("width", "height", "rows", "columns")} == {
        name: picture[name] for name in ("width", "height", "rows", "columns")
    }
    client.post("/api/search", json={"id": picture["id"]})
    status = client.get(f"/api/images/{picture['id']}/status").json()
    assert status["ready"] == ["vector"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/search", {}, 422, "invalid"),
        ("/api/search", {"id": "x" * 16, "row": 1}, 422, "invalid"),
        ("/api/search", {"row": 1, "k": 101}, 422, "invalid"),
        ("/api/search", {"row": 1, "K": 1}, 422, "invalid"),
        ("/api/search", {"row": 12}, 404, "not_found"),
        ("/api/search", {"id": "x" * 16}, 404, "expired"),
        ("/api/search", {"row": 1, "model": 1}, 404, "not_found"),
        ("/api/images/from-row", {"row": 2**61}, 404, "not_found"),
    ],
)
def test_requests_that_cannot_be_answered_state_why(client, path, body, status, code):
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert set(answer.json()) == {"code", "message", "hint"}
