"""Pages: text stays text, pictures inside, nothing outside; numbers as people write them."""

import base64
import html.parser
import io
import re
from dataclasses import replace

import jinja2
import numpy as np
import pytest
from PIL import Image

from dinoforge.pages.explain import ExplainFacts, ShownImage, explain_page
from dinoforge.pages.formatting import bytes_size, count, duration, percent, points, significant
from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import pixel_map, thumbnail

EVIL = '"><script src="https://evil.example/x.js"></script>{{ 7 * 7 }}'


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def opened(picture):
    kind, data = picture.uri.split(",", 1)
    assert re.fullmatch(r"data:image/(jpeg|png);base64", kind)
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


FACTS = ExplainFacts(
    run="runs/q",
    image=ShownImage(key="cat_1", picture=thumbnail(noise(20, 30)), note="512 x 384, JPEG"),
    decision="dropped",
    sentences=("It shows what cat_0 shows.", "Similarity 0.9812."),
    representative=(ShownImage(key="cat_0", similarity=0.98123),),
    neighbors=(ShownImage(key="cat_7", picture=pixel_map(noise(4, 4)), similarity=0.95),),
    seeds=(ShownImage(key="seed_1", note="rank 3"),),
    references=(ShownImage(key="test_9"),),
    row=(("image_id", "42"), ("reason", "duplicate")),
)


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text; complains of tags that are not closed."""

    EMPTY = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, name, value) for name, value in attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_of_an_image_says_all_that_is_known():
    page = Page(explain_page(FACTS))
    for word in (
        *("cat_1: dropped", "runs/q", "It shows what cat_0 shows.", "512 x 384, JPEG"),
        *(
            "similarity 0.9812",
            "similarity 0.9500",
            "rank 3",
            "test_9",
            "image_id 42",
            "no picture",
        ),
        *("Kept instead", "Evidence", "Seeds that retrieved it", "Matching reference"),
    ):
        assert word in page.text, word
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert sources == [FACTS.image.picture.uri, FACTS.neighbors[0].picture.uri]
    assert ("img", "class", "map") in page.attributes


def test_parts_about_which_nothing_is_known_are_left_out():
    bare = ExplainFacts(run="r", image=ShownImage(key="k"), decision="kept", sentences=())
    text = Page(explain_page(bare)).text
    for heading in ("Kept instead", "Evidence", "Seeds that retrieved", "Matching reference"):
        assert heading not in text


def test_text_in_a_page_stays_text():
    evil = ShownImage(key=EVIL, picture=thumbnail(noise(4, 4)), note=EVIL)
    facts = replace(
        FACTS,
        **dict.fromkeys(("run", "decision"), EVIL),
        **dict.fromkeys(("representative", "neighbors", "seeds", "references"), (evil,)),
        image=evil,
        sentences=(EVIL,),
        row=((EVIL, EVIL),),
    )
    page = Page(explain_page(facts))
    assert "script" not in page.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count("{{ 7 * 7 }}") >= 14
    assert page.tags == Page(explain_page(replace(facts, decision="x"))).tags


def test_a_page_needs_nothing_outside_itself():
    text = explain_page(FACTS)
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!data:)", text)
    assert {"link", "iframe", "object"} & set(page.tags) == set()
    for _, name, value in page.attributes:
        if name in {"src", "href", "srcset", "action"}:
            assert value.startswith(("data:", "#"))
    policy = next(v for _, n, v in page.attributes if n == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


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
