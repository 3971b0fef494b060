"""Words that name an encoder, and what is reported of those that do not."""

import sys

import numpy as np
import pytest

from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError

MODULE = """
import functools
import numpy as np

def mean(images):
    return [image.reshape(-1, 3).mean(axis=0) for image in images]

class Namespace:
    @staticmethod
    def mean(images):
        return np.array(mean(images))

class Callable:
    fingerprint = "weights 1"
    def __call__(self, images):
        return np.ones((len(images), 2))

instance = Callable()
partial = functools.partial(mean)
words = lambda images: [["a", "b"]] * len(images)
ragged = lambda images: [[1.0], [1.0, 2.0]]
nothing = lambda images: None
empty = lambda images: np.zeros((len(images), 0))
flat = lambda images: np.zeros(len(images))
short = lambda images: np.zeros((len(images) + 1, 3))
infinite = lambda images: np.full((len(images), 2), np.inf)
growing = lambda images: np.ones((len(images), images[0].shape[0]))
number = 3

def gradient(images):
    import torch
    return torch.ones(len(images), 2, requires_grad=True)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of encoders, importable by a name of its own."""
    name = f"encoders_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def error_line(spec):
    with pytest.raises(UsageError) as caught:
        make_encoder(spec)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert lines[0].count(" - ") >= 2
    return lines[0]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("pixel", "unknown encoder `pixel` (did you mean `pixels`?)"),
        ("mobilenet", "(did you mean `mobilenetv2`?)"),
        ("checkpoints:x", "(did you mean `checkpoint:FILE`?)"),
        ("checkpoint", "(did you mean `checkpoint:FILE`?)"),
        ("", "unknown encoder `` - "),
        ("offset", "put an encoder with a comma in quotes"),
        ("pixels#3", "`pixels` takes no option"),
        ("mobilenetv2#100", "`100` is not a side in pixels"),
        ("mobilenetv2#0", "`0` is not a side in pixels"),
        ("mobilenetv2#²", "`²` is not a side in pixels"),
        ("mobilenetv2#big", "give a multiple of 32"),
        ("checkpoint:", "no file is given"),
        ("checkpoint:none.safetensors", "no such checkpoint - none.safetensors"),
        ("checkpoint:x#patches", "unknown option `patches`"),
        ("checkpoint:x#cls,both", "unknown option `cls,both`"),
        ("checkpoint:.", "no such checkpoint"),
        ("python:", "no function is given"),
        ("python:json", "no function is given"),
        ("python::f", "no function is given"),
        ("python:.near:f", "no function is given"),
        ("python:no.such.module:f", "cannot load the function: No module named 'no'"),
        ("python:json:f", "cannot load the function: "),
        ("python:json:decoder", "`decoder` is not callable"),
    ],
)
def test_a_word_that_names_no_encoder_is_reported_in_one_line(spec, what):
    assert what in error_line(spec)


def test_a_module_that_is_no_python_is_reported_in_one_line(module):
    assert "(broken_module.py, line 1)" in error_line("python:broken_module:f")


@pytest.mark.parametrize(
    ("name", "dim"), [("mean", 3), ("Namespace.mean", 3), ("instance", 2), ("partial", 3)]
)
def test_any_function_is_an_encoder(module, picture, name, dim):
    encoder = make_encoder(f"python:{module}:{name}")
    rows = encoder.encode([picture(20, 30, 0), picture(8, 8, 1)])
    assert encoder.dim == dim
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=1e-6)
    assert encoder.encode([]).shape == (0, dim)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("words", "the function did not return numbers: could not convert string"),
        ("ragged", "the function did not return numbers: "),
        ("nothing", "the function returned"),
        ("empty", "the function returned [1, 0] for 1 images"),
        ("flat", "the function returned [1] for 1 images"),
        ("short", "the function returned [2, 3] for 1 images"),
        ("infinite", "the function returned numbers that are not finite"),
        ("gradient", "the function did not return numbers: Can't call numpy()"),
        ("number", "`number` is not callable"),
    ],
)
def test_what_is_not_one_vector_per_image_is_reported_before_a_long_run(module, name, what):
    assert what in error_line(f"python:{module}:{name}")


def test_vectors_of_another_length_are_reported(module, picture):
    encoder = make_encoder(f"python:{module}:growing")
    assert encoder.encode([picture(32, 9, 0)]).shape == (1, 32)
    with pytest.raises(UsageError, match="returned vectors of 32 and 20"):
        encoder.encode([picture(20, 9, 0)])


def test_the_fingerprint_follows_the_code_and_what_the_function_states_of_itself(
    module, tmp_path, monkeypatch
):
    plain, instance = (make_encoder(f"python:{module}:{n}") for n in ("mean", "instance"))
    monkeypatch.setattr(sys.modules[module].Callable, "fingerprint", "weights 2")
    assert make_encoder(f"python:{module}:instance").fingerprint != instance.fingerprint
    (tmp_path / f"{module}.py").write_text(MODULE + "\n# changed\n")
    assert make_encoder(f"python:{module}:mean").fingerprint != plain.fingerprint
