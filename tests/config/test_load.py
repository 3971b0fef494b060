import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.config import (
    changed_keys,
    config_yaml,
    describe_keys,
    find_list,
    find_recipe,
    load_config,
    load_recipe,
    recipe_folder,
)
from dinoforge.errors import Fault, UsageError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3  # step size at batch 1024
    kind: Literal["adamw", "lars"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)

    def faults(self, at):
        if self.lr <= 0:
            yield Fault(f"`{at}.lr` is {self.lr}", "recipe", "give lr > 0")


@dataclass(frozen=True, kw_only=True)
class Source:
    role: Literal["pool", "seed"] = "pool"
    paths: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def faults(self, at):
        if "" in self.paths:
            yield Fault(f"`{at}.paths` names nothing", "recipe", "name a folder")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    out: str = "???"
    name: str = "x"
    # how many updates
    steps: int = 10
    optimizer: Optimizer = field(default_factory=Optimizer)
    sources: list[Source] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_defaults_recipe_and_command_line_win_in_this_order(tmp_path):
    file = recipe(tmp_path, "out: here\nsteps: 20\noptimizer:\n  lr: 1e-2\n")
    loaded = load_recipe(Recipe, file, ["steps=30"])
    assert loaded.config.steps == 30
    assert loaded.config.optimizer.lr == 0.01
    assert loaded.config.optimizer.betas == (0.9, 0.999)
    assert loaded.origins == {"out": "recipe", "steps": "command line", "optimizer.lr": "recipe"}


def test_a_recipe_may_be_an_open_pipe_but_no_other(tmp_path):
    reading, writing = os.pipe()
    os.close(writing)
    assert find_recipe("training", f"/dev/fd/{reading}").exists()
    os.close(reading)
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in (f"/dev/fd/{reading}", str(tmp_path / "pipe.yaml")):
        with pytest.raises(UsageError, match="no such recipe"):
            find_recipe("training", name)


def test_a_list_that_is_not_here_is_one_of_the_installed_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "labels/cifar10-4-0.txt"
    assert find_list("training", name) == recipe_folder("training") / name
    assert find_list("training", "labels/none.txt") == Path("labels/none.txt")
    (tmp_path / "labels").mkdir()
    (tmp_path / name).touch()
    assert find_list("training", name) == Path(name)


