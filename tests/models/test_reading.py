"""Weights files of any origin: what is harmless is passed over, all else is one plain line."""

import argparse
import collections
import datetime
import enum
import io
import pathlib
import pickle
import shlex
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dinoforge.errors import UsageError
from dinoforge.models.reading import read_tensors

STATE = {"backbone.weight": torch.arange(3.0)}
DAY = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class Level(enum.Enum):
    HIGH = 1


class Mine:
    pass


RECORDS = {
    "args of DINO": argparse.Namespace(lr=1, out=pathlib.PosixPath("/x"), nested=[{"a": DAY}]),
    "numpy": [np.float64(0.3), np.int64(3), np.bool_(True), np.arange(3), np.dtype("f4")],
    "random state": [np.random.default_rng(0), np.random.RandomState(0).get_state()],
    "times": [DAY, DAY.date(), datetime.timedelta(1)],
    "containers": [collections.defaultdict(list, a=[1]), collections.deque([1]), {1}, 1j, b"x"],
    "names": types.SimpleNamespace(a=1),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_records_beside_the_weights_are_passed_over(tmp_path, legacy):
    content = {**RECORDS, "student": STATE | {"more": torch.ones(1)}, "teacher": STATE}
    path = tmp_path / "full.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    tensors, metadata = read_tensors(path)
    assert metadata == {}
    assert list(tensors) == ["backbone.weight"]
    assert torch.equal(tensors["backbone.weight"], STATE["backbone.weight"])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"student": STATE, "epoch": 3}, ["backbone.weight"]),
        ({"ema": {"net": STATE}, "epoch": 3}, ["ema.net.backbone.weight"]),
        ({"model": {"a": STATE}}, ["a.backbone.weight"]),
        ({"model": {"a": STATE["backbone.weight"]}, "model_ema": STATE}, ["backbone.weight"]),
        ({"state_dict": {"a": torch.ones(1)}, "state_dict_ema": STATE}, ["backbone.weight"]),
        ({"model": STATE, "model_ema": None}, ["backbone.weight"]),
    ],
)
def test_weights_are_found_under_any_key(tmp_path, content, names):
    torch.save(content, tmp_path / "w.pth")
    assert list(read_tensors(tmp_path / "w.pth")[0]) == names


def line(path):
    with pytest.raises(UsageError) as caught:
        read_tensors(path)
    text = str(caught.value)
    assert text.isprintable()
    assert "http" not in text
    return text


def convert(text, path, monkeypatch):
    """Carry out the command of an error message; the names of the tensors in the new file."""
    python, dash_c, code, source, target = shlex.split(text.partition("convert it: ")[2])
    assert (python, dash_c, source) == ("python", "-c", str(path))
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "argv", [dash_c, source, target])
    exec(code, {})
    return list(read_tensors(path.parent / target)[0])


LAYER = torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (LAYER, ["weight", "bias"]),
        ({"model": LAYER, "epoch": 1, "args": Mine()}, ["weight", "bias"]),
        ({"epoch": 1, "model": None, "ema": LAYER}, ["ema.weight", "ema.bias"]),
        ({"teacher": {"net": LAYER, "note": Mine()}}, ["net.weight", "net.bias"]),
        ({"a": LAYER.weight, "b": Mine()}, ["a"]),
    ],
)
def test_the_command_keeps_the_weights_of_modules_wherever_they_are(
    tmp_path, monkeypatch, content, names
):
    path = tmp_path / "full.pth"
    torch.save(content, path)
    assert convert(line(path), path, monkeypatch) == names


@pytest.mark.parametrize("value", [Level.HIGH, Mine()])
def test_another_class_is_named_with_the_command_that_converts_the_file(
    tmp_path, monkeypatch, value
):
    path = tmp_path / "it's full.pth"
    torch.save({"teacher": STATE, "extra": value}, path)
    text = line(path)
    name = f"{__name__}.{type(value).__name__}"
    assert f"it has objects of the class {name} - {path} - if you trust its author" in text
    assert convert(text, path, monkeypatch) == ["backbone.weight"]


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "x")
    return file.getvalue()


def saved(**options):
    file = io.BytesIO()
    torch.save(STATE, file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08" * 9, "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n" * 9, "an HDF5 file"),
        (b"hello\n\x1b[31m", r"it begins with b'hello\n\x1b[31m'"),
        (zipped(), "a zip file, but none of torch"),
        (saved()[:700], "it is cut short or damaged"),
        (saved(_use_new_zipfile_serialization=False)[:-5], "it is cut short or damaged"),
        (save(STATE)[:-5], "it is cut short or damaged"),
        (saved(pickle_protocol=4), "it has more than tensors (Unsupported operand"),
        (pickle.dumps({"a": 1}, protocol=2), "it is cut short or damaged"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_weights_file_is_named(tmp_path, data, what, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(data)
    assert line(path).startswith(f"weights unreadable: {what}")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_whole_module_and_a_program_are_named(tmp_path):
    module = torch.nn.Linear(2, 2)
    torch.save(module, tmp_path / "m.pth")
    assert "objects of the class torch.nn.modules.linear.Linear" in line(tmp_path / "m.pth")
    torch.jit.trace(module, torch.ones(1, 2)).save(str(tmp_path / "p.pth"))
    assert "a TorchScript program" in line(tmp_path / "p.pth")


def test_the_content_decides_not_the_suffix(tmp_path):
    (tmp_path / "a.pth").write_bytes(save(STATE, {"made": "by"}))
    (tmp_path / "a.safetensors").write_bytes(saved())
    assert read_tensors(tmp_path / "a.pth")[1] == {"made": "by"}
    for name in ("a.pth", "a.safetensors"):
        assert list(read_tensors(tmp_path / name)[0]) == ["backbone.weight"]


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    assert "is a directory" in line(tmp_path)
    assert "no such file" in line(tmp_path / "gone.pth")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 0.99])
def test_a_file_of_many_tensors_that_is_cut_anywhere_is_cut_short(tmp_path, share):
    file = io.BytesIO()
    torch.save({f"layer.{number}": torch.ones(200) for number in range(40)}, file)
    path = tmp_path / "cut.pth"
    path.write_bytes(file.getvalue()[: int(len(file.getvalue()) * share)])
    assert "it is cut short or damaged" in line(path)
    assert "download or copy it again" in line(path)


def test_an_empty_teacher_beside_a_model_is_passed_over(tmp_path):
    torch.save({"teacher": {}, "model": STATE}, tmp_path / "w.pth")
    assert list(read_tensors(tmp_path / "w.pth")[0]) == ["backbone.weight"]


def test_a_dictionary_that_contains_itself_is_one_line(tmp_path):
    content = {"a": torch.ones(1)}
    content["self"] = content
    torch.save(content, tmp_path / "w.pth")
    assert "a dictionary in it contains itself" in line(tmp_path / "w.pth")
