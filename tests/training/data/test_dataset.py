"""Batches are a function of the step: whatever the workers, the cache, the place of a resume."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.sources.image_set import ImageSet, open_images
from dinoforge.training.data.dataset import TrainingData, open_training_data
from dinoforge.training.data.order import ImageOrder
from dinoforge.training.data.parts import DataConfig
from dinoforge.training.distributed.ranks import RankInfo

STEPS = 6  # of 4 images: two passes and a bit over 10 images


class CountingImages(ImageSet):
    """The images of a folder, and how often each was decoded."""

    def __init__(self, images):
        super().__init__(images.table, images.policy, images.problems)
        self.decoded = Counter()

    def decode(self, index):
        self.decoded[index] += 1
        return super().decode(index)


def make_data(config, tmp_path, *, kind=ImageSet, **data):
    images = open_images(config.data.paths, cache=tmp_path / "cache")
    images = images if kind is ImageSet else kind(images)
    data = DataConfig(paths=config.data.paths, **data)
    order = ImageOrder(data.mixture, [len(images)], batch_size=config.batch_size, seed=config.seed)
    made = TrainingData(images, config.crops, data, order=order)
    return made, images


def batches(data, start=0, stop=STEPS):
    return list(data.batches(start, stop))


def assert_equal(result, wanted):
    assert [batch.step for batch in result] == [batch.step for batch in wanted]
    for one, other in zip(result, wanted, strict=True):
        assert torch.equal(one.global_crops, other.global_crops)
        assert torch.equal(one.local_crops, other.local_crops)
        assert one.keys == other.keys


def damage(folder, *names):
    for name in names:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(tiny, tmp_path, own_pictures, num_workers):
    damage(own_pictures, "004.jpg")
    config = tiny(images=own_pictures)
    alone, _ = make_data(config, tmp_path)
    helped, _ = make_data(config, tmp_path, num_workers=num_workers)
    assert_equal(batches(helped), batches(alone))
    assert helped.undecodable == alone.undecodable
    assert len(alone.undecodable) == 1
    assert_equal(batches(helped, 3, 5), batches(alone, 3, 5))


def test_a_batch_does_not_depend_on_the_batches_before(tiny, tmp_path):
    data, _ = make_data(tiny(), tmp_path)
    assert_equal([data.batch(4)], batches(data)[4:5])


def test_every_pass_shows_every_image_once_in_another_order(tiny, tmp_path):
    data, images = make_data(tiny(), tmp_path)
    order = np.concatenate([batch.image_ids for batch in batches(data, 0, 5)])
    first, second = order[:10].tolist(), order[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(len(images)))
    assert first != second


def test_an_image_is_cropped_anew_in_every_pass_and_by_every_seed(tiny, tmp_path):
    seeds = [make_data(tiny(f"seed={seed}"), tmp_path)[0] for seed in (0, 1)]
    shown = [
        {
            (int(image), batch.step): batch.global_crops[at]
            for batch in batches(data, 0, 5)
            for at, image in enumerate(batch.image_ids)
        }
        for data in seeds
    ]
    (first, second) = (crop for (image, _), crop in shown[0].items() if image == 0)
    (other, _) = (crop for (image, _), crop in shown[1].items() if image == 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_shapes_are_crop_major_and_values_normalized(tiny, tmp_path):
    data, _ = make_data(tiny(), tmp_path)
    batch = data.batch(0)
    assert batch.global_crops.shape == (8, 3, 28, 28)
    assert batch.local_crops.shape == (8, 3, 14, 14)
    assert batch.global_crops.dtype == torch.float32
    assert 0.3 < batch.global_crops.std() < 3
    assert len(batch.keys) == 4


def test_without_local_crops_there_are_none(tiny, tmp_path):
    data, _ = make_data(tiny("crops.num_local=0"), tmp_path)
    assert data.batch(0).local_crops.shape == (0, 3, 14, 14)


def test_the_cache_decodes_each_image_once_and_changes_no_batch(tiny, tmp_path):
    plain, without = make_data(tiny(), tmp_path, kind=CountingImages, cache="none")
    cached, with_cache = make_data(tiny(), tmp_path, kind=CountingImages, cache="decoded")
    planned = with_cache.decoded.copy()  # a sample, to estimate the memory
    wanted = batches(plain)
    assert_equal(batches(cached), wanted)
    assert sum(without.decoded.values()) == STEPS * 4
    assert set((with_cache.decoded - planned).values()) == {1}


def test_the_automatic_cache_keeps_off_when_the_images_do_not_fit(tiny, tmp_path):
    data, images = make_data(tiny(), tmp_path, kind=CountingImages, cache="auto", cache_mib=0)
    images.decoded.clear()
    batches(data)
    assert sum(images.decoded.values()) == STEPS * 4


def test_an_undecodable_image_is_replaced_named_and_counted_once(
    tiny, tmp_path, own_pictures, caplog
):
    damage(own_pictures, "004.jpg", "007.png")
    data, images = make_data(tiny(images=own_pictures), tmp_path)
    with caplog.at_level(logging.WARNING):
        shown = np.concatenate([batch.image_ids for batch in batches(data)])
    names = images.table["key"].to_pylist()
    damaged = {names.index("004"), names.index("007")}
    assert data.undecodable.keys() == damaged
    assert all("truncated" in reason for reason in data.undecodable.values())
    assert not damaged & set(shown.tolist())
    reported = sorted(record.getMessage().split(":")[0] for record in caplog.records)
    assert reported == ["replaced 004", "replaced 007"]


def test_an_undecodable_image_does_not_move_the_others(tiny, tmp_path, pictures, own_pictures):
    damage(own_pictures, "004.jpg")
    good, images = make_data(tiny(), tmp_path)
    bad, _ = make_data(tiny(images=own_pictures), tmp_path)
    at = images.table["key"].to_pylist().index("004")
    for one, other in zip(batches(good), batches(bad), strict=True):
        same = one.image_ids != at
        assert np.array_equal(one.image_ids[same], other.image_ids[same])
        rows = torch.from_numpy(np.tile(same, 2))
        assert torch.equal(one.global_crops[rows], other.global_crops[rows])


def test_too_many_undecodable_images_stop_with_the_share_to_raise(tiny, tmp_path, make_folder):
    folder = make_folder(tmp_path / "mostly bad", 30)
    damage(folder, *(f"{n:03d}.{'png' if n % 2 else 'jpg'}" for n in range(4, 30)))
    data, _ = make_data(tiny(images=folder), tmp_path)
    with pytest.raises(UsageError, match=r"^15 of 16 images do not decode.*max_bad_share"):
        batches(data, 0, 20)
    patient, _ = make_data(tiny(images=folder), tmp_path, max_bad_share=1.0)
    batches(patient, 0, 20)
    assert len(patient.undecodable) == 26


def test_a_folder_where_nothing_decodes_is_reported(tiny, tmp_path, own_pictures):
    damage(own_pictures, *(path.name for path in own_pictures.iterdir()))
    data, _ = make_data(tiny(images=own_pictures), tmp_path)
    with pytest.raises(UsageError, match="none of the 10 images decodes"):
        data.batch(0)
    # From a worker it must come as it is: torch would make a RuntimeError of it.
    data, _ = make_data(tiny("data.num_workers=1", images=own_pictures), tmp_path)
    with pytest.raises(UsageError, match="none of the 10 images decodes"):
        next(data.batches(0, 1))


def test_a_part_without_images_is_reported_in_one_line(tiny, tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    parts = f"{{name: a, paths: ['{pictures}']}}, {{name: b, paths: ['{tmp_path / 'empty'}']}}"
    config = tiny("data.paths=[]", f"data.parts=[{parts}]")
    with pytest.raises(UsageError, match=r"no images? .*/empty - ") as caught:
        open_training_data(config, tmp_path / "cache", RankInfo(), torch.device("cpu"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_folder_is_reported_in_one_line(tiny, tmp_path):
    with pytest.raises(UsageError, match="nowhere") as caught:
        open_training_data(
            tiny(images=tmp_path / "nowhere"), tmp_path / "cache", RankInfo(), torch.device("cpu")
        )
    assert len(str(caught.value).splitlines()) == 1
