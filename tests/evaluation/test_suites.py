"""Recipes of suites through the command, on a few small images in the files that they name."""

import gzip

import pytest
from benchmark_sets import COLORS, encode, write_tar
from classified_sets import color_picture
from evaluations import write_run

from dinoforge.cli.main import main
from dinoforge.records import read_records


def write_shard(path, count):
    """Write images of three classes; compressed if the name ends in .gz."""
    members = {}
    for number in range(count):
        members[f"{number:03d}.jpg"] = encode(color_picture(COLORS[number % 3], number), "JPEG")
        members[f"{number:03d}.cls"] = str(number % 3).encode()
    plain = write_tar(path.with_name(path.name.removesuffix(".gz")), members)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 45), ("test", 33)):
        write_shard(root / f"cifar10/cifar10-{split}-000000.tar.gz", count)
    for split, count in (("train", 45), ("val", 33)):
        write_shard(root / f"imagenette-144/imagenette144-{split}-000000.tar", count)
    for name in ("train-000000", "train-000001", "train-000002", "test-000000"):
        write_shard(root / f"clothing/clothing-{name}.tar", 18)
    write_shard(root / "clothing/clothing-validation-000000.tar", 18)
    return root


def test_classification(data, tmp_path, capsys):
    words = [
        f"out={tmp_path / 'run'}",
        f"data.root={data}",
        f"checkpoint={write_run(tmp_path / 'trained', steps=(0, 1))}",
        *("sets.cifar10.max_images=[30,24]", "knn.k=[5]", "few_shot.tries=2"),
        *("linear.epoch_steps=10", "linear_choice.folds=2", "logistic.c_count=2"),
        *("features=[cls]", "bootstrap.resamples=100"),
    ]
    assert main(["evaluate", "classification", *words]) == 0
    records = read_records(tmp_path / "run/records.jsonl")
    protocols = ("knn", "few_shot_1", "few_shot_10", "low_shot_1", "low_shot_5", "linear")
    for name, images in (("cifar10", 24), ("imagenette", 33), ("clothing", 36)):
        of_set = [r for r in records if r.benchmark.endswith(f"/{name}")]
        measured = {r.benchmark.partition("/")[0] for r in of_set}
        assert measured >= {*protocols, "logistic", "collapse"}
        assert {r.n for r in of_set if r.metric == "accuracy"} == {images}
        pixels = [r for r in of_set if (r.benchmark, r.model) == (f"knn/{name}", "pixels")]
        assert [r.value for r in pixels] == [1.0]  # three colors
    text = capsys.readouterr().out
    assert "24 to 36 test images per benchmark" in text
    assert "linear/imagenette (%)" in text
    assert main(["evaluate", "classification", *words, "--all"]) == 0
    assert "linear/imagenette, 33 images" in capsys.readouterr().out
