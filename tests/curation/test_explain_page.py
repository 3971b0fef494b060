"""The page of one image: text stays text, pictures inside, nothing outside."""

import html.parser
import re
from dataclasses import replace

import numpy as np

from dinoforge.curation.explain import Explanation, make_page
from dinoforge.curation.sentences import Compared, Related
from dinoforge.pages.thumbnails import pixel_map, thumbnail

EVIL = '"><script src="https://evil.example/x.js"></script>{{ 7 * 7 }}'


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


PICTURES = {42: thumbnail(noise(20, 30)), 7: pixel_map(noise(4, 4))}
ANSWER = Explanation(
    run="runs/q",
    image_id=42,
    key="cat_1",
    decision="dropped",
    reason="near_duplicate",
    sentences=["It shows what cat_0 shows.", "Similarity 0.9812."],
    row={"image_id": 42, "reason": "duplicate", "width": 512, "height": 384, "size": 99},
    representative=[Related(0, "cat_0", 0.98123, "")],
    neighbors=[Related(7, "cat_7", 0.95, "")],
    compared=[Compared(8, "cat_8", 12, 0.31, 0.9, is_same=False)],
    seeds=[Related(1, "seed_1", None, "rank 3")],
    references=[Related(9, "test_9", None, "")],
)


def show(answer, pictures=PICTURES):
    return make_page(answer, lambda image_id, side: pictures.get(image_id), pictures.get)


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


def test_the_page_of_an_image_states_all_that_is_known():
    page = Page(show(ANSWER))
    for word in (
        *("cat_1: dropped", "runs/q", "It shows what cat_0 shows.", "512 x 384, 99 bytes"),
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
    assert sources == [PICTURES[42].uri, PICTURES[7].uri]
    assert ("img", "class", "map") in page.attributes


def test_parts_about_which_nothing_is_known_are_left_out():
    lists = ("sentences", "representative", "neighbors", "compared", "seeds", "references")
    text = Page(show(replace(ANSWER, **{name: [] for name in lists}))).text
    for heading in (
        "Kept instead",
        "Evidence",
        "Seeds that retrieved",
        "Matching reference",
        "pixels",
    ):
        assert heading not in text


def test_text_in_a_page_stays_text():
    lists = ("representative", "neighbors", "seeds", "references")
    answer = replace(
        ANSWER,
        **dict.fromkeys(("run", "key", "decision"), EVIL),
        **{name: [Related(7, EVIL, None, EVIL)] for name in lists},
        sentences=[EVIL],
        row={EVIL: EVIL, "width": 0},
    )
    page = Page(show(answer))
    assert "script" not in page.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count("{{ 7 * 7 }}") >= 14
    assert page.tags == Page(show(replace(answer, decision="x"))).tags


def test_a_page_needs_nothing_outside_itself():
    text = show(ANSWER)
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
