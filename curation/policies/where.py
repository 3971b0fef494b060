"""A condition on the columns of images, as in ``filter.where: "punsafe < 0.1 and width >= 64"``.

The text is parsed by Python's `ast`, of which a few kinds of nodes are allowed, and computed by
pyarrow: nothing is ever evaluated as code. As in SQL, a value that is missing makes a comparison
neither true nor false.
"""

import ast
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.config.keys import suggest
from dinoforge.errors import UsageError, first_line, some_of
from dinoforge.remote import is_url
from dinoforge.remote.store import read_object
from dinoforge.remote.urls import url_fault

__all__ = [
    "EXAMPLE_CONDITION",
    "KNOWN_FACTS",
    "MISSING",
    "NAMESPACES",
    "ConditionError",
    "Where",
    "parse_where",
]

MISSING = -1  # neither true nor false
# Columns that every image has.
KNOWN_FACTS = (
    *("width", "height", "aspect", "std", "quality", "format", "bytes", "key", "source"),
    *("class_name", "sha256"),
)
NAMESPACES = ("side",)  # of columns whose name something else may have, as in `side.width`

Columns = Mapping[str, pa.ChunkedArray]
_Value = Any  # a column, or a scalar
_Term = Callable[[Columns], _Value]

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
}
_METHODS = {
    "startswith": "starts_with",
    "endswith": "ends_with",
    "contains": "match_substring",
    "matches": "match_substring_regex",
}
_TYPES = {"condition": pa.bool_(), "number": pa.float64(), "text": pa.string()}
_FUNCTIONS = {"abs": ("abs", "number"), "len": ("utf8_length", "text"), "host": ("", "text")}
EXAMPLE_CONDITION = "`width >= 64 and not key.contains('logo')`"


class ConditionError(ValueError):
    """What is wrong with a condition, in one line."""


@dataclass(frozen=True)
class Where:
    """A parsed condition."""

    text: str
    columns: tuple[str, ...]  # that it reads, in the order of the text
    _term: _Term
    files: tuple[str, ...] = ()  # lists that it reads, see `_lines`

    def check(self, known: Mapping[str, pa.DataType], where: str) -> None:
        """Refuse columns that do not exist, and comparisons of a number with text.

        Raises
        ------
        UsageError
            Before any row is read; ``where`` names the recipe key.
        """
        for name in self.columns:
            if name not in known:
                raise UsageError(
                    what=f"no column `{name}`{suggest(name, known)}",
                    where=where,
                    do=f"the columns are {some_of(sorted(known), 40)}",
                )
        try:
            self.apply({name: pa.chunked_array([], known[name]) for name in self.columns})
        except ConditionError as error:
            raise UsageError(
                what=first_line(error),
                where=where,
                do=f"write a condition such as {EXAMPLE_CONDITION}",
            ) from error

    def apply(self, columns: Columns) -> NDArray[np.int8]:
        """Return 1 where the condition is true, 0 where it is false, else `MISSING`; per row.

        Raises
        ------
        ConditionError
            If a column has another type than the condition needs.
        """
        result = self._term({name: _plain(column, name) for name, column in columns.items()})
        codes = pc.fill_null(result.cast(pa.int8()), MISSING)
        return np.asarray(codes.to_numpy(), np.int8)


