"""The map, lists of keys, copies and why they were kept, heads, two models, a quickstart."""

import os
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from dinoforge.cli.backbones import demo as command
from dinoforge.cli.main import main
from dinoforge.demo.index.layout import card_file
from dinoforge.demo.index.reader import open_index
from dinoforge.demo.server.api import atlas
from dinoforge.demo.server.app import make_app
from dinoforge.demo.server.opening import open_site
from dinoforge.encoders.backbone import weights_hash
from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.dense.depth_head import DepthBins
from dinoforge.evaluation.methods.dense.head_files import HeadNotes, save_head
from dinoforge.evaluation.methods.dense.linear_head import LinearHead
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone


def serve(site):
    headers = {"X-CSRF-Token": site.csrf}
    return TestClient(make_app(site), base_url="http://127.0.0.1:8765", headers=headers)


def test_the_map_has_a_place_and_a_cluster_for_every_image(client):
    answer = client.get("/api/map").json()
    assert answer["rows"] == list(range(12))
    assert len(answer["x"]) == len(answer["y"]) == len(answer["cluster"]) == 12
    assert set(answer["cluster"]) <= set(range(-1, len(answer["names"])))
    assert len(set(zip(answer["x"], answer["y"], strict=True))) == 12
    assert (answer["layout"], answer["laid_out"]) == ("pca", 12)


def test_a_map_of_some_images_states_how_many(client, monkeypatch):
    note = "Places are the two principal components."
    assert client.get("/api/map").json()["note"] == note
    monkeypatch.setattr(atlas, "_DOTS", 5)
    answer = client.get("/api/map").json()
    assert answer["rows"] == [0, 3, 6, 8, 11]
    more = "5 of 12 images are drawn, evenly spaced; selections have no others."
    assert answer["note"] == f"{note} {more}"


def test_the_dendrogram_comes_with_the_classes_of_the_rows_of_the_map(demo_index, tmp_path):
    for path in sorted((demo_index.parent / "images").iterdir()):
        target = tmp_path / "images" / "abcd"[int(path.stem[1:]) % 4]
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).symlink_to(path)
    words = [f"encoder={demo_index.parent}/vit.safetensors", f"out={tmp_path}/index"]
    assert main(["index", str(tmp_path / "images"), *words, "patches.size=0"]) == 0
    with serve(open_site([tmp_path / "index"], threads=1, faces="off")) as client:
        answer = client.get("/api/map/classes").json()
    assert (answer["names"], answer["images"]) == ([*"abcd"], [3] * 4)
    assert answer["of_rows"] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    merges = answer["merges"]
    assert sorted(node for a, b, _ in merges for node in (a, b)) == list(range(6))
    assert [far for *_, far in merges] == sorted(far for *_, far in merges)


def test_an_index_without_classes_has_an_empty_dendrogram(client):
    answer = client.get("/api/map/classes").json()
    assert (answer["names"], answer["merges"]) == ([], [])
    assert answer["of_rows"] == [-1] * 12


def test_a_selection_becomes_the_keys_of_a_recipe(client):
    answer = client.post("/api/selection", json={"rows": [7, 3]})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "p07\np03\n"
    assert client.post("/api/selection", json={"rows": [12]}).status_code == 404


def test_browsers_ask_whether_the_image_they_have_is_still_right(client, site, demo_index):
    paths = [f"/api/rows/3/{name}" for name in ("thumb", "image")]
    for path in paths:
        first = client.get(path)
        assert "no-cache" in first.headers["cache-control"]
        tag = {"If-None-Match": first.headers["etag"]}
        again = client.get(path, headers=tag)
        assert (again.status_code, again.content) == (304, b"")
    with serve(open_site([demo_index], threads=1, faces="off", blur_collection=True)) as other:
        assert [other.get(path, headers=tag).status_code for path in paths] == [200, 200]
    os.utime(card_file(demo_index))  # as every change of an index does
    assert open_index(demo_index).version != site.sides[0].index.version


def test_copies_are_those_above_the_threshold(client, site):
    index = site.sides[0].index
    cosines = np.array([index.vector(4) @ index.vector(row) for row in range(12)])
    answer = client.get("/api/duplicates/4?threshold=0.5").json()
    expected = {row for row in range(12) if cosines[row] >= 0.5 and row != 4}
    assert {copy["row"] for copy in answer["copies"]} == expected
    assert answer["threshold"] == 0.5
    assert answer["why"] == []
    assert client.get("/api/duplicates/4?threshold=2").status_code == 422


def test_a_curation_explains_its_images(calm, demo_index, tmp_path):
    words = [f"encoder={demo_index.parent}/vit.safetensors", f"out={tmp_path}/index"]
    assert main(["index", str(calm), *words, "patches.size=0"]) == 0
    site = open_site([tmp_path / "index"], threads=1, faces="off")
    site = replace(site, explain=command._explainer(tmp_path / "index", None))
    with serve(site) as client:
        assert client.get("/api/card").json()["explained"] is True
        rows = client.get("/api/rows?count=200").json()["rows"]
        row = next(one["row"] for one in rows if site.explain(one["facts"]).group)
        answer = client.get(f"/api/duplicates/{row}?threshold=-1").json()
    assert any("kept" in sentence for sentence in answer["why"])
    assert answer["policy"] == {"encoder": "pixels", "threshold": 0.95}
    assert answer["note"] == "Only the first 8 are looked up in the curation."
    kept = [copy["kept"] for copy in answer["copies"]]
    assert kept == [True] * 8 + [None] * (len(kept) - 8)
    assert {one["note"] for one in answer["group"]} == {"dropped"}  # it is the one that is kept
    similarities = [one["similarity"] for one in answer["pairs"]]
    assert similarities == sorted(similarities, reverse=True) != []


