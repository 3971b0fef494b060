"""Ranges beside keys: checked in lists, optional values and sections by name, and described."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from dinoforge.config import describe_keys, load_config
from dinoforge.config.ranges import Allowed, Fraction, NonEmpty, PositiveInt, Range, one_of
from dinoforge.errors import Fault, UsageError


@dataclass(frozen=True, kw_only=True)
class Job:
    nodes: PositiveInt | None = None
    lines: list[Annotated[str, Allowed(str.isascii, "ASCII text")]] | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    steps: PositiveInt = 10
    scale: tuple[Fraction, Fraction] = (0.1, 1.0)
    words: Annotated[list[Annotated[str, one_of(("a", "b"))]], NonEmpty] = field(
        default_factory=lambda: ["a"]
    )
    split: Annotated[int, Range(0, exclude=(1,))] = 0
    momentum: Annotated[float, Range(0, 1, exclude=(1,))] = 0.5
    jobs: dict[str, Job] = field(default_factory=dict)
    stages: list[Job] = field(default_factory=list)

    def faults(self, at):
        if self.steps < self.split:
            yield Fault(f"`{at}steps` is {self.steps}", "recipe", "give more")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("steps=0", "`steps` is 0 - command line - give 1 or more"),
        ("scale=[0.5, 1.5]", "`scale` holds 1.5 - command line - give 0 to 1"),
        ("scale=[0.5, .nan]", "`scale` holds nan - command line - give a finite number"),
        ("words=[a, c]", "`words` holds 'c' - command line - give one of a, b"),
        ("words=[]", "`words` is empty - command line - give at least one"),
        ("split=1", "`split` is 1 - command line - give 0 or more, not 1"),
        ("momentum=1", "`momentum` is 1.0 - command line - give 0 <= value < 1"),
        ("jobs={a: {nodes: 0}}", "`jobs.a.nodes` is 0 - command line - give 1 or more"),
        ("stages=[{nodes: 0}]", "`stages[0].nodes` is 0 - command line - give 1 or more"),
        ("stages=[{lines: [é]}]", "`stages[0].lines` holds 'é' - command line - give ASCII text"),
        ("split=20", "`steps` is 10 - command line - give more"),
    ],
)
def test_a_value_out_of_range_is_one_line(override, line):
    with pytest.raises(UsageError) as caught:
        load_config(Recipe, None, [override])
    assert str(caught.value) == line


def test_rules_between_keys_wait_until_each_is_in_range():
    with pytest.raises(UsageError) as caught:
        load_config(Recipe, None, ["steps=0", "split=20", "jobs={a: {nodes: -1}}"])
    keys = [fault.what.split("`")[1] for fault in caught.value.faults]
    assert keys == ["steps", "jobs.a.nodes"]


def test_null_and_values_in_range_pass():
    config = load_config(Recipe, None, ["jobs={a: {nodes: null}}", "split=2", "words=[b]"])
    assert (config.jobs["a"].nodes, config.split, config.words) == (None, 2, ["b"])


def test_ranges_are_described():
    ranges = {key: help_.range for key, help_ in describe_keys(Recipe).items()}
    assert ranges == {
        "steps": "1 or more",
        "scale": "each 0 to 1",
        "words": "at least one, each one of a, b",
        "split": "0 or more, not 1",
        "momentum": "0 <= value < 1",
        "jobs": "",
        "jobs[].nodes": "1 or more",
        "jobs[].lines": "each ASCII text",
        "stages": "",
        "stages[].nodes": "1 or more",
        "stages[].lines": "each ASCII text",
    }