def parse_where(text: str) -> Where:
    """Parse a condition.

    Raises
    ------
    ConditionError
        If it is not one.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        parser = _Parser(text.strip())
        term = parser.condition(tree.body)
    except SyntaxError as error:
        raise ConditionError(f"syntax error in column {error.offset}") from error
    except (RecursionError, MemoryError) as error:
        raise ConditionError("nested too deeply") from error
    if not parser.columns:
        raise ConditionError("no column is named")
    return Where(text, tuple(dict.fromkeys(parser.columns)), term, tuple(parser.files))


class _Parser:
    """Turns nodes into functions of the columns."""

    def __init__(self, text: str) -> None:
        self.columns: list[str] = []
        self.files: list[str] = []
        self._text = text
        self._builders: dict[type[ast.expr], Callable[[Any], _Term]] = {
            ast.BoolOp: self._all_or_any,
            ast.UnaryOp: self._unary,
            ast.Compare: self._compare,
            ast.BinOp: self._arithmetic,
            ast.Call: self._call,
            ast.Constant: self._constant,
            ast.Name: self._column,
            ast.Attribute: self._column,
            ast.Subscript: self._column,
        }

    def condition(self, node: ast.expr) -> _Term:
        """Return a term that is true or false."""
        return self._of_kind(node, "condition")

    def _of_kind(self, node: ast.expr, kind: str) -> _Term:
        """Return a term whose values must be of a kind."""
        term, shown = self._term(node), self._shown(node)

        def checked(columns: Columns) -> _Value:
            value = term(columns)
            if _kind(value) not in (kind, "null"):
                raise ConditionError(f"`{shown}` is a {_kind(value)}, not a {kind}")
            return value.cast(_TYPES[kind]) if _kind(value) == "null" else value

        return checked

    def _term(self, node: ast.expr) -> _Term:
        builder = self._builders.get(type(node))
        if builder is None:
            raise ConditionError(f"`{self._shown(node)}` is not allowed")
        return builder(node)

    def _shown(self, node: ast.AST) -> str:
        return ast.get_source_segment(self._text, node) or type(node).__name__

    def _all_or_any(self, node: ast.BoolOp) -> _Term:
        combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
        terms = [self.condition(value) for value in node.values]
        return lambda columns: functools.reduce(combine, [term(columns) for term in terms])

    def _unary(self, node: ast.UnaryOp) -> _Term:
        if isinstance(node.op, ast.Not):
            term = self.condition(node.operand)
            return lambda columns: pc.invert(term(columns))
        if not isinstance(node.op, ast.USub):
            raise ConditionError(f"`{self._shown(node)}` is not allowed")
        number = self._of_kind(node.operand, "number")
        return lambda columns: pc.negate(number(columns))

    def _arithmetic(self, node: ast.BinOp) -> _Term:
        name = _ARITHMETIC.get(type(node.op))
        if name is None:
            raise ConditionError(f"`{self._shown(node)}` is not allowed")
        left, right = (self._of_kind(side, "number") for side in (node.left, node.right))
        if name != "divide":
            return lambda columns: getattr(pc, name)(*_aligned(left(columns), right(columns)))

        def divide(columns: Columns) -> _Value:
            # Of floats, also where both are integers: `width / height`; by 0: no value.
            by = right(columns).cast(pa.float64())
            by = pc.if_else(pc.equal(by, 0.0), pa.scalar(None, pa.float64()), by)
            return pc.divide(left(columns).cast(pa.float64()), by)

        return divide

    def _compare(self, node: ast.Compare) -> _Term:
        sides = [node.left, *node.comparators]
        terms = [
            self._pair(node, left, op, right)
            for left, op, right in zip(sides, node.ops, node.comparators, strict=False)
        ]
        return lambda columns: functools.reduce(pc.and_kleene, [term(columns) for term in terms])

    def _pair(self, node: ast.Compare, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Term:
        if isinstance(op, ast.Is | ast.IsNot):
            return self._is_null(left, right, negated=isinstance(op, ast.IsNot))
        if type(op) not in _COMPARISONS:  # in, not in
            member = self._in(left, right)
            return member if isinstance(op, ast.In) else lambda columns: pc.invert(member(columns))
        function, shown = getattr(pc, _COMPARISONS[type(op)]), self._shown(node)
        first, second = self._term(left), self._term(right)

        def compare(columns: Columns) -> _Value:
            a, b = first(columns), second(columns)
            kinds = {_kind(a), _kind(b)} - {"null"}
            if len(kinds) > 1:
                raise ConditionError(f"`{shown}` compares a {' with a '.join(sorted(kinds))}")
            return function(*_aligned(a, b))

        return compare

    def _is_null(self, left: ast.expr, right: ast.expr, *, negated: bool) -> _Term:
        is_null = isinstance(right, ast.Name) and right.id == "null"
        if not is_null and not (isinstance(right, ast.Constant) and right.value is None):
            raise ConditionError("`is` is followed by `null` or `not null`")
        term = self._term(left)
        test = pc.is_valid if negated else pc.is_null
        return lambda columns: test(term(columns))

    def _in(self, left: ast.expr, right: ast.expr) -> _Term:
        if isinstance(right, ast.List | ast.Tuple | ast.Set):
            values = pa.array(self._constants(right))
        elif isinstance(right, ast.Call) and self._shown(right.func) == "lines":
            values = self._lines(right)
        else:  # `"logo" in caption`
            return self._find(right, "contains", left)
        term, shown = self._term(left), self._shown(left)

        def is_in(columns: Columns) -> _Value:
            value = term(columns)
            if len({_kind(value), _kind(values)} - {"null"}) > 1:
                raise ConditionError(f"`{shown}` is a {_kind(value)}, the list is not of its kind")
            is_member = pc.is_in(*_aligned(value, values))
            return pc.if_else(pc.is_valid(value), is_member, pa.scalar(None, pa.bool_()))

        return is_in

    def _lines(self, node: ast.Call) -> pa.Array:
        """Read a list of text, ``lines('urls.txt')``: one per line, none from those with a #."""
        path = self._literal(node.args[0]) if len(node.args) == 1 and not node.keywords else None
        if not isinstance(path, str):
            raise ConditionError("`lines` is followed by a path: lines('blocked.txt')")
        if is_url(path) and (fault := url_fault("lines", path)):
            raise ConditionError(fault.what)
        try:
            data = read_object(path) if is_url(path) else Path(path).read_bytes()
            text = data.decode()
        except (OSError, ValueError) as error:
            raise ConditionError(f"the list {path} is unreadable: {first_line(error)}") from error
        self.files.append(path)
        lines = (line.strip() for line in text.splitlines())
        return pa.array([line for line in lines if line and line[0] != "#"], pa.string())

    def _constants(self, node: ast.List | ast.Tuple | ast.Set) -> list[Any]:
        texts = [self._literal(element) for element in node.elts]
        if not texts or len({isinstance(value, str) for value in texts}) > 1:
            raise ConditionError(f"`{self._shown(node)}` is not a list of numbers, or of texts")
        return texts

    def _literal(self, node: ast.expr) -> Any:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            sign, node = -1, node.operand
        if not isinstance(node, ast.Constant) or not isinstance(node.value, int | float | str):
            raise ConditionError(f"`{self._shown(node)}` is neither a number nor text in quotes")
        if isinstance(node.value, int) and node.value >= 1 << 63:
            raise ConditionError(f"`{self._shown(node)}` is too large")
        return node.value if isinstance(node.value, str) else sign * node.value

    def _call(self, node: ast.Call) -> _Term:
        if isinstance(node.func, ast.Attribute) and not node.keywords:
            if node.func.attr == "lower" and not node.args:
                text = self._of_kind(node.func.value, "text")
                return lambda columns: pc.utf8_lower(text(columns))
            if node.func.attr in _METHODS and len(node.args) == 1:
                return self._find(node.func.value, node.func.attr, node.args[0])
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS or len(node.args) != 1 or node.keywords:
            known = [*_FUNCTIONS, *(f".{method}" for method in (*_METHODS, "lower"))]
            raise ConditionError(f"`{self._shown(node)}`: the functions are {', '.join(known)}")
        function, kind = _FUNCTIONS[name]
        term = self._of_kind(node.args[0], kind)
        if name == "host":
            return lambda columns: _host(term(columns))
        return lambda columns: getattr(pc, function)(term(columns))

    def _find(self, column: ast.expr, method: str, pattern: ast.expr) -> _Term:
        """Return a term that looks for constant text in a column of text."""
        text, wanted = self._of_kind(column, "text"), self._literal(pattern)
        if not isinstance(wanted, str):
            raise ConditionError(f"`{self._shown(pattern)}` is not text in quotes")
        function = getattr(pc, _METHODS[method])
        try:
            function(pa.array([""]), wanted)
        except pa.ArrowInvalid as error:
            raise ConditionError(f"`{wanted}` is no regular expression") from error
        return lambda columns: function(text(columns), wanted)

    def _constant(self, node: ast.Constant) -> _Term:
        value = pa.scalar(self._literal(node))
        return lambda _: value

    def _column(self, node: ast.expr) -> _Term:
        name = _column_name(node)
        if name is None:
            raise ConditionError(f"`{self._shown(node)}` is not allowed")
        if name in ("true", "false"):
            value = pa.scalar(name == "true")
            return lambda _: value
        self.columns.append(name)
        return lambda columns: columns[name]


