"""The pools and the bookkeeping of the comparison of curated with raw pools, on noise."""

import importlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("claim"), importlib.import_module("claim_pools")


@pytest.fixture(scope="module")
def noise(scripts, tmp_path_factory):
    """Sets with the names of the shared ones: 70 images per class of CIFAR-10, 2 of the others."""
    _, pools = scripts
    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def images(count, side, classes):
        for number in range(count):
            buffer = io.BytesIO()
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            yield pools.Labeled(f"x{number}", buffer.getvalue(), number % classes)

    for name, count, side, classes in (
        ("cifar10", 700, 32, 10),
        ("imagenette-144", 150, 40, 10),
        ("animals4", 120, 40, 4),
        ("copydet", 2, 40, 1),
        *((other, 80, 40, 1) for other in pools.OTHERS),
    ):
        (data / name).mkdir()
        pools.write_tar(data / name / f"{name}-train-000000.tar", images(count, side, classes))
    return data


def test_a_dirty_cifar10_has_the_given_tail_copies_and_foreign_share(scripts, noise):
    _, pools = scripts
    made = pools.cifar10(noise, foreign=0.75, imbalance=20, each=3, head=20)
    kinds = Counter(image.name.partition("-")[0] for image in made.pool)
    own = [image for image in made.pool if image.name.startswith("own-")]
    per_class = Counter(image.label for image in own)
    assert [per_class[label] for label in range(10)] == [
        round(20 * 20 ** (-c / 9)) for c in range(10)
    ]
    assert kinds["copy"] == 3 * len(own)  # fewer than 500 images: each of them is copied
    assert kinds["foreign"] == 3 * (kinds["own"] + kinds["copy"])
    assert len({image.name for image in made.pool}) == len(made.pool)
    copies = [image.name for image in made.pool if image.name.startswith("copy-")]
    assert {"own-" + name.split("-")[1] for name in copies} == {image.name for image in own}


def test_the_seeds_are_balanced_and_in_no_arm_whatever_the_dirt(scripts, noise):
    _, pools = scripts
    some = pools.cifar10(noise, foreign=0.5, imbalance=2, each=1, head=4)
    other = pools.cifar10(noise, foreign=0.1, imbalance=1, each=2, head=2)
    assert some.seeds == other.seeds
    assert some.clean == other.clean
    assert set(Counter(image.label for image in some.seeds).values()) == {50}
    seeds = {image.data for image in some.seeds}
    assert len(some.clean) == 700 - len(seeds)
    assert not seeds & {image.data for image in some.clean + some.pool}


def test_the_photographs_hold_out_seeds_and_test_images(scripts, noise, tmp_path):
    _, pools = scripts
    made = pools.photographs(noise)
    kept_out = {image.data for image in made.seeds + made.held_out["animals4-test"]}
    assert len(made.seeds) == 140
    assert len(kept_out) == 140 + 60
    assert not kept_out & {image.data for image in made.pool}
    assert {image.name for image in made.clean} <= {image.name for image in made.pool}
    made.write(tmp_path)
    assert pools.read_labeled([tmp_path / "pool.tar"]) == made.pool


def make_claim(module, tmp_path, **dirt):
    return module.Claim(name="cifar10", data=tmp_path, folder=tmp_path, dirt=dirt, steps=7, batch=4)


def test_arms_differ_in_their_data_alone(scripts, tmp_path):
    module, _ = scripts
    claim = make_claim(module, tmp_path, foreign=0.8)
    words = [module.train_words(claim, 1, arm, tmp_path / arm) for arm in module.ARMS]
    for arm, of_arm in zip(module.ARMS, words, strict=True):
        differing = {a for a, b in zip(of_arm, words[0], strict=True) if a != b}
        assert differing <= {f"data.paths=[{arm}]", f"out={tmp_path / arm}"}
        assert {"steps=7", "batch_size=4", "seed=1"} <= set(of_arm)


def test_only_the_clean_runs_are_shared_by_pools(scripts, tmp_path):
    module, _ = scripts
    dirty, dirtier = (make_claim(module, tmp_path, foreign=share) for share in (0.5, 0.8))
    assert dirty.run("clean", 0) == dirtier.run("clean", 0)
    assert dirty.run("raw", 0) != dirtier.run("raw", 0)
    assert dirty.run("raw", 0) != dirty.run("raw", 1)


def test_the_interval_over_seeds_is_a_t_interval_without_what_arms_share(scripts):
    module, _ = scripts
    # Two arms: the paired t interval of the differences 0.02, 0.04, 0.03, whose deviation is 0.01.
    values = {"raw": [0.1, 0.5, 0.3], "curated": [0.12, 0.54, 0.33]}
    difference = module.over_seeds(values, "raw")["curated"]
    half = 4.3027 * 0.01 / 3**0.5
    assert difference["value"] == 0.03
    assert difference["over_seeds"] == pytest.approx([0.03 - half, 0.03 + half], abs=1e-4)
    assert (
        module.over_seeds({"raw": [0.1], "curated": [0.2]}, "raw")["curated"]["over_seeds"] is None
    )
