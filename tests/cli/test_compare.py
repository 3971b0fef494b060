import json

import pytest

from dinoforge.cli.main import main
from dinoforge.records import Record, write_records


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("a", "b")):
        record = Record(
            benchmark="knn/x",
            model="trained",
            metric="accuracy",
            value=0.5 + number / 10,
            interval=(0.4, 0.7),
            n=50,
            settings={"k": 20, "features": "cls"},
            data="0" * 64,
        )
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "records.jsonl", [record])
    return tmp_path


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv", "json", "html", "mieb"])
def test_every_format_on_stdout(folder, capsys, form):
    assert main(["compare", str(folder / "a"), f"two={folder / 'b'}", "--format", form]) == 0
    out = capsys.readouterr().out
    assert "two" in out
    assert ("60.0" in out) or ("0.6" in out)
    if form in {"json", "mieb"}:
        assert json.loads(out)


def test_json_and_files(folder, capsys):
    out = folder / "out"
    runs = [str(folder / "a"), str(folder / "b")]
    assert main(["compare", *runs, "--json", "--out", str(out)]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["a", "b"]
    assert {"compare.md", "compare.tex", "compare.csv", "compare.json", "compare.html", "mieb"} <= {
        path.name for path in out.iterdir()
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--baseline", "c"], "there is no model `c` - --baseline - choose from a, b, or none"),
        (["--benchmark", "birds"], "nothing matches - --benchmark birds - there are knn/x"),
        (["--k", "7"], "nothing matches - --k 7 - there are 20"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, options, line):
    assert main(["compare", str(folder / "a"), str(folder / "b"), *options]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_an_unknown_format(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(folder / "a"), "--format", "word"])
    assert stop.value.code == 2
    assert "invalid choice: 'word'" in capsys.readouterr().err


def test_a_folder_without_records(folder, capsys):
    assert main(["compare", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no records - {folder} - give the out=FOLDER")


def test_published_numbers_stand_beside_measured_ones_unless_they_are_not_wanted(tmp_path, capsys):
    record = Record(
        benchmark="knn/imagenet",
        model="trained",
        metric="accuracy",
        value=0.6,
        interval=(0.59, 0.61),
        n=50000,
        settings={"k": 20, "features": "cls"},
    )
    write_records(tmp_path / "records.jsonl", [record])
    assert main(["compare", f"new={tmp_path}", "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "| DINO ViT-S/16 (published) | 74.5 |" in out
    assert "knn/imagenet k = 20 (%)" in out
    assert "published, not measured here: DINO ViT-S/16 and 8 more: README of" in out
    assert main(["compare", f"new={tmp_path}", "--format", "markdown", "--no-published"]) == 0
    assert "published" not in capsys.readouterr().out


def test_a_place_that_cannot_be_written(folder, capsys):
    (folder / "file").write_text("")
    assert main(["compare", str(folder / "a"), "--out", str(folder / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write")
