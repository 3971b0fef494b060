"""Keys that are paths: ``~`` once, what is no path refused, any name kept as it is."""

import json
import os
import string
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinoforge.config import config_yaml, describe_keys, load_config
from dinoforge.config.paths import PathText, plain_path, quote_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.sharding.config import ShardingConfig
from dinoforge.demo.index.config import IndexConfig
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.slurm.profile import Profile
from dinoforge.training.config import TrainingConfig

RECIPES = {
    "curation": CurationConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "sharding": ShardingConfig,
    "index": IndexConfig,
}

# Keys with text that is no path.
TEXT = {
    "name",
    "sources[].name",
    "sources[].keys",
    "data.parts[].name",
    "retrieve.rules[].name",
    "retrieve.rules[].seeds",
    "device",
    "export.name",
    "plant.kinds",
}
TEXT |= {"protocols", "features", "sets[].protocols", "sets[].layout", "sets[].splits"}
TEXT |= {"depth.heads", "leakage.encoder", "copies.whitening.set"}
TEXT |= {"duplicates.prefer", "duplicates.prefer_sources", "retrieve.drop_seeds"}
TEXT |= {"ids.column", "ids.field"}
TEXT |= {"publish.to"}  # a URL
TEXT |= {"columns"}
TEXT |= {"model.architecture"}
TEXT |= {"side.columns", "side.on", "filter.where", "scores[].name", "workers"}


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("cls", RECIPES.values(), ids=RECIPES)
def test_every_key_with_text_is_a_path_or_known_to_be_none(cls):
    keys = describe_keys(cls)
    texts = {key for key, known in keys.items() if known.type in {"str", "list[str]"}}
    paths = {key for key in texts if "a path on this machine" in keys[key].range}
    assert texts - paths <= TEXT
    assert paths & {"out", "data.paths", "checkpoint", "sources[].paths"}


def test_the_home_folder_is_filled_in_once():
    sources = "sources=[{paths: [~/p, ./~/q, a~]}]"
    config = load_config(CurationConfig, None, ["out=~", sources, "duplicates.encoder=pixels"])
    assert (config.out, config.sources[0].paths) == ("/home/me", ["/home/me/p", "./~/q", "a~"])
    words = ["out=~root/e", "train=['~']", "baselines=[a=checkpoint:~/b#cls, 'hf:~/c', timm:n@~/d]"]
    config = load_config(EvaluationConfig, None, words)
    assert (config.out, config.train) == (str(Path("~root/e").expanduser()), ["/home/me"])
    assert config.baselines == ["a=checkpoint:/home/me/b#cls", "hf:/home/me/c", "timm:n@/home/me/d"]


@pytest.mark.parametrize(
    "path", ["~no-such-user/x", "s3://bucket/x", "file:///x", "a\0b", "\ud800"], ids=repr
)
def test_what_is_no_path_of_this_machine_is_refused_in_one_line(path):
    with pytest.raises(UsageError) as caught:
        load_config(CurationConfig, None, [f"out={path}", "sources=[{paths: [p]}]"])
    (fault,) = caught.value.faults
    assert fault.what.startswith("`out` is ")
    assert "a path on this machine" in fault.do
    assert str(caught.value).isprintable()


def test_a_name_that_begins_with_a_tilde_is_taken_if_it_exists(tmp_path):
    (tmp_path / "~old x").mkdir()
    config = load_config(CurationConfig, None, ["sources=[{paths: [~old x]}]"])
    assert config.sources[0].paths == ["~old x"]
    assert plain_path(tmp_path.relative_to(tmp_path) / "~x") == "./~x"


@pytest.mark.parametrize("value", ["1.50", "01", "on", "~", "12:00:00"])
def test_a_path_in_a_list_that_yaml_would_change_is_refused(value):
    for words in ([f"train=[a, {value}]"], [f"train=[{value}]"]):
        with pytest.raises(UsageError, match="`train` needs text"):
            load_config(EvaluationConfig, None, [*words, "out=o"])
        load_config(EvaluationConfig, None, [words[0].replace(value, f"'{value}'"), "out=o"])
    with pytest.raises(UsageError, match=r"`sources\[\].paths` needs text"):
        load_config(CurationConfig, None, ["sources=[{paths: [1.50]}]"])


names = st.text(
    st.one_of(
        st.sampled_from(string.printable),
        st.characters(exclude_categories=["Cs", "Co"]),
        st.integers(0x80, 0xFF).map(lambda byte: os.fsdecode(bytes([byte]))),
    ),
    min_size=1,
).filter(lambda name: "\0" not in name and "${" not in name)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    out: PathText
    paths: list[PathText] = field(default_factory=list)


@settings(max_examples=30)
@given(names)
@example("a\nb\x85\u2028\x1b\x7f")
@example("x " * 700)
@example('"\\udce9\\\udce9\\x41" # no')
@example("\N{PILE OF POO}")
def test_any_name_survives_the_command_line_and_the_recipe_of_the_run(tmp_path_factory, name):
    folder = f"./{name}"
    config = load_config(Recipe, None, [f"out={folder}", f"paths={json.dumps([folder])}"])
    assert (config.out, config.paths) == (folder, [folder])
    recipe = tmp_path_factory.getbasetemp() / "any-name.yaml"
    recipe.write_text(config_yaml(config, {"out": "command line"}), encoding="utf-8")
    assert load_config(Recipe, recipe) == config
    assert yaml.safe_load(recipe.read_text(encoding="utf-8"))["out"] == folder


@pytest.mark.parametrize("name", ["caf\udce9", "a\x1bb", "a\x7f", "\N{PILE OF POO}", "a:b#c"])
def test_names_need_no_quotes_because_of_odd_bytes(name):
    config = load_config(CurationConfig, None, [f"sources=[{{paths: [{name}, b]}}]"])
    assert config.sources[0].paths == [name, "b"]


def test_profiles_have_no_paths():
    assert not any("a path" in known.range for known in describe_keys(Profile).values())


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("runs/a", "runs/a"),
        ("a b", "'a b'"),
        ("~a", "'./~a'"),
        ("-a", "./-a"),
        ("/a'b", "'/a'\"'\"'b'"),
    ],
)
def test_a_path_in_a_command_to_copy_is_quoted(path, quoted):
    assert quote_path(Path(path)) == quoted
