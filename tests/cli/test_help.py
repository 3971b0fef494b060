"""Help, recipes, completion, JSON: what the command offers before anything is run."""

import json
import shlex
import subprocess
import sys

import pytest

from dinoforge.cli.main import COMMANDS, build_parser, load_command, main
from dinoforge.config import RECIPE_KINDS, list_recipes
from dinoforge.encoders.make import ENCODERS

SHELLS = ("bash", "zsh", "tcsh")

HELPS = """
import contextlib, io, json, sys
from dinoforge.cli.main import main
shown = {}
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(words)
    shown[" ".join(words)] = out.getvalue()
heavy = {"torch", "pandas", "faiss", "pyarrow", "numpy", "scipy", "PIL", "omegaconf", "webdataset"}
print(json.dumps({"shown": shown, "heavy": sorted(heavy & sys.modules.keys())}))
"""


@pytest.fixture(scope="module")
def helps():
    """Every help text, in one process that has done nothing else."""
    words = [["--help"], *([name, "--help"] for name in COMMANDS)]
    words += [["--print-completion", shell] for shell in SHELLS]
    done = subprocess.run(
        [sys.executable, "-c", HELPS, json.dumps(words)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_help_and_completion_import_nothing_heavy(helps):
    assert helps["heavy"] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_examples_that_parse(helps, name):
    sentence = load_command(name).sentence
    assert sentence[0].islower()
    assert not sentence.endswith(".")
    text = helps["shown"][f"{name} --help"]
    assert text.startswith(f"Usage: dinoforge {name}")
    lines = [line.strip() for line in text.partition("Examples:")[2].splitlines() if line.strip()]
    # A narrow screen wraps nothing: the examples can be copied.
    assert lines == list(load_command(name).examples)
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["dinoforge", name]
        args, rest = build_parser().parse_known_args(words[1:])
        assert args.command == name
        assert all("=" in word and not word.startswith("-") for word in rest), rest


def test_the_help_of_embed_names_every_encoder(helps):
    text = " ".join(helps["shown"]["embed --help"].split())
    assert all(name in text for name in ENCODERS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_explained(name):
    actions = build_parser()._subparsers._group_actions[0].choices[name]._actions
    assert all(action.help for action in actions)


def test_the_first_help_names_every_command_and_where_to_start(helps):
    text = helps["shown"]["--help"]
    assert all(name in text for name in COMMANDS)
    assert "dinoforge quickstart" in text


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_script_of_its_shell(helps, shell):
    script = helps["shown"][f"--print-completion {shell}"]
    assert all(name in script for name in COMMANDS)
    assert shell == "tcsh" or "--update" in script
    if shell == "bash":
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    elif shell == "zsh":
        assert script.startswith("#compdef dinoforge")


@pytest.mark.parametrize(("command", "kind"), RECIPE_KINDS.items())
def test_recipes_are_listed_shown_and_copied_as_they_are(capsys, tmp_path, command, kind):
    recipes = list_recipes(kind)
    assert recipes
    assert main([command, "--list"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in recipes)
    assert main([command, "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed.keys() == recipes.keys()
    assert all(listed.values()), "the first line of every recipe describes it"
    name = next(iter(recipes))
    assert main([command, "--show", name]) == 0
    assert capsys.readouterr().out == recipes[name].read_text()
    target = tmp_path / "mine/my.yaml"
    assert main([command, "--copy", name, str(target)]) == 0
    assert target.read_bytes() == recipes[name].read_bytes()
    assert main([command, "--copy", name, str(target)]) == 2
    assert "file exists" in capsys.readouterr().err


def test_keys_and_sections_are_explained_in_json(capsys):
    assert main(["explain", "seed", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert {answer["command"] for answer in answers} == RECIPE_KINDS.keys()
    assert main(["explain", "duplicates", "--json"]) == 0
    keys = [answer["key"] for answer in json.loads(capsys.readouterr().out)]
    assert "duplicates.threshold" in keys
    assert all(key.startswith("duplicates.") for key in keys)


def test_flags_may_stand_before_and_behind_the_keys(capsys, tmp_path):
    for words in (
        ["--on", "local:x", "sources=[{paths: [x]}]", f"out={tmp_path / 'r'}"],
        ["sources=[{paths: [x]}]", "--on", "local:x", f"out={tmp_path / 'r'}"],
    ):
        assert main(["curate", *words]) == 2
        assert "unknown place to run `local:x`" in capsys.readouterr().err
