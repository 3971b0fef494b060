"""The page of a comparison: its numbers are those of the comparison, and nothing else is needed."""

import html.parser
import json
import math
import re
from dataclasses import replace

import pytest

from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Curve, Difference, Row
from dinoforge.evaluation.compare.page import as_page, read_provenance
from dinoforge.evaluation.compare.published import with_published
from dinoforge.records import Record, write_records

KNN = Column(benchmark="knn/imagenet", metric="accuracy", n=50000, data="0123456789abcdef" * 4)
DEPTH = Column(
    benchmark="depth/nyu", metric="rmse", n=654, data="", direction="lower", is_fraction=False
)
EVIL = '"><script>evil()</script>'


class Page(html.parser.HTMLParser):
    """Elements of a page with their attributes and text; complains of tags that are not closed."""

    EMPTY = frozenset({"meta", "input", "wbr", "path", "line", "circle", "rect"})

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []  # (tag, attributes, text inside)
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in self.EMPTY:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **wanted):
        return [
            (attributes, text)
            for name, attributes, text in self.elements
            if name == tag and wanted.items() <= attributes.items()
        ]


def record(column, value, **settings):
    return Record(
        benchmark=column.benchmark,
        model="trained",
        metric=column.metric,
        value=value,
        n=column.n,
        settings=settings,
    )


def make(names=("old", "new", "third")):
    """Three models on two benchmarks; the third has no depth, `new` is two seeds."""
    rows = tuple(
        Row(name=name, sources=(f"runs/{name}",), checkpoint=f"{name}.pth", is_baseline=not at)
        for at, name in enumerate(names)
    )
    seeds = (record(KNN, 0.80), record(KNN, 0.83))
    cells = (
        (
            Cell(value=0.7123, interval=(0.70, 0.724), k=20, features="cls", selection="none"),
            Cell(value=0.5, interval=(0.45, 0.55), features="v2-lin4"),
        ),
        (
            Cell(
                value=0.815,
                interval=(0.80, 0.83),
                deviation=0.0212,
                seeds=2,
                k=20,
                features="patch_mean",
                selection="test-peek",
                without_leaked=0.8011,
                units_dropped=17,
                records=seeds,
                is_bold=True,
            ),
            Cell(value=0.417, features="v2-lin4", records=(record(DEPTH, 1, features="v2-lin4"),)),
        ),
        (Cell(value=math.nan, k=20), None),
    )
    clear = Difference(
        value=0.1027, interval=(0.09, 0.12), p=1e-5, holm_p=2e-5, how="paired on 50000 units"
    )
    unclear = Difference(
        value=-0.083, interval=(-0.2, 0.01), p=0.2, holm_p=0.2, how="paired on 654 units"
    )
    untested = Difference(value=math.nan, how="unpaired: no values per image")
    curve = Curve(
        row=1,
        column=0,
        steps=(100, 200),
        values=(0.5, 0.815),
        intervals=(None, (0.80, 0.83)),
        deviations=(0.03, 0.0212),
    )
    return Comparison(
        rows=rows,
        columns=(KNN, DEPTH),
        cells=cells,
        differences=((None, None), (clear, unclear), (untested, None)),
        curves=(curve,),
        notes=("new: mean over 2 trainings",),
    )


@pytest.fixture(scope="module")
def page():
    return Page(as_page(with_published(make())))


def cells_of(page, model):
    """Texts of the cells of the scores table in the row of a model."""
    at = next(
        number
        for number, (tag, attributes, _) in enumerate(page.elements)
        if tag == "tr" and attributes.get("data-model") == model
    )
    row = [e for e in page.elements[at + 1 :] if e[0] in {"td", "tr"}]
    end = next((n for n, e in enumerate(row) if e[0] == "tr"), len(row))
    return [(attributes, " ".join(text.split())) for _, attributes, text in row[:end]]


def test_scores_are_those_of_the_comparison(page):
    (_, first), (_, second) = cells_of(page, "old")
    assert first == "71.2 70.0–72.4"
    assert second == "0.500 0.450–0.550"
    (attributes, text), (_, depth) = cells_of(page, "new")
    assert text == "81.5† ± 2.1, 2 seeds80.0–83.080.1 without leaked"
    assert attributes["data-value"] == "0.815"
    assert depth == "0.417"
    assert [text for _, text in cells_of(page, "third")] == ["–", "–"]


def test_only_the_best_score_and_clear_differences_are_bold(page):
    assert [text for _, text in page.all("strong")] == ["81.5", "+10.3"]


def test_published_rows_are_in_a_group_of_their_own_with_their_source(page):
    (group,) = page.all("tbody", **{"class": "reference"})
    assert "Published, not measured here" in group[1]
    assert "DINOv2 ViT-S/14" in group[1]
    assert "new" not in group[1]
    cells = [text for _, text in cells_of(page, "DINOv2 ViT-S/14 (published)")]
    assert cells == ["79.0", "0.417"]
    (table,) = page.all("div", **{"aria-label": "Published numbers"})
    assert "model card of facebookresearch/dinov2 b8931f7, Evaluation" in table[1]


def test_differences_are_listed_and_counted(page):
    (table,) = page.all("div", **{"aria-label": "All differences"})
    text = " ".join(table[1].split())
    for number in ("+10.3", "+9.0 to +12.0", "−0.083", "−0.200 to +0.010", "0.200"):
        assert number in text, number
    rows = page.all("div", **{"aria-label": "Differences by model"})[0][1]
    # better, worse, not clear, not tested
    assert re.findall(r"(new|third)(\d)(\d)(\d)(\d)", "".join(rows.split())) == [
        ("new", "1", "0", "1", "0"),
        ("third", "0", "0", "0", "1"),
    ]
    (lead,) = page.all("p", **{"class": "lead"})
    assert lead[1] == "3 models on 2 benchmarks. 1 of 2 tested differences from old is clear."


