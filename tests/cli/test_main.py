import os
import subprocess
import sys

import pytest

from dinoforge.cli import main as entry
from dinoforge.cli.arguments import Command
from dinoforge.cli.main import COMMANDS, build_parser, load_command, main


def dinoforge(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "dinoforge", *words], capture_output=True, text=True, cwd=cwd
    )


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from dinoforge.cli.main import build_parser; build_parser().format_help();"
        "heavy = {'torch', 'pandas', 'faiss', 'pyarrow', 'numpy', 'omegaconf'} & set(sys.modules);"
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_and_examples_that_parse(name):
    command = load_command(name)
    assert command.sentence[0].islower()
    assert not command.sentence.endswith(".")
    for example in command.examples:
        words = example.replace("'", "").split()
        assert words[:2] == ["dinoforge", name]
        _, rest = build_parser().parse_known_args(words[1:])
        assert all("=" in word or word in {"on", "birds"} for word in rest)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["curat"], "unknown command `curat` (did you mean `curate`?)"),
        (["train", "x.yaml", "--frsh"], "unknown argument `--frsh`"),
        (["train"], "no recipe given"),
        (["train", "cifar10_cpuu"], "no such recipe"),
        (["quickstart", "steps=3"], "`steps=3` names no recipe"),
        (["quickstart", "training.out=x"], "`training.out` is a folder of this command's own"),
        (["report", "out"], "no run given"),
        (["explain", "optimzer.lr"], "neither a run folder nor a recipe key"),
    ],
)
def test_mistakes_are_one_line_with_what_where_and_what_to_do(words, told, capsys, tmp_path):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert told in lines[0]
    assert lines[0].count(" - ") >= 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts_name_every_command(shell, capsys):
    assert main(["--print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_recipes_are_listed_shown_and_copied(capsys, tmp_path):
    assert main(["train", "--list"]) == 0
    assert "cifar10_cpu" in capsys.readouterr().out
    assert main(["train", "--show", "cifar10_cpu"]) == 0
    shown = capsys.readouterr().out
    assert main(["train", "--copy", "cifar10_cpu", str(tmp_path / "mine.yaml")]) == 0
    assert (tmp_path / "mine.yaml").read_text() == shown
    assert main(["train", "--copy", "cifar10_cpu", str(tmp_path / "mine.yaml")]) == 2


def test_a_key_is_explained(capsys):
    assert main(["explain", "optimizer.lr"]) == 0
    assert "meaning" in capsys.readouterr().out


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    # A pipe that nobody reads from the start: the first byte cannot be written.
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "dinoforge", "train", "--show", "cifar10_cpu"],
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
