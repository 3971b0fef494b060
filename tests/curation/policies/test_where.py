"""Conditions on columns: what they mean, what is refused, and that nothing is run as code."""

import contextlib
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.policies.where import ConditionError, parse_where
from dinoforge.errors import UsageError

COLUMNS = {
    "width": pa.chunked_array([[10, 64], [2_000_000_000]], pa.int32()),
    "punsafe": pa.chunked_array([[0.05, None], [math.nan]], pa.float32()),
    "caption": pa.chunked_array([["A logo", None], ["a cat"]]),
    "opted_out": pa.chunked_array([[True, False], [None]], pa.bool_()),
    "side.width": pa.chunked_array([[1, 2], [3]]),
    "side.my width": pa.chunked_array([[1, 2], [3]]),
    "empty": pa.chunked_array([[None, None], [None]], pa.null()),
    "size": pa.chunked_array([[{"w": 1}, None], [None]]),
}


def results(text):
    where = parse_where(text)
    where.check({name: column.type for name, column in COLUMNS.items()}, "`filter.where`")
    return where.apply({name: COLUMNS[name] for name in where.columns}).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("width >= 64", [0, 1, 1]),
        ("50 < width <= 64", [0, 1, 0]),
        ("width == 10 or width != 64 and width > 11", [1, 0, 1]),
        ("width * width > 4e18 / 2", [0, 0, 1]),  # more than 32 bits
        ("width / 4 == 2.5", [1, 0, 0]),  # not a division of integers
        ("1 / (width - 10) > 0", [-1, 1, 1]),
        ("-width < -20 and abs(width - 64) + 1 > 0", [0, 1, 1]),
        # A missing value, or NaN: neither true nor false, unless the rest decides.
        ("punsafe < 0.1", [1, -1, -1]),
        ("not punsafe < 0.1", [0, -1, -1]),
        ("punsafe < 0.1 or width > 60", [1, 1, 1]),
        ("punsafe < 0.1 and width > 60", [0, -1, -1]),
        ("punsafe is null or punsafe < 0.01", [0, 1, 1]),
        ("punsafe is not null", [1, 0, 0]),
        ("punsafe is None", [0, 1, 1]),
        ("width in [10, 64.0, -3]", [1, 1, 0]),
        ("width not in (10,)", [0, 1, 1]),
        ("caption in ['a cat', 'x']", [0, -1, 1]),
        ("punsafe in [0.05, 1]", [0, -1, -1]),  # float32 is not exactly 0.05
        ("caption.lower().startswith('a')", [1, -1, 1]),
        ("'logo' in caption", [1, -1, 0]),
        ("'logo' not in caption", [0, -1, 1]),
        ("caption.endswith('cat') or caption.contains('logo')", [1, -1, 1]),
        ("caption.matches('^[aA] l')", [1, -1, 0]),
        ("len(caption) == 6", [1, -1, 0]),
        ("caption > 'B'", [0, -1, 1]),
        ("not opted_out", [0, 1, -1]),
        ("opted_out == false", [0, 1, -1]),
        ("side.width >= 2", [0, 1, 1]),
        ("side['my width'] >= 2", [0, 1, 1]),
        ("empty > 3", [-1, -1, -1]),
        ("empty is null", [1, 1, 1]),
        ("not empty.contains('x') or width > 10", [-1, 1, 1]),
    ],
)
def test_a_condition_is_true_false_or_missing_per_row(text, expected):
    assert results(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width >", "syntax error"),
        ("width = 3", "syntax error"),
        ("1 < 2", "no column is named"),
        ("__import__('os').system('true')", "the functions are"),
        ("width.__class__ == 3", "`width.__class__` is not allowed"),
        ("side.width.real > 1", "is not allowed"),
        ("[x for x in width]", "is not allowed"),
        ("(lambda: width)()", "the functions are"),
        ("width ** 2 > 3", "is not allowed"),
        ("width if width else 3", "is not allowed"),
        ("open(width)", "the functions are abs, len"),
        ("caption.startswith(3)", "`3` is not text in quotes"),
        ("caption.startswith(prefix='x')", "the functions are"),
        ("caption.matches('(')", "`(` is no regular expression"),
        ("width is 3", "`is` is followed by"),
        ("width in []", "is not a list"),
        ("width in [1, 'a']", "is not a list"),
        ("width in [b'a']", "neither a number nor text"),
        ("~width > 3", "`~width` is not allowed"),
        ("not " * 99_999 + "width > 3", "nested too deeply"),
    ],
)
def test_other_text_is_refused_before_anything_is_read(text, message):
    with pytest.raises(ConditionError) as error:
        parse_where(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("punsave < 0.1", "no column `punsave` (did you mean `punsafe`?)"),
        ("width < 'a'", "`width < 'a'` compares a number with a text"),
        ("width", "`width` is a number, not a condition"),
        ("caption + 1 > 2", "`caption` is a text, not a number"),
        ("width.contains('a')", "`width` is a number, not a text"),
        ("width in ['a']", "`width` is a number, the list is not of its kind"),
        ("size > 3", "column `size` has values of the type struct"),
        ("not width", "`width` is a number, not a condition"),
    ],
)
def test_a_condition_that_does_not_fit_the_columns_is_refused_in_one_line(text, message):
    with pytest.raises(UsageError) as error:
        results(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(alphabet="abw idth<>=()[]'.,0129+-*/notrule\n\x00", max_size=40))
def test_no_text_raises_anything_else(text):
    with contextlib.suppress(ConditionError, UsageError):
        parse_where(text).check({name: c.type for name, c in COLUMNS.items()}, "`filter.where`")


def test_a_list_in_a_file_is_a_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# names\na cat\n\n  x.org \n")
    where, captions = parse_where(f"caption in lines('{path}')"), {"caption": COLUMNS["caption"]}
    assert where.files == (str(path),)
    assert where.apply(captions).tolist() == [0, -1, 1]
    urls = ["HTTPS://me@X.org:80/a?b", "http://a.x.org", "no URL", None]
    where = parse_where(f"host(url) not in lines('{path}')")
    assert where.apply({"url": pa.chunked_array([urls])}).tolist() == [0, 1, -1, -1]
    path.write_text("a\n")
    assert parse_where(f"caption in lines('{path}')").apply(captions).tolist() == [0, -1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key in lines('no/such.txt')", "the list no/such.txt is unreadable: No such file"),
        ("key in lines(3)", "`lines` is followed by a path"),
        ("key in lines()", "`lines` is followed by a path"),
        ("lines('a.txt') == key", "the functions are"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ConditionError) as error:
        parse_where(text)
    assert message in str(error.value)
