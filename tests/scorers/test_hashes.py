"""Perceptual hashes: those of ImageHash, and the distance to a list of them."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from dinoforge.errors import UsageError
from dinoforge.scorers.hashes import perceptual_hash
from dinoforge.scorers.make import make_scorer

# By ImageHash 4.3.2: str(imagehash.phash(Image.fromarray(picture))).
OF_IMAGEHASH = {
    "astronaut": "c2924c5532bddfc8",
    "chelsea": "b15fe6465121175e",
    "coffee": "bb8320376c0f3637",
    "rocket": "c0371bec1be51267",
}


def edited(picture):
    """The picture as others publish it again: smaller, compressed, a little darker."""
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((width // 2, height // 2)).point(lambda v: v * 0.9)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("name", OF_IMAGEHASH)
def test_hashes_are_those_of_imagehash(name):
    assert f"{perceptual_hash(getattr(data, name)()):016x}" == OF_IMAGEHASH[name]


def test_edited_copies_are_near_the_list_and_other_pictures_are_not(tmp_path):
    path = tmp_path / "blocked.txt"
    path.write_text(
        f"# two pictures\n\n{OF_IMAGEHASH['chelsea']} a cat\n{OF_IMAGEHASH['rocket']}\n"
    )
    pictures = [data.chelsea(), edited(data.chelsea()), edited(data.rocket()), data.coffee()]
    same, *copies, other = make_scorer(f"phash:{path}").score(pictures)[:, 0]
    assert same == 0
    assert max(copies) <= 4
    assert other > 16


def test_one_gray_value_has_a_hash(tmp_path):
    assert perceptual_hash(np.full((5, 9, 3), 128, np.uint8)) == perceptual_hash(
        np.full((50, 90, 3), 128, np.uint8)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "list of hashes unreadable: No such file"),
        ("# nothing\n", "the list has no hash"),
        (f"{'0' * 16}\n{'0' * 64}\n", "`0{40}` is no hash - .*:2"),
        ("https://x.org/a.jpg\n", "`https://x.org/a.jpg` is no hash - .*:1"),
    ],
)
def test_a_list_that_is_none_is_one_line(tmp_path, text, message):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        make_scorer(f"phash:{path}")
    assert "\n" not in str(caught.value)
