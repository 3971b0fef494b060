"""The page: every section, self-contained, names of images as text and not as markup."""

import html.parser
import json
import re

import pytest

from dinoforge.evaluation.report.facts import Sources, collect
from dinoforge.evaluation.report.page import make_page
from dinoforge.records import Record

SECTIONS = ("summary", "curation", "duplicates", "retrieval", "leaks", "training", "scores")


class Page(html.parser.HTMLParser):
    """Ids, links and pictures of a page; complains of tags that are not closed."""

    EMPTY = frozenset({"meta", "img", "br", "link", "input", "hr", "path", "line", "rect"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.pictures, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        result = dict(attrs)
        self.ids += [result["id"]] if "id" in result else []
        self.links += [result["href"]] if tag == "a" else []
        self.pictures += [result] if tag == "img" else []
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def result(project):
    return collect(Sources(**project), "A <b>bold</b> title")


@pytest.fixture(scope="module")
def text(result):
    return make_page(*result, None)


def test_every_section_is_there_once_and_every_link_leads_to_one(text):
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(SECTIONS) <= set(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_the_page_asks_the_network_for_nothing(text):
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert all(picture["src"].startswith("data:image/") for picture in Page(text).pictures)


def test_every_picture_has_words_for_those_who_do_not_see_it(text):
    pictures = Page(text).pictures
    assert len(pictures) > 80
    assert all(picture["alt"] for picture in pictures)


def test_titles_and_names_stay_text(text, result):
    assert "A &lt;b&gt;bold&lt;/b&gt; title" in text
    facts, ledger = result
    keys = ledger["key"].copy()
    keys[:] = '"><script>x()</script>'
    ledger = type(ledger)({**ledger.columns, "key": keys}, ledger.run_folder)
    from dataclasses import replace

    from dinoforge.evaluation.report.sheets import make_sheets

    curation = replace(facts.curation, sheets=make_sheets(ledger, threshold=0.95))
    evil = make_page(replace(facts, curation=curation), ledger, None)
    assert "<script>x()" not in evil
    Page(evil)


def test_numbers_of_the_summary_are_on_the_page(text):
    for words in ("78", "30", "−15", "94.4", "15", "near-duplicate above 0.95"):
        assert words in text, words


def test_components_are_counted_by_size(text):
    table = text[
        text.index("<h3>Components") : text.index("</table>", text.index("<h3>Components"))
    ]
    rows = re.findall(r">([^<]+)</th><td[^>]+>([\d,]+)</td><td[^>]+>([\d,]+)<", table)
    sizes = [("2", "7", "14"), ("4 to 5", "3", "13"), ("1,001 to 1,200", "1", "1,200")]
    assert rows == sizes
    assert "1,200 images; the two least similar" in table
    assert "cosine of 0.871" in table


def test_depths_of_the_retrieval_stand_in_the_order_of_numbers(text):
    assert re.findall(r"precision at (\d+)", text) == ["1", "4", "10"]


def test_times_are_written_for_people(text):
    assert "2026-11-24 10:01:10<" in text


def test_a_page_without_runs_states_what_is_missing():
    text = make_page(
        collect(Sources(curation=None, training=None, evaluation=None), "")[0], None, None
    )
    Page(text)
    for words in ("No finished curation", "No evaluation was given", "No run record was found"):
        assert words in text


def test_the_parts_of_a_mixture_are_listed_with_their_passes(tmp_path):
    parts = [{"name": "crawl", "images": 400, "seen": 900, "passes": 2.25}]
    parts += [{"name": "benchmark", "images": 10, "seen": 100, "passes": 10.0}]
    (tmp_path / "run.json").write_text(json.dumps({"command": "train", "parts": parts}))
    facts, _ = collect(Sources(training=tmp_path), "")
    text = re.sub("<[^>]*>", " ", make_page(facts, None, None))
    assert re.search(r"crawl +400 +900 +90\.0\s%? +2\.25", text.replace("\xa0", " "))


def knn(step, k=20, value=0.5):
    return Record(
        benchmark="knn/example",
        model="trained",
        metric="accuracy",
        value=value,
        interval=(value - 0.1, value + 0.1),
        n=100,
        settings={"k": k, "features": "cls", "step": step},
    )


def page_of(records, tmp_path):
    from dinoforge.records import write_records

    write_records(tmp_path / "records.jsonl", records)
    sources = Sources(curation=None, training=None, evaluation=tmp_path)
    return make_page(*collect(sources, ""), None)


def test_several_checkpoints_are_a_curve(tmp_path):
    text = page_of([knn(50, value=0.4), knn(100, value=0.6)], tmp_path)
    assert "k-NN accuracy, k = 20" in text
    assert "k-NN accuracy, k = 20" not in page_of([knn(100)], tmp_path)


def test_the_curve_and_the_differences_are_there_when_no_k_is_twenty(tmp_path, records):
    steps = [knn(step, k=k, value=0.5 + k / 1000) for step in (50, 100) for k in (4, 10)]
    assert "k-NN accuracy, k = 10" in page_of(steps, tmp_path)
    assert "k-NN accuracy, k = 4" not in page_of(steps, tmp_path)
    others = [r for r in records if r.settings.get("k") != 20]
    assert "Trained minus …, k = 10" in page_of(others, tmp_path)


def test_errors_in_meters_have_tables_differences_and_warnings_of_their_own(tmp_path):
    def depth(model, value, interval, metric="rmse", **settings):
        return Record(
            benchmark="depth/nyu",
            model=model,
            metric=metric,
            value=value,
            interval=interval,
            n=80,
            settings=settings,
        )

    pair = {"model_a": "trained", "model_b": "median depth", "features_a": "v3-lin1"}
    records = [
        depth("trained", 1.25, (1.11, 1.35), features="v3-lin1"),
        depth("median depth", 1.23, (1.12, 1.34), baseline=True),
        depth(
            "trained - median depth",
            0.02,
            (-0.01, 0.0512),
            "rmse_difference",
            **pair,
            features_b="",
        ),
    ]
    text = page_of([knn(100), *records], tmp_path)
    Page(text)
    assert "<h3>Depth <span" in text
    assert "Without labels" not in text
    assert "1.25<small>1.11–1.35</small>" in text
    assert "Trained minus …" in text
    assert "\N{MINUS SIGN}0.0100 to 0.0512" in text
    assert "rmse of trained (v3-lin1), 1.25, is no better than that of `median depth`, 1.23" in text


def test_what_a_set_was_not_asked_for_is_not_missing(tmp_path):
    sets = "{toy: {layout: nyu_tars, protocols: [depth, segmentation]}}"
    recipe = f"sets: {sets}\ntrain: []\nprotocols: [knn, logistic, collapse]\n"
    (tmp_path / "config.yaml").write_text(recipe)
    record = Record(benchmark="depth/toy", model="trained", metric="rmse", value=1.0)
    text = page_of([record], tmp_path)
    assert "No linear segmentation: it needs a ViT" in text
    assert "No k-NN" not in text
    assert "No depth" not in text


def test_numbers_without_leaked_images_stand_below_those_with_them(tmp_path):
    from dataclasses import replace

    def leaked(value, dropped):
        settings = {"without_leaked": value, "units_left": 100 - dropped, "units_dropped": dropped}
        record = knn(50)
        return replace(record, settings=record.settings | settings)

    text = page_of([leaked(0.4321, 3)], tmp_path)
    assert "<small>§ 43.2</small>" in text
    assert "§ without 3 test units with leaked images" in text
    assert "<small>§ –</small>" in page_of([leaked(None, 100)], tmp_path)  # none is left
    text = page_of([leaked(0.5, 0)], tmp_path)
    assert "no test image is leaked" in text
    assert "§" not in text
    assert "leaked" not in page_of([knn(50)], tmp_path)
