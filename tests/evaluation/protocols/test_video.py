"""The suite of videos and objects in small: squares that an untrained network separates."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from benchmark_sets import (
    encode,
    moving_square,
    write_boxes,
    write_clips,
    write_tar,
    write_videos,
    write_voc,
)
from evaluations import evaluated, write_run

from dinoforge.cli.main import main
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import BootstrapConfig, EvaluationConfig, SetConfig
from dinoforge.evaluation.settings import (
    AttentionConfig,
    ClipsConfig,
    DiscoveryConfig,
    LogisticConfig,
    LostConfig,
    PropagationConfig,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("video")
    return EvaluationConfig(
        checkpoint=str(write_run(root / "trained", steps=(0, 1))),
        baselines=["means=python:evaluations:mean_colors"],
        sets={
            "squares": SetConfig(layout="video_tars", root=str(write_videos(root / "videos"))),
            "boxes": SetConfig(layout="voc07_boxes", root=str(write_boxes(root / "boxes"))),
            "colors": SetConfig(layout="clips", root=str(write_clips(root / "clips"))),
        },
        protocols=["propagation", "attention", "discovery", "clips"],
        device="cpu",
        propagation=PropagationConfig(side=48, window=3),
        attention=AttentionConfig(side=48, every=2),
        discovery=DiscoveryConfig(
            features=["keys", "keys_centered", "tokens"], every=3, lost=LostConfig(k_patches=4)
        ),
        logistic=LogisticConfig(c_min=0.1, c_max=10, c_count=2),
        bootstrap=BootstrapConfig(resamples=100, pooled_resamples=100),
    )


@pytest.fixture(scope="module")
def records(config, tmp_path_factory):
    return evaluated(config, tmp_path_factory.mktemp("whole"))


def values(records, benchmark, metric):
    return {
        (r.model, r.settings.get("features")): r.value
        for r in records
        if (r.benchmark, r.metric) == (benchmark, metric)
    }


def test_every_object_is_followed_better_than_by_copying_the_first_mask(records):
    scores = values(records, "propagation/squares", "J&F")
    assert list(scores) == [
        ("trained", "last block"),
        ("untrained", "last block"),
        ("copied mask", None),
        ("color", "colors"),
    ]
    # The square of 16 pixels moves by 2 per frame: IoU 7/9, 6/10, 5/11, 4/12 in frames 2 to 5.
    copied = values(records, "propagation/squares", "J")["copied mask", None]
    assert copied == pytest.approx((7 / 9 + 6 / 10 + 5 / 11 + 4 / 12) / 4)
    assert scores["trained", "last block"] > scores["copied mask", None] + 0.1
    of = {(r.model, r.metric): r for r in records if r.benchmark == "propagation/squares"}
    record = of["trained", "J&F"]
    by_video = record.settings["by_video"]
    assert record.value == pytest.approx(np.mean([*by_video.values()]))
    assert record.interval == pytest.approx([min(by_video.values()), max(by_video.values())])
    assert (record.n, record.settings["objects"], record.settings["videos"]) == (8, 2, 2)
    assert record.settings["sizes"] == [[48, 48]]
    assert record.settings["vanished"] == {}
    paired = of["trained - copied mask", "J&F_difference"]
    assert paired.value == pytest.approx(record.value - of["copied mask", "J&F"].value)
    assert paired.interval[0] > 0


def test_both_choices_of_heads_peek_at_the_truth(records):
    scores = values(records, "attention/squares", "jaccard")
    assert scores["whole image", None] == pytest.approx(1 / 9)
    best, one = (scores["trained", f] for f in ("best head per image", "one head for all"))
    assert best >= one > scores["whole image", None]
    some = [r for r in records if r.benchmark == "attention/squares" and r.model == "trained"]
    assert {r.selection for r in some} == {"test-peek"}
    assert {r.n for r in some} == {6}  # every second frame of two videos
    assert some[1].settings["head"] in {0, 1}


@pytest.mark.parametrize(("name", "num_images"), [("squares", 4), ("boxes", 3)])
def test_squares_are_found(records, name, num_images):
    scores = values(records, f"discovery/{name}", "corloc")
    assert scores["whole image", None] == scores["center box", None] == 0
    for features in ("LOST, keys", "TokenCut, keys", "LOST, tokens", "TokenCut, tokens"):
        assert scores["trained", features] == 1
    of = [r for r in records if r.benchmark == f"discovery/{name}"]
    assert {r.n for r in of} == {num_images}
    lost = next(r for r in of if r.settings.get("features") == "LOST, keys")
    assert lost.settings["k_patches"] == 4
    assert lost.settings["degenerate"] == 0
    assert 0.5 < lost.settings["share_linked"] < 0.99


def test_videos_are_classified_by_their_frames(records):
    scores = values(records, "clips/colors", "accuracy")
    assert scores["trained", "cls, mean"] == scores["means", "means, mean"] == 1
    (record,) = (r for r in records if r.benchmark == "clips/colors" and r.model == "means")
    assert (record.n, record.settings["bank"], record.settings["frames"]) == (4, 8, 8)
    assert record.selection == "val"


def test_frames_side_by_side_keep_their_order(config, tmp_path):
    clips = {"colors": config.sets["colors"]}
    joined = replace(config, sets=clips, clips=ClipsConfig(join=["concatenate"]), checkpoint="")
    (record,) = evaluated(joined, tmp_path)
    assert record.settings["features"] == "means, concatenate"
    assert record.value == 1


def test_masks_of_images_are_sought_too(config, tmp_path):
    voc = SetConfig(layout="voc07", root=str(write_voc(tmp_path / "voc")), protocols=["attention"])
    records = evaluated(replace(config, sets={"voc": voc}), tmp_path / "out")
    scores = values(records, "attention/voc", "jaccard")
    # The border of the square, 1 pixel wide, counts nowhere: 14 x 14 of 48 x 48 less 60 pixels.
    assert scores["whole image", None] == pytest.approx(14**2 / (48**2 - 60))
    assert scores["trained", "best head per image"] > scores["whole image", None]


@pytest.mark.parametrize("layout", ["video_tars", "voc07_boxes", "clips", "davis2017", "coco20k"])
def test_a_wrong_layout_ends_with_one_line(layout, tmp_path, capsys):
    root = tmp_path / "data"
    if layout == "video_tars":
        frames = [(encode(p, "JPEG"), encode(m)) for p, m in moving_square(3)]
        members = {f"a_{n:05d}.jpg": picture for n, (picture, _) in enumerate(frames)}
        members |= {f"a_{n:05d}.png": mask for n, (_, mask) in enumerate(frames[:2])}
        write_tar(root / "a.tar", members)
        first = "a.tar:a_00002.png"
    elif layout == "voc07_boxes":
        write_boxes(root)
        (root / "VOC2007/Annotations/000001.xml").unlink()
        first = "Annotations/000001.xml"
    elif layout == "clips":
        write_clips(root)
        shutil.rmtree(root / "test")
        first = "data/test"
    else:
        root.mkdir()
        first = {"davis2017": "2017/val.txt", "coco20k": "coco_20k_filenames.txt"}[layout]
    recipe = tmp_path / "recipe.yaml"
    one = {"layout": layout, "root": str(root)}
    recipe.write_text(json.dumps({"out": str(tmp_path / "out"), "sets": {"x": one}}))
    assert main(["evaluate", str(recipe)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert first in line


@pytest.mark.parametrize("protocol", ["attention", "discovery"])
def test_masks_without_any_object_are_refused(config, tmp_path, protocol):
    members = {}
    for number, (picture, labels) in enumerate(moving_square(3)):
        members[f"a_{number:05d}.jpg"] = encode(picture, "JPEG")
        members[f"a_{number:05d}.png"] = encode(labels * 255)
    write_tar(tmp_path / "data/a.tar", members)
    one = SetConfig(layout="video_tars", root=str(tmp_path / "data"), protocols=[protocol])
    with pytest.raises(UsageError, match=r"none of \d images has an object - void - give masks"):
        evaluated(replace(config, sets={"void": one}), tmp_path / "out")
