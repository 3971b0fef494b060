import os
import subprocess
import sys

import pytest
from PIL import Image

from dinoforge.cli import main as entry
from dinoforge.cli.arguments import Command
from dinoforge.cli.main import build_parser, load_command, main


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["curat"], "unknown command `curat` (did you mean `curate`?)"),
        (["train", "x.yaml", "--frsh"], "unknown argument `--frsh`"),
        (["train"], "no recipe given"),
        (["train", "cifar10_cpuu"], "no such recipe"),
        (["quickstart", "steps=3"], "`steps=3` names no recipe"),
        (["quickstart", "training.out=x"], "`training.out` is set by --out"),
        (["report", "out"], "no run given"),
        (["explain", "optimzer.lr"], "neither a run folder nor a recipe key"),
    ],
)
def test_mistakes_are_one_line_with_what_where_and_what_to_do(words, reported, capsys, tmp_path):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert reported in lines[0]
    assert lines[0].count(" - ") >= 2


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    assert "quickstart" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--show", "cifar10_cpu"], ["--list"]], ids=["text", "table"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered, words):
    # A pipe that nobody reads from the start: the first byte cannot be written.
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "dinoforge", "train", *words],
        stdout=write,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_broken_pipe_to_a_worker_is_a_defect(monkeypatch):
    def dies(_):
        raise BrokenPipeError(32, "Broken pipe")

    command = load_command("report")
    monkeypatch.setattr(
        entry, "load_command", lambda _: Command(command.sentence, (), command.add_arguments, dies)
    )
    with pytest.raises(BrokenPipeError):
        entry._run(build_parser().parse_args(["report", "out"]))


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "LONG", "3"],
        ["report", "out", "--curation", "LONG"],
        ["evaluate", "train=[x]", "out=o", "checkpoint=LONG"],
        ["embed", ".", "--out", "LONG"],
        ["curate", "sources=[{paths: [LONG]}]", "out=o"],
        ["curate", "sources=[{paths: [x]}]", "out=LONG"],
        ["status", "LONG"],
        ["train", "LONG", "out=o"],
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_one_line(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    assert main([word.replace("LONG", "x" * 300) for word in words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "x" * 300 in line
    assert line.count(" - ") >= 2


def test_an_argument_that_is_no_path_is_one_line(capsys):
    for words in (["--out", "s3://bucket/x", "."], ["~no-such-user/\n", "--out", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(["embed", *words])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "give a path on this machine" in line