def _column_name(node: ast.expr) -> str | None:
    """Return the name of a column: ``width``, ``side.width`` or ``side["my width"]``."""
    if isinstance(node, ast.Name):
        return node.id
    if not isinstance(node, ast.Attribute | ast.Subscript) or not isinstance(node.value, ast.Name):
        return None
    if node.value.id not in NAMESPACES:
        return None
    if isinstance(node, ast.Attribute):
        return f"{node.value.id}.{node.attr}"
    key = node.slice
    is_text = isinstance(key, ast.Constant) and isinstance(key.value, str)
    return f"{node.value.id}.{key.value}" if is_text else None  # type: ignore[attr-defined]


def _host(url: _Value) -> _Value:
    """Return the host of URLs in lower case, null where there is none."""
    parts = pc.extract_regex(
        pc.utf8_lower(url), r"^[a-z][a-z0-9+.-]*://(?:[^/@]*@)?(?P<h>[^/:?#]+)"
    )
    return pc.struct_field(parts, "h")


def _aligned(a: _Value, b: _Value) -> tuple[_Value, _Value]:
    """Return two values of one type: integers become floats beside floats, also large ones."""
    if _kind(a) == "null":
        return a.cast(b.type), b
    if pa.types.is_floating(a.type) or pa.types.is_floating(b.type):
        return a.cast(pa.float64(), safe=False), b.cast(pa.float64(), safe=False)
    return a, b


def _kind(value: _Value) -> str:
    kind = value.type
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_boolean(kind):
        return "condition"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def _plain(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Widen numbers, so that products do not overflow; NaN is no value."""
    kind = column.type
    if pa.types.is_floating(kind):
        wide = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(wide), pa.scalar(None, pa.float64()), wide)
    if pa.types.is_integer(kind):
        return column if kind == pa.uint64() else column.cast(pa.int64())
    if _kind(column) not in {"text", "condition", "null"}:
        raise ConditionError(
            f"column `{name}` has values of the type {kind}, which cannot be compared"
        )
    return column