def test_all_faults_are_reported_at_once(tmp_path):
    file = recipe(tmp_path, "out: here\nstep: 20\noptimizer:\n  lr: fast\n")
    with pytest.raises(UsageError) as caught:
        load_config(Recipe, file, ["optimizer.kind=adam", "optim.lr=1", "oops"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert any("did you mean `steps`?" in line and ":2 - " in line for line in lines)
    assert any("`optimizer.lr` got 'fast', need float" in line for line in lines)
    assert any("adamw | lars" in line for line in lines)
    assert any("did you mean `optimizer.lr`?" in line for line in lines)


@pytest.mark.parametrize("value", ["no", "12:00:00", "010"])
def test_text_that_yaml_would_change_is_refused_in_a_recipe(tmp_path, value):
    with pytest.raises(UsageError, match="put it in quotes"):
        load_config(Recipe, recipe(tmp_path, f"out: a\nname: {value}\n"))


@pytest.mark.parametrize("value", ["no", "12:00:00", "010"])
def test_text_on_the_command_line_is_taken_as_typed(value):
    assert load_config(Recipe, None, ["out=a", f"name={value}"]).name == value


def test_rules_finiteness_and_required_keys_are_checked():
    with pytest.raises(UsageError, match="give lr > 0"):
        load_config(Recipe, None, ["out=a", "optimizer.lr=-1"])
    with pytest.raises(UsageError, match=r"`optimizer.lr` is nan"):
        load_config(Recipe, None, ["out=a", "optimizer.lr=nan"])
    with pytest.raises(UsageError, match="`out` is required"):
        load_config(Recipe, None, [])


def error_lines(*overrides, file=None, **more):
    with pytest.raises(UsageError) as caught:
        load_recipe(Recipe, file, overrides, **more)
    return [str(fault) for fault in caught.value.faults]


def test_a_broken_rule_names_the_line_or_the_command_line_that_gave_the_key(tmp_path):
    text = "out: here\nsources:\n- paths: ['']\noptimizer:\n  lr: -1\n"
    file = recipe(tmp_path, text)
    assert set(error_lines(file=file)) == {
        f"`sources[0].paths` names nothing - {file}:2 - name a folder",
        f"`optimizer.lr` is -1.0 - {file}:5 - give lr > 0",
    }
    lines = error_lines("optimizer.lr=-2", "sources=[]", file=file)
    assert lines == ["`optimizer.lr` is -2.0 - command line - give lr > 0"]
    assert error_lines("optimizer.lr=.inf", "sources=[]", file=file) == [
        "`optimizer.lr` is inf - command line - give a finite number"
    ]


@pytest.mark.parametrize("key", ["steps", "out", "name", "sources", "optimizer.betas"])
def test_what_omegaconf_would_fill_in_is_refused(key, tmp_path):
    value = "['${steps}', 1]" if key in {"sources", "optimizer.betas"} else "${steps}"
    (line,) = error_lines("out=a", f"{key}={value}")
    assert f"`{key}` got" in line
    assert "is not filled in - command line - write the value itself" in line
    tree = f"  {key.partition('.')[2]}: {value}" if "." in key else ""
    text = f"{key.partition('.')[0]}:{(tree and chr(10) + tree) or ' ' + value}\n"
    (line,) = error_lines(*([] if key == "out" else ["out=a"]), file=recipe(tmp_path, text))
    assert "is not filled in" in line


def test_a_section_on_the_command_line_is_its_keys():
    loaded = load_recipe(Recipe, None, ["out=a", "optimizer={lr: 0.5, kind: lars}"])
    assert (loaded.config.optimizer.lr, loaded.config.optimizer.kind) == (0.5, "lars")
    assert loaded.origins["optimizer.lr"] == "command line"
    (line,) = error_lines("out=a", "optimizer={lr: 0.5, king: lars}")
    assert line.startswith("unknown key `optimizer.king` (did you mean `optimizer.kind`?) - comm")


def test_keys_are_shown_as_the_user_writes_them():
    lines = error_lines(
        *("stepz=3", "steps=x", "oops", "name=${x}", "optimizer.betas=[1, b]"), shown_prefix="one."
    )
    assert len(lines) == 6
    for start in (
        "unknown key `one.stepz` (did you mean `one.steps`?) - command line - see `dinoforge "
        "explain steps`",
        "`one.steps` got 'x', need int",
        "`one.oops` is not key=value - command line - write e.g. one.seed=1",
        "`one.name` got '${x}'",
        "`one.optimizer.betas` got",
        "`one.out` is required - command line - add one.out=VALUE",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert error_lines("out=a", "optimizer.lr=0", shown_prefix="one.") == [
        "`one.optimizer.lr` is 0.0 - command line - give lr > 0"
    ]


SECTIONS = "list[{role, paths, names}]"
BETAS = "tuple[float, float]"


@pytest.mark.parametrize(
    ("given", "what", "key"),
    [
        ("sources={paths: [p]}", f"`sources` got {{'paths': ['p']}}, need {SECTIONS}", "sources"),
        ("sources={a: {b: c}}", f"`sources` got {{'a': {{'b': 'c'}}}}, need {SECTIONS}", "sources"),
        ("sources.0.role=seed", "`sources` got {'0': {'role': 'seed'}}", "sources"),
        ("sources=p", f"`sources` got 'p', need {SECTIONS}", "sources"),
        ("sources=null", f"`sources` got None, need {SECTIONS}", "sources"),
        ("sources=[{}, p]", "`sources[1]` got 'p', need {role, paths, names}", "sources"),
        (
            "sources=[{role: pol}]",
            "`sources[0].role` got 'pol', need pool | seed",
            "sources[].role",
        ),
        ("sources=[{paths: p}]", "`sources[0].paths` got 'p', need list[str]", "sources[].paths"),
        ("sources=[{paths: {a: p}}]", "`sources[0].paths` got {'a': 'p'}", "sources[].paths"),
        (
            "sources=[{names: [a]}]",
            "`sources[0].names` got ['a'], need dict[str",
            "sources[].names",
        ),
        ("aliases=[a]", "`aliases` got ['a'], need dict[str, str]", "aliases"),
        ("optimizer=1", "`optimizer` got 1, need {lr, kind, betas}", "optimizer"),
        ("optimizer=[{}]", "`optimizer` got [{}], need {lr, kind, betas}", "optimizer"),
        ("optimizer.betas={a: 1}", f"`optimizer.betas` got {{'a': 1}}, need {BETAS}", None),
        ("optimizer.betas.0=1", f"`optimizer.betas` got {{'0': 1}}, need {BETAS}", None),
        ("optimizer={betas: [1, 2, 3]}", "`optimizer.betas` got [1, 2, 3], need tuple", None),
        ("steps.more=1", "`steps` got {'more': 1}, need int", "steps"),
        ("name.more=1", "`name` got {'more': 1}, need str", "name"),
        (f"steps={'x' * 200}", f"`steps` got '{'x' * 99}..., need int", "steps"),
    ],
)
def test_a_value_of_another_shape_is_named_with_its_key_and_what_it_needs(
    tmp_path, given, what, key
):
    (line,) = error_lines("out=a", given)
    assert line.startswith(what)
    assert line.endswith(f" - command line - see `dinoforge explain {key or 'optimizer.betas'}`")
    name, _, value = given.partition("=")
    tree = value
    for part in reversed(name.split(".")):
        tree = f"{{{part}: {tree}}}"
    (line,) = error_lines(file=recipe(tmp_path, f"{{out: a, {tree[1:]}\n"))
    assert line.startswith(what)
    assert f" - {tmp_path}/recipe.yaml:1 - see " in line


scalars = st.sampled_from([None, True, 1, -1.5, "a", "", "seed", 1 << 70, float("nan")])
names = st.sampled_from(["out", "role", "paths", "names", "lr", "betas", "0", "", "a.b", "1"])
values = st.recursive(
    scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(names, part, max_size=3)
)
keys = st.sampled_from(
    ["out", "steps", "optimizer", "optimizer.betas", "sources", "sources.0", "aliases", "aliases.a"]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(keys, values), max_size=3))
def test_any_value_of_any_key_is_read_or_refused_in_lines(given):
    words = [f"{key}={json.dumps(value)}" for key, value in given]
    try:
        load_config(Recipe, None, ["out=a", *words])
    except UsageError as error:
        for line in str(error).splitlines():
            assert line.count(" - ") >= 2
            assert "Config" not in line  # of OmegaConf's messages


def test_lists_of_sections_are_typed(tmp_path):
    file = recipe(tmp_path, "out: a\nsources:\n- role: seed\n  paths: [x]\n")
    assert load_config(Recipe, file).sources == [Source(role="seed", paths=["x"])]
    with pytest.raises(UsageError, match=r"sources\[\].role"):
        load_config(Recipe, None, ["out=a", "sources=[{rol: seed}]"])


def test_a_map_of_texts_keeps_its_keys_whatever_they_are(tmp_path):
    text = "out: here\naliases: {St. Bernard: dog, '255': '', a.b.c: '007'}\n"
    loaded = load_recipe(Recipe, recipe(tmp_path, text), ["aliases={'no': yes it is, a.b.c: d}"])
    aliases = {"St. Bernard": "dog", "255": "", "a.b.c": "d", "no": "yes it is"}
    assert loaded.config.aliases == aliases
    assert load_config(Recipe, recipe(tmp_path, config_yaml(loaded.config))).aliases == aliases


@pytest.mark.parametrize("text", ["1", "[]", "{a: 1}", "no", "null"])
def test_one_text_of_a_map_on_the_command_line_is_taken_as_typed(text):
    assert load_config(Recipe, None, ["out=a", f"aliases.b={text}"]).aliases == {"b": text}


@pytest.mark.parametrize("name", ["001.Black_footed", "a.b.c", ".a", "a.", ""])
def test_a_name_in_a_map_of_texts_may_have_dots_wherever_it_is_given(tmp_path, name):
    loaded = load_recipe(Recipe, None, ["out=a", f"aliases.{name}=x"])
    assert loaded.config.aliases == {name: "x"}
    assert loaded.origins[f"aliases.{name}"] == "command line"
    file = recipe(tmp_path, f"out: a\n'aliases.{name}': x\n")
    assert load_config(Recipe, file).aliases == {name: "x"}
    (line,) = error_lines("out=a", f"aliases.{name}=${{x}}")
    assert line.startswith(f"`aliases.{name}` got '${{x}}'")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("name=caf\udce9", r"`name` is 'caf\xe9'"),
        ("aliases.cat=caf\udce9", r"`aliases.cat` is 'caf\xe9'"),
        ("aliases.caf\udce9=cat", r"`aliases` holds 'caf\xe9'"),
        ("aliases={'\udce9': cat}", r"`aliases` holds '\xe9'"),
        (r'aliases={"cat": "\ud800"}', r"`aliases.cat` is '\ud800'"),
        ("sources=[{names: {cat: '\udce9'}}]", r"`sources[0].names.cat` is '\xe9'"),
        ("sources=[{paths: ['caf\udce9']}]", r"`sources[0].paths` holds 'caf\xe9'"),
    ],
)
def test_text_that_is_not_utf8_is_refused(given, what):
    assert error_lines("out=a", given) == [f"{what} - command line - give text in UTF-8"]


