"""Scores from a CSV file."""

import numpy as np
import pyarrow as pa
import pytest

from dinoforge.curation.scores import read_scores
from dinoforge.errors import UsageError


@pytest.fixture
def scores(tmp_path):
    def write(text):
        path = tmp_path / "scores.csv"
        path.write_text(text)
        return str(path)

    return write


def test_scores_are_found_by_key_whatever_else_the_file_holds(scores):
    table = read_scores(scores('key,note,score\nb,x,2\n001,,-1.5\n"a,b",y,1e3\n'))
    values = table.of([pa.chunked_array([["a,b", "c"]]), pa.chunked_array([["001", "b"]])])
    np.testing.assert_array_equal(values, [1000, np.nan, -1.5, 2])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "Empty CSV file"),
        ("name,score\na,1\n", "'key'"),
        ("key,score\na,high\n", "'high'"),
        ("key,score\na,\n", "the score of `a` is not a finite number"),
        ("key,score\na,1\nb,nan\n", "the score of `b` is not a finite number"),
        ("key,score\na,1\nb,2\na,3\n", "`a` has several scores"),
    ],
)
def test_a_bad_file_is_one_line(scores, text, part):
    path = scores(text)
    with pytest.raises(UsageError, match=r"scores\.csv") as caught:
        read_scores(path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_other_keys_are_reported(scores, tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_scores(str(tmp_path / "none.csv"))
    table = read_scores(scores("key,score\na.jpg,1\n"))
    with pytest.raises(UsageError, match="such as `a`"):
        table.of([pa.chunked_array([["a", "b"]])])
