"""Every printed number is that of its record, at the precision it is printed with."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from rich.console import Console

from dinoforge.evaluation.compare.build import compare, compare_records
from dinoforge.evaluation.compare.columns import Filters
from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Row
from dinoforge.evaluation.compare.documents import as_latex, as_markdown
from dinoforge.evaluation.compare.files import as_csv, as_json, write_comparison
from dinoforge.evaluation.compare.terminal import print_comparison
from dinoforge.records import read_records

NUMBER = r"[-+]?\d+\.\d+"


@pytest.fixture(scope="module")
def comparison(project):
    return compare([f"one={project / 'a'}", f"two_|&={project / 'b'}"], filters=Filters(ks=(20,)))


def expected(comparison):
    """Model, benchmark -> value and ends of the interval, of the records, in percent."""
    return {
        (row.name, column.benchmark): [100 * x for x in (r.value, *r.interval)]
        for row, cells in zip(comparison.rows, comparison.cells, strict=True)
        for column, cell in zip(comparison.columns, cells, strict=True)
        if cell is not None
        for (r,) in [cell.records]
    }


def records_on_disk(project):
    return [r for run in ("a", "b") for r in read_records(project / run / "records.jsonl")]


def test_cells_hold_records_of_the_files(comparison, project):
    on_disk = records_on_disk(project)
    cells = [cell for row in comparison.cells for cell in row if cell is not None]
    assert len(cells) == 9
    assert all(record in on_disk for cell in cells for record in cell.records)


def check(numbers, comparison, rows):
    """Compare ``rows``, name -> texts of its cells, with the records."""
    for (model, benchmark), values in numbers.items():
        at = [column.benchmark for column in comparison.columns].index(benchmark)
        read = [float(n) for n in re.findall(NUMBER, rows[model][at])]
        assert read == [round(value, 1) for value in values]


def test_markdown(comparison):
    text = as_markdown(comparison)
    table = text.split("\n\n")[1].splitlines()[2:]
    rows = {}
    for line in table:
        _, name, *cells, _ = re.split(r"(?<!\\)\|", line)
        rows[re.sub(r"\\(.)", r"\1", name.strip())] = cells
    check(expected(comparison), comparison, rows)


def test_latex(comparison):
    text = as_latex(comparison)
    assert r"two\_$|$\&" in text
    first = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = {}
    for line in first.strip().splitlines():
        name, *cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        rows[name.strip().replace(r"two\_$|$\&", "two_|&")] = cells
    check(expected(comparison), comparison, rows)
    caption = text.split(r"\caption")[1].splitlines()[0]
    assert "18 test images" in caption
    assert r"95 \% intervals" in caption


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(comparison, tmp_path):
    text = re.sub(r"^% (?=\\)", "", as_latex(comparison), flags=re.MULTILINE)
    (tmp_path / "table.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_csv_and_json(comparison):
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    scores = [row for row in rows if row["kind"] == "score"]
    numbers = expected(comparison)
    assert len(scores) == len(numbers)
    for row in scores:
        read = [100 * float(row[name]) for name in ("value", "low", "high")]
        assert read == numbers[row["model"], row["benchmark"]]
    facts = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    for row, cells, plain in zip(comparison.rows, comparison.cells, facts["cells"], strict=True):
        assert [cell and cell["value"] for cell in plain] == [cell and cell.value for cell in cells]
        assert row.name in {one["name"] for one in facts["rows"]}
    differences = [row for row in rows if row["kind"] == "difference"]
    plain = [d for row in facts["differences"] for d in row if d is not None]
    assert [float(row["holm_p"]) for row in differences] == [d["holm_p"] for d in plain]
    assert [row["is_clear"] == "True" for row in differences] == [d["is_clear"] for d in plain]


def test_mieb(comparison, tmp_path):
    files = write_comparison(comparison, tmp_path)
    assert {file.name for file in files if file.parent == tmp_path} == {
        *("compare.md", "compare.tex", "compare.csv", "compare.json", "compare.html")
    }
    numbers = expected(comparison)
    results = [file for file in files if file.name == "knn__colors.json"]
    assert len(results) == 5
    for file in results:
        result = json.loads(file.read_text())
        meta = json.loads((file.parent / "model_meta.json").read_text())
        (scores,) = result["scores"]["test"]
        value, low, high = numbers[meta["name"], "knn/colors"]
        assert [100 * x for x in (scores["main_score"], *scores["accuracy_ci95"])] == [
            value,
            low,
            high,
        ]
        assert (result["task_name"], result["mteb_version"]) == ("knn__colors", None)
        assert len(result["dataset_revision"]) == 64
        assert (scores["hf_subset"], scores["languages"]) == ("default", ["eng-Latn"])


def printed(comparison, width):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_comparison(comparison, console)
    return console.file.getvalue()


def test_terminal(comparison):
    text = printed(comparison, 100)
    lines = {value for values in expected(comparison).values() for value in values}
    first = text.split("Differences")[0]
    read = {float(n) for n in re.findall(NUMBER, first)}
    assert {round(value, 1) for value in lines} <= read


def many(models, benchmarks, name="segmentation/a_long_name"):
    cell = Cell(value=0.7932, interval=(0.7639, 0.8226), deviation=0.012, seeds=3)
    columns = [
        Column(benchmark=f"{name}_{at}", metric="mean_iou", n=100, data="") for at in benchmarks
    ]
    return Comparison(
        rows=tuple(Row(name=f"model-{at}-small") for at in models),
        columns=tuple(columns),
        cells=tuple((cell,) * len(columns) for _ in models),
        differences=tuple((None,) * len(columns) for _ in models),
    )


@pytest.mark.parametrize(("models", "benchmarks"), [(5, 8), (8, 3), (12, 12)])
def test_a_terminal_of_100_columns_holds_every_number(models, benchmarks):
    text = printed(many(range(models), range(benchmarks)), 100)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("79.3 ± 1.2") == models * benchmarks
    assert text.count("[76.4, 82.3]") == models * benchmarks
    if (models, benchmarks) == (5, 8):
        assert text.count("Scores") == 1  # one table


def test_units_and_leaks_are_shown():
    comparison = many([1], [1])
    ((cell,),) = comparison.cells
    column = replace(comparison.columns[0], metric="rmse", is_fraction=False, direction="lower")
    leaked = replace(cell, value=0.4173, interval=None, deviation=None, seeds=1)
    leaked = replace(leaked, units_dropped=3, without_leaked=0.4211)
    text = as_markdown(replace(comparison, columns=(column,), cells=((leaked,),)))
    assert "| 0.417<br>0.421 without leaked |" in text
    assert "↓ lower is better" in text


def test_records_of_one_evaluation(project):
    records = read_records(project / "a" / "records.jsonl")
    comparison = compare_records(records)
    assert [row.name for row in comparison.rows] == ["trained", "untrained", "pixels"]
    assert not any(d for row in comparison.differences for d in row)
    text = as_markdown(comparison)
    for values in expected(comparison).values():
        assert f"{values[0]:.1f}" in text
    assert "collapse" in text


def test_names_of_special_characters():
    comparison = many(range(3), range(2))
    names = ("[5]", r"a_b 100% & #1 $x$ ~^\{}", "日本 <b>|&lt;")
    rows = [replace(row, name=n) for row, n in zip(comparison.rows, names, strict=True)]
    comparison = replace(comparison, rows=tuple(rows), notes=("a note",))
    latex = as_latex(comparison).splitlines()
    assert latex[:3] == [
        r"% \documentclass{article}",
        r"% \usepackage{booktabs,graphicx}",
        r"% \begin{document}",
    ]
    assert "% compile with lualatex and a font that has 日 本" in latex
    assert any(line.startswith("{}[5] & 79.3") for line in latex)
    escaped = r"a\_b 100\% \& \#1 \$x\$ \textasciitilde{}\textasciicircum{}\textbackslash{}\{\} & "
    assert any(line.startswith(escaped) for line in latex)
    markdown = as_markdown(comparison)
    assert r"| a\_b 100% \& \#1 \$x\$ \~^\\\{\} | 79.3" in markdown
    assert r"| 日本 \<b\>\|\&lt; | 79.3" in markdown