def test_heads_of_an_evaluation_show_classes_and_depths(demo_index, tmp_path):
    weights = demo_index.parent / "vit.safetensors"
    backbone = {"backbone": weights_hash(weights), "architecture": "toy", "blocks": (1,)}
    sizes = {"input_size": (112, 112)}
    words = {"classes": ("sky", "road", "tree"), "protocol": {"data": "streets"}}
    classes = HeadNotes(**backbone, **sizes, **words)
    depth = HeadNotes(**backbone, **sizes, bins=DepthBins(max_depth=10, count=16))
    files = [tmp_path / f"part-00000.head-{name}.safetensors" for name in ("v3", "depth")]
    save_head(files[0], LinearHead(32, 3, seed=1).eval(), classes)
    save_head(files[1], LinearHead(32, 16, seed=1).eval(), depth)
    site = open_site([demo_index], size=112, threads=1, faces="off")
    network = site.sides[0].network
    with pytest.raises(UsageError, match="two heads are named `depth`"):
        command._open_heads([*files, files[1]], network)
    site = replace(site, heads=command._open_heads(files, network))
    with serve(site) as client:
        assert client.get("/api/card").json()["heads"] == ["segmentation streets v3", "depth"]
        picture = client.post("/api/images/from-row", json={"row": 3}).json()
        number = picture["rows"] * picture["columns"]
        body = {"id": picture["id"], "head": "segmentation streets v3"}
        answer = client.post("/api/dense", json=body).json()
        assert answer["kind"] == "classes"
        assert answer["names"] == ["sky", "road", "tree"]
        assert len(answer["values"]) == number
        assert set(answer["values"]) <= {0, 1, 2}
        answer = client.post("/api/dense", json={"id": picture["id"], "head": "depth"}).json()
        assert answer["unit"] == "m"
        assert len(answer["values"]) == number
        assert 0 < answer["low"] <= min(answer["values"])
        assert max(answer["values"]) <= answer["high"] <= 10
        answer = client.post("/api/dense", json={"id": picture["id"], "head": "x"})
        assert answer.status_code == 404


def test_two_models_answer_side_by_side(demo_index, tmp_path):
    sizes = {"width": 48, "depth": 1, "heads": 3, "patch_size": 28, "image_size": 56}
    config = VitConfig(**sizes, layer_scale=0, init="xavier")
    save_backbone(tmp_path / "other.safetensors", build_vit(config, seed=1), {"step": "9"})
    words = [f"encoder={tmp_path}/other.safetensors", f"out={tmp_path}/index"]
    words += ["precision=bfloat16"]
    assert main(["index", str(demo_index.parent / "images"), *words]) == 0
    site = open_site([demo_index, tmp_path / "index"], threads=1, faces="off")
    with serve(site) as client:
        first, second = client.get("/api/card").json()["models"]
        assert (first["model"]["dim"], second["model"]["dim"]) == (32, 48)
        assert (first["model"]["size"], second["model"]["size"]) == (518, 1036)  # 37 patches
        picture = client.post("/api/images/from-row", json={"row": 3}).json()
        for model, heads in ((0, 2), (1, 3)):
            body = {"id": picture["id"], "model": model, "k": 1}
            hits = client.post("/api/search", json=body).json()["hits"]
            assert hits[0]["row"] == 3
            attention = client.get(f"/api/attention/{picture['id']}?model={model}").json()
            assert len(attention["heads"]) == heads


def test_a_quickstart_is_indexed_once(calm, demo_index, tmp_path, capsys):
    run = tmp_path / "quickstart"
    (run / "training/export/step-000000012").mkdir(parents=True)
    (run / "curation").symlink_to(calm)
    weights = run / "training/export/step-000000012/model.safetensors"
    weights.write_bytes((demo_index.parent / "vit.safetensors").read_bytes())
    index = command._index_of(run)
    assert index == run / "index"
    assert "embed: 1 partition" in capsys.readouterr().err
    assert command._index_of(run) == index
    assert "embed: done before" in capsys.readouterr().err
    assert command._index_of(demo_index) == demo_index


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "add --token"),
        (["--host", "0.0.0.0", "--token", "short"], "`--token` is too short"),
        (["--token", "correct+horse+battery"], "other characters"),
        (["--token"], "`$DINOFORGE_TOKEN` is too short"),
        (["--port", "70000"], "--port"),
        (["--size", "9000", "--threads", "-1"], "--threads"),
        (["--curation", "nowhere"], "not a curation run"),
        (["--model", "pixels"], "another network"),
    ],
)
def test_mistakes_are_one_line(demo_index, words, message, capsys, monkeypatch):
    monkeypatch.setenv("DINOFORGE_TOKEN", "short")
    assert main(["demo", str(demo_index), "--port", "0", "--faces", "off", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_an_index_is_refused(tmp_path, capsys):
    assert main(["demo", str(tmp_path), "--port", "0", "--faces", "off"]) == 2
    assert "index" in capsys.readouterr().err
