"""Errors that users can fix: one line per fault, also after pickling."""

import pickle

import pytest

from dinoforge.errors import Fault, UsageError, first_line


def test_usage_errors_survive_the_way_between_processes():
    error = UsageError(faults=[Fault("a", "b", "c"), Fault("d", "e", "f")])
    back = pickle.loads(pickle.dumps(error))
    assert back.faults == error.faults
    assert str(back) == "a - b - c\nd - e - f"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\x1b[1mWeights only\x1b[0m load failed.\nmore"), "Weights only load failed"),
        (ValueError(), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        (OSError(f"cannot identify image file {object()}"), "cannot identify image file"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "No such file or directory"),
        (OSError("Parquet magic bytes not found in footer."), "Parquet magic bytes not found in "),
    ],
)
def test_errors_of_libraries_are_plain_lines(error, line):
    assert first_line(error).startswith(line)
    assert first_line(error).isprintable()


def test_a_fault_is_one_line_whatever_its_path():
    fault = Fault("gone", "a\nb\x1b[31m\udce9\u2028\u200bé\u3000\N{PILE OF POO}", "restore it")
    place = "a\\nb\\x1b[31m\\xe9\\u2028\\u200bé\u3000\N{PILE OF POO}"
    assert str(fault) == f"gone - {place} - restore it"
    assert str(UsageError(faults=[fault, fault])).count("\n") == 1
