"""Pickles of plain values: what is read, and that nothing is called."""

import pickle

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.searches.pickles import read_plain_pickle


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def write(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_arrays_of_numbers_are_read(tmp_path, protocol):
    value = {
        "names": ["a", "b"],
        "rows": [np.arange(6).reshape(2, 3), np.zeros(0), np.asfortranarray([[1.5, 2], [3, 4]])],
        "box": (np.float64(2.5), np.array([1, 2], ">i4"), True, None),
    }
    result = read_plain_pickle(write(tmp_path / "x.pkl", value, protocol))
    assert result["names"] == value["names"]
    for row, expected in zip(result["rows"], value["rows"], strict=True):
        np.testing.assert_array_equal(row, expected)
        assert row.dtype == expected.dtype
    assert result["box"][0] == 2.5
    assert result["box"][1].tolist() == [1, 2]


def test_text_of_python_2_is_read(tmp_path):
    # What Python 2 writes for {'imlist': ['all_souls_000013']}.
    (tmp_path / "x.pkl").write_bytes(
        b"\x80\x02}q\x00U\x06imlistq\x01]q\x02U\x10all_souls_000013q\x03as."
    )
    assert read_plain_pickle(tmp_path / "x.pkl") == {"imlist": ["all_souls_000013"]}


def test_nothing_is_called(tmp_path):
    import os

    marker = tmp_path / "called"
    write(tmp_path / "x.pkl", {"gnd": [Call(os.mkdir, str(marker))]})
    with pytest.raises(UsageError, match=r"not a pickle of plain values: it calls \w+\.mkdir - "):
        read_plain_pickle(tmp_path / "x.pkl")
    assert not marker.exists()


def test_a_pickle_cannot_change_the_reader(tmp_path):
    # numpy.ndarray, then a state for it: {"value": 1}.
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02cnumpy\nndarray\n}X\x05\x00\x00\x00valueK\x01sb.")
    with pytest.raises(UsageError, match="not a pickle of plain values"):
        read_plain_pickle(tmp_path / "x.pkl")
    assert read_plain_pickle(write(tmp_path / "y.pkl", np.arange(2))).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([{}], object), "it has an array of object"),
        (np.array(["a"]), "it has an array of <U1"),
        (np.zeros(1, [("a", int)]), "it has an array of"),
    ],
)
def test_arrays_of_other_things_are_refused(tmp_path, value, text):
    with pytest.raises(UsageError, match=text):
        read_plain_pickle(write(tmp_path / "x.pkl", value))


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_damaged_pickles_are_one_line(tmp_path, cut):
    data = pickle.dumps({"gnd": np.arange(9)}, protocol=2)
    (tmp_path / "x.pkl").write_bytes(data[:cut])
    with pytest.raises(UsageError, match=r"^not a pickle of plain values: .* - .*x\.pkl - "):
        read_plain_pickle(tmp_path / "x.pkl")


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"No such file or directory - .*x\.pkl - "):
        read_plain_pickle(tmp_path / "x.pkl")
