"""Crops and colors against the published pipeline (torchvision on Pillow), value by value.

Truth: ``golden/augmentation.*`` of the reference folder, section 8 of its README, which also states
the tolerances: operations exact, blur one level in 10,000 values, resize a mean of 0.3 levels
(Pillow 13 runs its passes in another order than the versions before and than torch).
"""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats

from dinoforge.randomness import uniforms
from dinoforge.training.data import color
from dinoforge.training.data.color import ColorDraws
from dinoforge.training.data.crops import CropsConfig, crop_boxes, resized_crop

pytestmark = pytest.mark.golden

IMAGES = ("astronaut_face", "synthetic")


@pytest.fixture(scope="module")
def tensors(shared):
    return load_file(shared / "golden" / "augmentation.safetensors")


@pytest.fixture(scope="module")
def facts(shared):
    return json.loads((shared / "golden" / "augmentation.json").read_text())


def levels(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()


def picture(values):
    assert torch.equal(values, values.floor())
    return values[0].permute(1, 2, 0).numpy().astype(np.int64)


def factor(value):
    return torch.tensor([value], dtype=torch.float32)


OPERATIONS = {
    "hflip": lambda x: x.flip(-1),
    "brightness_0.6": lambda x: color.adjust_brightness(x, factor(0.6)),
    "brightness_1.4": lambda x: color.adjust_brightness(x, factor(1.4)),
    "contrast_0.6": lambda x: color.adjust_contrast(x, factor(0.6)),
    "contrast_1.4": lambda x: color.adjust_contrast(x, factor(1.4)),
    "saturation_0.8": lambda x: color.adjust_saturation(x, factor(0.8)),
    "saturation_1.2": lambda x: color.adjust_saturation(x, factor(1.2)),
    "hue_-0.1": lambda x: color.adjust_hue(x, factor(int(-0.1 * 255))),
    "hue_0.05": lambda x: color.adjust_hue(x, factor(int(0.05 * 255))),
    "hue_0.1": lambda x: color.adjust_hue(x, factor(int(0.1 * 255))),
    "grayscale3": color.to_grayscale,
    "solarize_128": lambda x: color.solarize(x, factor(128)),
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_gives_every_value_of_pillow(tensors, operation, image):
    result = OPERATIONS[operation](levels(tensors[f"image/{image}"]))
    np.testing.assert_array_equal(picture(result), tensors[f"op/{operation}/{image}"])


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_differs_by_one_level_at_most_and_almost_nowhere(tensors, sigma, image):
    result = picture(color.gaussian_blur(levels(tensors[f"image/{image}"]), factor(sigma), 9))
    difference = np.abs(result - tensors[f"op/blur_k9_sigma{sigma}/{image}"])
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 1  # of about 12,960 values; the reference README: 1


@pytest.mark.parametrize("image", IMAGES)
def test_normalization_is_that_of_the_published_pipeline(tensors, image):
    config = CropsConfig()
    result = color.normalize(levels(tensors[f"image/{image}"]), config.mean, config.std)
    truth = tensors[f"op/to_tensor_normalize/{image}"]
    np.testing.assert_array_equal(result[0].numpy(), truth)


def test_no_operation_of_the_file_is_left_out(tensors):
    there = {key.split("/")[1] for key in tensors if key.startswith("op/")}
    blurs = {f"blur_k9_sigma{sigma}" for sigma in (0.1, 0.5, 1.0, 2.0)}
    assert there == {*OPERATIONS, *blurs, "to_tensor_normalize"}


def channels_first(image):
    return torch.from_numpy(image).permute(2, 0, 1)


def test_every_resized_crop_is_within_one_level(tensors, facts):
    cases = facts["resized_crop"]["cases"]
    assert len(cases) == sum(key.startswith("crop/") for key in tensors)
    for case in cases:
        image = tensors["image/" + case["key"].split("/")[1]]
        box = [case[name] for name in ("top", "left", "height", "width")]
        result = (
            resized_crop(channels_first(image), box, case["size"])
            .permute(1, 2, 0)
            .numpy()
            .astype(np.int64)
        )
        difference = np.abs(result - tensors[case["key"]])
        assert difference.max() <= 1, case
        assert difference.mean() <= 0.3, case


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_whole_chain_of_operations_matches(tensors, facts, number):
    """Colors exactly; a level that the resize moved may be carried through the chain."""
    case = facts["chains"]["cases"][number]
    crop = resized_crop(channels_first(tensors["image/cat"]), case["box"], case["size"])
    crop = crop.flip(-1) if case["flip"] else crop
    order = case["order"] or [-1] * 4
    draws = ColorDraws(
        order=np.array([order], np.int8),
        factors=np.array([[case["b"], case["c"], case["s"], int(case["h"] * 255)]], np.float32),
        gray=np.array([case["gray"]]),
        sigma=np.array([case["sig"] or 0], np.float32),
        solarize=np.array([128.0 if case["sol"] else 256.0], np.float32),
        equalize=np.zeros(1, np.bool_),
    )
    config = CropsConfig(mean=(0.0,) * 3, std=(1 / 255,) * 3)
    result = color.augment_colors(crop[None], draws, config)
    difference = np.abs(result[0].permute(1, 2, 0).numpy() - tensors[f"chain/{number}"])
    # One moved level can jump far where solarize or hue has an edge, so the mean decides.
    assert difference.mean() <= 0.5
    assert np.quantile(difference, 0.99) <= 4


@pytest.mark.parametrize("size", ["375x500", "256x256", "100x400"])
@pytest.mark.parametrize("kind", ["global", "local"])
def test_boxes_are_distributed_as_published(facts, size, kind):
    truth = facts["random_resized_crop_distribution"]["cases"][f"{size}/{kind}"]
    height, width = map(int, size.split("x"))
    draws = 20_000
    numbers = uniforms(0, f"boxes/{size}/{kind}", np.arange(draws), count=22)
    boxes = crop_boxes(
        numbers, np.array([[height, width]]), tuple(truth["scale"]), tuple(truth["ratio"])
    )
    top, left, box_height, box_width = boxes.T.astype(float)
    area = box_height * box_width / (height * width)
    assert abs(area.mean() - truth["area_fraction"]["mean"]) <= 0.006
    for values, name in ((area, "area_hist"), (np.log(box_width / box_height), "log_ratio_hist")):
        counts, _ = np.histogram(values, truth[name]["edges"])
        table = np.array([counts, truth[name]["counts"]])
        table = table[:, table.sum(axis=0) >= 10]
        assert stats.chi2_contingency(table).pvalue > 1e-3, name
    for place, spare, name in (
        (top, height - box_height, "top_fraction"),
        (left, width - box_width, "left_fraction"),
    ):
        mean = (place / np.maximum(spare, 1)).mean()
        assert abs(mean - truth[name]["mean"]) < 0.01, name
    assert abs((box_height == height).mean() - truth["full_height_fraction"]) < 0.005
    assert abs((box_width == width).mean() - truth["full_width_fraction"]) < 0.005
