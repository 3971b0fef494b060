"""Pages: text stays text, pictures inside, nothing outside; numbers as people write them."""

import base64
import io
import re

import jinja2
import numpy as np
import pytest
from PIL import Image

from dinoforge.pages.formatting import bytes_size, count, duration, percent, points, significant
from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import pixel_map, thumbnail


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def opened(picture):
    kind, data = picture.uri.split(",", 1)
    assert re.fullmatch(r"data:image/(jpeg|png);base64", kind)
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_a_template_of_the_caller_extends_ours_and_misses_nothing_silently(tmp_path):
    (tmp_path / "mine.html").write_text(
        '{% extends "page.html" %}\n'
        "{% block content %}<p>{{ words }} {{ 0.5|percent }}</p>{% endblock %}"
    )
    made = render("mine.html", folder=tmp_path, title="t", words="<b>")
    assert "<p>&lt;b&gt; 50.0\N{NO-BREAK SPACE}%</p>" in made
    with pytest.raises(jinja2.UndefinedError, match="words"):
        render("mine.html", folder=tmp_path, title="t")


@pytest.mark.parametrize(
    ("shape", "size"),
    [((400, 200), (48, 96)), ((20, 30), (30, 20)), ((1, 5000), (96, 1)), ((5000, 1), (1, 96))],
)
def test_a_thumbnail_is_small_and_never_enlarged(shape, size):
    made = thumbnail(noise(*shape))
    picture = opened(made)
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    assert picture.size == size == (made.width, made.height)
    assert not made.is_map


def test_a_thumbnail_shows_its_picture_and_repeats_its_bytes():
    ramp = np.linspace(0, 255, 60).astype(np.uint8)[:, None, None].repeat(80, 1).repeat(3, 2)
    made = thumbnail(ramp)
    shown = np.asarray(opened(made)).astype(int)
    assert np.abs(shown - ramp).max() < 12
    assert made == thumbnail(ramp.copy())
    assert len(thumbnail(noise(90, 90), quality=30).uri) < len(thumbnail(noise(90, 90)).uri)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (1, 1)])
def test_a_map_keeps_every_value(shape):
    values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for given in (values, values[::-1]):
        made = pixel_map(given)
        assert made.is_map
        np.testing.assert_array_equal(np.asarray(opened(made)), given)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (count(1234567), "1,234,567"),
        (count(-3.6), "−4"),
        (percent(0.9876), "98.8 %"),
        (percent(-0.05, 0), "−5 %"),
        (percent(None), "–"),
        (percent(float("nan")), "–"),
        (points(0.0123), "+1.2"),
        (points(-0.0123, 2), "−1.23"),
        (points(float("inf")), "–"),
        (significant(0), "0"),
        (significant(3.14159), "3.14"),
        (significant(2.0), "2"),
        (significant(2.0, zeros=True), "2.00"),
        (significant(999.6), "1,000"),
        (significant(12345.6), "12,346"),
        (significant(-0.0012), "−0.0012"),
        (significant(0.000123456), "1.23e−4"),
        (significant(2e9), "2e9"),
        (significant(float("nan")), "–"),
        (duration(0.25), "0.2 s"),
        (duration(59.7), "1 min 0 s"),
        (duration(192), "3 min 12 s"),
        (duration(7500), "2 h 5 min"),
        (bytes_size(0), "0 B"),
        (bytes_size(1536), "1.5 KiB"),
        (bytes_size(3 * 2**40), "3.0 TiB"),
    ],
)
def test_numbers_are_written_for_people(made, text):
    assert made.replace("\N{NO-BREAK SPACE}", " ") == text