@pytest.mark.parametrize("given", ["{255: x}", "{no: x}", "{x: 010}", "{x: null}", "{x: {y: z}}"])
def test_what_yaml_reads_as_no_text_in_a_map_is_refused(given):
    with pytest.raises(UsageError, match=r"`aliases` needs text, YAML read .* put it in quotes"):
        load_config(Recipe, None, ["out=here", f"aliases={given}"])


@pytest.mark.parametrize(("names", "read"), [("{0: cat}", "0"), ("{'0': null}", "None")])
def test_a_map_of_texts_inside_a_list_is_no_exception(names, read):
    assert error_lines("out=a", f"sources=[{{names: {names}}}]") == [
        f"`sources[].names` needs text, YAML read {read} - command line - put it in quotes"
    ]


def test_the_resolved_recipe_reads_back_as_itself(tmp_path):
    config = load_config(Recipe, None, ["out=a", "name=no", "sources=[{paths: [b]}]"])
    file = recipe(tmp_path, config_yaml(config, {"name": "command line"}))
    assert load_config(Recipe, file) == config
    assert "# command line" in file.read_text()
    assert yaml.safe_load(file.read_text())["optimizer"]["betas"] == [0.9, 0.999]


def test_keys_know_their_type_default_and_comment():
    keys = describe_keys(Recipe)
    assert keys["optimizer.lr"].meaning == "step size at batch 1024"
    assert keys["steps"].meaning == "how many updates"
    assert keys["optimizer.kind"].type == "adamw | lars"
    assert keys["sources[].role"].default == "pool"


def test_changed_keys_are_named_by_their_dots():
    assert changed_keys({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == ["a.c", "d"]


@pytest.mark.parametrize("text", ["a: [", "- x", "a: 1\na: {"])
def test_a_broken_recipe_is_one_line(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        load_config(Recipe, recipe(tmp_path, text), ["out=x"])
    assert len(str(caught.value).splitlines()) == 1