def test_a_lower_error_is_called_better():
    one = make()
    lower = Difference(value=-0.1, interval=(-0.2, -0.05), p=1e-5, holm_p=1e-5, how="paired on 9")
    page = Page(as_page(replace(one, differences=((None, None), (None, lower), (None, None)))))
    rows = page.all("div", **{"aria-label": "Differences by model"})[0][1]
    assert "new1000" in "".join(rows.split())


def test_plots_show_models_seeds_the_baseline_and_published_numbers(page):
    plots = [text for _, text in page.all("svg") if text.startswith("knn/imagenet: ")]
    assert "new 81.5 (80 to 83)" in plots[0]
    assert "old is 71.2" in plots[0]
    assert len(page.all("circle", **{"class": "seed"})) == 2
    assert len(page.all("circle", **{"class": "ring c5"})) > 20
    (chart,) = (attributes for attributes, _ in page.all("svg") if "data-chart" in attributes)
    assert json.loads(chart["data-chart"])["y"] == [["50", "81.5"]]
    assert len(page.all("path", **{"class": "band c0"})) == 1


def test_settings_say_what_features_and_k_were_chosen_on_and_what_leaked(page):
    (table,) = page.all("div", **{"aria-label": "Settings of all scores"})
    text = " ".join(re.sub(r"\s+", " ", table[1]).split())
    assert "patch_mean20test-peek22.11780.1" in text
    assert "cls20none10" in text


def test_the_page_asks_the_network_for_nothing_and_has_landmarks(page):
    text = as_page(with_published(make()))
    assert not re.findall(r"https?://|url\(|@import|\bsrc=", text)
    assert len(page.all("main")) == len(page.all("h1")) == 1
    assert page.all("nav", **{"aria-label": "Sections"})
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for attributes, _ in page.all("a")}
    assert links == {f"#{name}" for name in ids if name != "words"}
    regions = page.all("div", role="region")
    assert len(regions) >= 6
    for attributes, _ in regions:
        assert attributes["tabindex"] == "0"
        assert attributes["aria-label"]
    # Without the script all is shown, but what needs it.
    assert [a["class"] for _, a, _ in page.elements if "hidden" in a] == ["filter"]
    assert page.all("label", **{"for": "words"})
    assert page.all("input", id="words")


def test_equal_comparisons_give_equal_bytes():
    assert as_page(with_published(make())) == as_page(with_published(make()))


def test_names_stay_text():
    one = make(("old", EVIL, "third"))
    columns = (replace(KNN, benchmark=f"knn/{EVIL}"), DEPTH)
    text = as_page(replace(one, columns=columns, notes=(EVIL,)))
    assert "<script>evil" not in text
    Page(text)


def test_without_a_baseline_steps_or_publications_their_sections_are_out():
    one = make()
    rows = (replace(one.rows[0], is_baseline=False),)
    alone = Comparison(
        rows=rows, columns=one.columns, cells=one.cells[:1], differences=((None, None),)
    )
    page = Page(as_page(alone))
    ids = {attributes["id"] for _, attributes, _ in page.elements if "id" in attributes}
    assert ids == {"summary", "scores", "words", "benchmarks", "settings", "provenance"}
    (lead,) = page.all("p", **{"class": "lead"})
    assert lead[1] == "1 model on 2 benchmarks."


def test_many_models_have_a_panel_per_benchmark_and_few_one_per_model():
    one = make()
    few = Page(as_page(one))
    assert few.all("div", **{"data-model": "new"})
    many = replace(
        one,
        rows=tuple(replace(row, name=f"{row.name}{n}") for n in range(3) for row in one.rows),
        cells=one.cells * 3,
        differences=one.differences * 3,
        curves=tuple(replace(one.curves[0], row=row) for row in range(9)),
    )
    page = Page(as_page(many))
    assert not page.all("div", **{"data-model": "new0"})
    units = [text for _, text in page.all("span", **{"class": "muted"})]
    assert [unit for unit in units if "models" in unit] == ["%, models 1 to 6", "%, models 7 to 9"]
    assert "m, lower is better" in units


def test_provenance_is_that_of_the_run_folders(tmp_path):
    run = tmp_path / "old" / "evaluation" / "step-000000200"
    run.mkdir(parents=True)
    write_records(run / "records.jsonl", [record(KNN, 0.5)])
    facts = {
        "argv": ["evaluate", "quickstart", "out=x"],
        "commit": "abc1234",
        "host": "node7",
        "started": "2026-11-24T10:01:10+00:00",
    }
    (run / "run.json").write_text(json.dumps(facts))
    one = make()
    rows = [replace(row, sources=(str(tmp_path / row.name),)) for row in one.rows]
    one = replace(one, rows=tuple(rows))
    runs = read_provenance(one)
    unknown = [str(tmp_path / "new"), str(tmp_path / "third")]
    assert list(runs) == [str(run), *unknown]
    page = Page(as_page(one, runs))
    (facts_of_run,) = page.all("dl")
    assert len([text for _, text in page.all("p") if text.startswith("No run.json")]) == 2
    for text in ("dinoforge evaluate quickstart out=x", "abc1234", "node7", "2026-11-24 10:01:10"):
        assert text in facts_of_run[1]


def test_a_metric_that_is_neither_better_nor_worse_is_not_counted():
    one = make()
    columns = (replace(KNN, direction=""), DEPTH)
    page = Page(as_page(replace(one, columns=columns)))
    rows = page.all("div", **{"aria-label": "Differences by model"})[0][1]
    assert "new0010" in "".join(rows.split())
    assert "third" not in rows
