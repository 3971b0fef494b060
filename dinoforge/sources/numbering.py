"""One numbering for the classes of several class spaces, and renaming of classes by a recipe.

The rules are in docs/decisions/0014-class-spaces.md. Classes that no rule brings together stay
apart; what the rules cannot decide is an error that names both spaces.
"""

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.errors import Fault, UsageError, some_of
from dinoforge.sources.classes import (
    NAMES,
    NUMBERS,
    UNLABELED,
    ClassList,
    ImageClass,
    class_of_text,
    clean_name,
    parse_label,
)
from dinoforge.sources.listing import LISTING_SCHEMA

__all__ = [
    "FirstOfClasses",
    "Member",
    "Numbering",
    "class_keys",
    "describe_classes",
    "rename_classes",
    "unite_classes",
]

_log = logging.getLogger(__name__)

_SPLIT = re.compile(r"(?i:(train|test)(ing)?|val(id|idation)?|eval|dev)[-_]?[0-9]*")

_CLASS_COLUMNS = ["class_space", "label", "class_name", "shard"]

_RENAME = "rename classes: `sources[].classes` (curate), `train_classes`, `test_classes` (evaluate)"


class Member(NamedTuple):
    """A class of one space, under its number in a `Numbering`."""

    number: int
    space: str
    label: int  # -1 in the space of names
    name: str


@dataclass(frozen=True)
class Numbering:
    """Numbers of classes; ``members`` of several spaces may share one."""

    members: Sequence[Member]

    @property
    def names(self) -> dict[int, str]:
        """Name by number, ascending, as in the first space; empty if all are just numbers."""
        names: dict[int, str] = {}
        if all(member.space == NUMBERS for member in self.members):
            return names
        for member in self.members:
            names.setdefault(member.number, member.name)
        return dict(sorted(names.items()))

    def labels(self, table: pa.Table) -> NDArray[np.int64]:
        """Return the number of the class of every row of a listing; -1: none."""
        numbers = {_key(*member[1:]): member.number for member in self.members}
        keys = class_keys(table)
        each = [numbers.get(key, -1) for key in keys.dictionary.to_pylist()]
        return np.array(each, np.int64)[keys.indices.to_numpy()]


class FirstOfClasses:
    """The first row of every class of a listing that is read block by block.

    To rename, unite and number classes, the table of these rows stands for the listing.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, block: pa.Table) -> None:
        """Add the next rows; columns of `LISTING_SCHEMA`, of which four are used."""
        keys = class_keys(block)
        _, first = np.unique(keys.indices.to_numpy(), return_index=True)
        for key, row in zip(keys.dictionary.to_pylist(), first.tolist(), strict=True):
            if key not in self._rows:
                (self._rows[key],) = block.select(_CLASS_COLUMNS).slice(row, 1).to_pylist()

    @property
    def keys(self) -> list[str]:
        """What identifies the class of each row, see `class_keys`."""
        return list(self._rows)

    @property
    def table(self) -> pa.Table:
        """The rows, in their order."""
        schema = pa.schema([LISTING_SCHEMA.field(name) for name in _CLASS_COLUMNS])
        return pa.Table.from_pylist(list(self._rows.values()), schema)


class _Use(NamedTuple):
    """A class that images have, or that a list has."""

    space: str
    label: int
    name: str
    where: str  # the first file that has it, or the list


def unite_classes(
    tables: Sequence[pa.Table], class_lists: Sequence[Mapping[str, ClassList]]
) -> Numbering:
    """Find one number for each class of some listings, the same in all of them.

    ``class_lists`` holds the lists that each table refers to, by class space; the first one in
    use keeps its own numbers.

    Raises
    ------
    UsageError
        If a list cannot be used, a label is not in its list, numbers could belong to several
        lists, or a name could be several classes of another space.
    """
    lists: dict[str, ClassList] = {}
    for some in class_lists:
        lists |= {space: classes for space, classes in some.items() if space not in lists}
    uses = _uses(tables)
    spaces = {use.space for use in uses}
    used_lists = [classes for space, classes in lists.items() if space in spaces]
    _check(uses, used_lists)
    union = _Union()
    for classes in used_lists:
        union.add_list(classes, {use.label for use in uses if use.space == classes.space})
    numbers = {use.label for use in uses if use.space == NUMBERS}
    union.add_numbers(numbers, used_lists[0] if used_lists else None)
    names = {use.name: use.where for use in uses if use.space == NAMES}
    union.add_names(names, has_numbers=bool(numbers))
    if spaces == {NAMES} and all(_SPLIT.fullmatch(name) for name in names):
        _log.warning(
            "the classes are called like splits: %s - %s - give the folders of one split as paths",
            some_of(names),
            next(iter(names.values())),
        )
    if len(spaces) > 1:
        count = len(union.used)
        _log.info("%d classes of %d class spaces: %s", count, len(spaces), _describe(uses, lists))
    return Numbering(union.members)


def describe_classes(table: pa.Table, lists: Mapping[str, ClassList]) -> str:
    """Name some classes of a listing and where each space comes from, for messages."""
    return _describe(_uses([table]), lists)


def rename_classes(
    table: pa.Table, lists: Mapping[str, ClassList], renames: Mapping[str, str], key: str
) -> pa.Table:
    """Apply the renames of a recipe to a listing.

    ``renames`` maps a name, the number in a ``.cls`` without a list, or the number in a list, to a
    name or a number; to "" for no class. The first of these that there is counts. ``*`` stands for
    all other classes. ``key`` is the recipe key. A class of a list gets a number of that list.

    Raises
    ------
    UsageError
        If a class is not there or renamed twice, or a name or number stands for several classes.
    """
    if not renames:
        return table
    uses = _uses([table])
    spaces = {use.space for use in uses}
    listed = [
        _Use(space, label, name, classes.path)
        for space, classes in lists.items()
        if space in spaces
        for label, name in classes.names.items()
    ]
    names: dict[str, str] = {}  # class -> its key in ``renames``
    faults: list[Fault] = []
    for old in renames:
        if old != "*":
            called, fault = _called(clean_name(old), [*listed, *uses], key)
            twice = {names[one] for one in called if one in names}
            if fault is None and twice:
                what = f"`{twice.pop()}` and `{old}` are one class, renamed twice"
                fault = Fault(what, f"`{key}`", "remove one of them")
            names |= dict.fromkeys(called, old)
            faults += [fault] if fault is not None else []
    if faults:
        raise UsageError(faults=faults)
    keys = class_keys(table)
    each = [
        _target(renames[names.get(k, "*")], lists.get(k.partition("\t")[0]))
        if k in names or (k and "*" in renames)
        else None
        for k in keys.dictionary.to_pylist()
    ]
    is_new = pa.array([new is not None for new in each]).take(keys.indices)
    for at, name in enumerate(("label", "class_space", "class_name")):
        column = table.column(name)
        values = pa.array([(new or UNLABELED)[at] for new in each], column.type)
        changed = pc.if_else(is_new, values.take(keys.indices), column)
        table = table.set_column(table.column_names.index(name), name, changed)
    return table


def _called(name: str, uses: Sequence[_Use], key: str) -> tuple[set[str], Fault | None]:
    """Find the classes of a name, else the number without a list, else the id in a list."""
    by_name = [use for use in uses if use.name == name]
    by_id = [use for use in uses if use.space != NAMES and str(use.label) == name]
    bare = [use for use in by_id if use.space == NUMBERS]
    called = {_key(*use[:3]): use for use in reversed(by_name or bare or by_id)}
    num_spaces = len({use.space for use in called.values()})
    if not called:
        known = some_of(dict.fromkeys(use.name or use.label for use in uses))
        do = f"choose from: {known or 'no image has a class'}"
        return set(), Fault(f"there is no class `{name}`", f"`{key}`", do)
    if by_name and len(called) > num_spaces:
        ids = some_of(sorted(use.label for use in called.values()))
        what = f"`{name}` is the name of several classes of {by_name[0].where}"
        return set(), Fault(what, f"`{key}`", f"give a number: {ids}")
    if not by_name and num_spaces > 1:
        paths = ", ".join(use.where for use in reversed(called.values()))
        what = f"`{name}` is a number of {num_spaces} lists: {paths}"
        return set(), Fault(what, f"`{key}`", "give a name")
    return set(called), None


def _target(text: str, classes: ClassList | None) -> ImageClass:
    """Return the class that one of ``classes``, or of no list, is renamed to."""
    label = parse_label(text)
    return ImageClass(-1, NAMES, label) if isinstance(label, str) else class_of_text(text, classes)


class _Union:
    """Members so far; class spaces are added one after the other."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.used: set[int] = set()  # numbers of classes that images have
        self._taken: set[int] = set()
        self._largest = -1
        self._small = itertools.count()  # candidates for free numbers once the largest is taken
        self._listed: dict[str, set[int]] = {}  # numbers of the listed classes of a name
        self._paths: list[str] = []  # of the lists

    def add_list(self, classes: ClassList, used: set[int]) -> None:
        """Add a list: the first one whole, with its own ids; of others the classes in use."""
        is_first = not self._paths
        names = {at: name for at, name in sorted(classes.names.items()) if is_first or at in used}
        # Matched before any is added: classes of one list are never one.
        numbers = {
            label: label
            if is_first
            else self._listed_number(
                name, classes.path, is_single=classes.only_id(name) is not None
            )
            for label, name in names.items()
        }
        for label, name in names.items():
            is_used = label in used
            number = self._add(numbers[label], classes.space, label, name, is_used=is_used)
            self._listed.setdefault(name, set()).add(number)
        self._paths.append(classes.path)

    def add_numbers(self, numbers: set[int], classes: ClassList | None) -> None:
        """Add numbers without a list: ids of the only list, or themselves."""
        for label in sorted(numbers):
            name = classes.names[label] if classes is not None else str(label)
            self._add(label, NUMBERS, label, name)

    def add_names(self, names: Mapping[str, str], *, has_numbers: bool) -> None:
        """Add names with the files that have them; 10 and 007 may be numbers."""
        numbers = {name: self._listed_number(name, where) for name, where in names.items()}
        apart = {name: where for name, where in names.items() if numbers[name] is None}
        numbers |= self._decimal_numbers(apart, has_numbers)
        for name in sorted(names, key=lambda name: (numbers[name] is None, name)):
            self._add(numbers[name], NAMES, -1, name)

    def _listed_number(self, name: str, where: str, *, is_single: bool = True) -> int | None:
        """Return the number of the listed class of this name; None for a class of its own."""
        same = self._listed.get(name, set())
        if len(same) == 1 and is_single:
            return next(iter(same))
        # Classes of one name that no image has do no harm.
        if not self.used.isdisjoint(same):
            what = f"class `{name}` could be several classes: numbers {some_of(sorted(same))}"
            raise _ambiguous(what, f"{where}, {', '.join(self._paths)}")
        return None

    def _decimal_numbers(self, names: Mapping[str, str], has_numbers: bool) -> dict[str, int]:
        """Return the names that are numbers: of the only list, if there is one."""
        named: dict[int, list[str]] = {}
        for name in names:
            if isinstance(value := parse_label(name), int):
                named.setdefault(value, []).append(name)
        if self._paths and not has_numbers:
            # Folders 0 to 9 beside a list of ten names: its ids, if all of them are.
            has_decimal_names = any(isinstance(parse_label(name), int) for name in self._listed)
            if len(self._paths) > 1 or has_decimal_names or not self._taken.issuperset(named):
                return {}
        numbers: dict[str, int] = {}
        for value, same in named.items():
            if len(same) > 1 and value in self._taken:
                what = f"number {value} could be several classes: {some_of(sorted(same))}"
                raise _ambiguous(what, ", ".join(names[name] for name in same))
            if len(same) == 1 and (value in self._taken or not self._paths):
                numbers[same[0]] = value
        return numbers

    def _add(
        self, number: int | None, space: str, label: int, name: str, *, is_used: bool = True
    ) -> int:
        """Add a class under a number, by default the one after the largest; return it."""
        if number is None:
            is_last = self._largest == (1 << 63) - 1
            free = (n for n in self._small if n not in self._taken)
            number = next(free) if is_last else self._largest + 1
        self.members.append(Member(number, space, label, name))
        self._taken.add(number)
        self._largest = max(self._largest, number)
        if is_used:
            self.used.add(number)
        return number


def _check(uses: Sequence[_Use], lists: Sequence[ClassList]) -> None:
    """Report unusable lists, labels that are not in a list, and numbers of unclear lists."""
    faults = [classes.fault for classes in lists if classes.fault is not None]
    for classes in lists:
        own = [u for u in uses if u.space == classes.space and u.label not in classes.names]
        if own and classes.fault is None:
            what = f"labels that are not in the list of classes: {some_of(u.label for u in own)}"
            do = f"complete the list, or {_RENAME}"
            faults.append(Fault(what, f"{own[0].where}, {classes.path}", do))
    bare = [use for use in uses if use.space == NUMBERS]
    paths = ", ".join(classes.path for classes in lists)
    if bare and lists and not faults:
        numbers, where = [use.label for use in bare], f"{bare[0].where}, {paths}"
        if len(lists) > 1:
            what = f"numbers without a list of classes could belong to any of {len(lists)} lists"
            raise _ambiguous(f"{what}: {some_of(numbers)}", where)
        names = lists[0].names
        missing = [number for number in numbers if number not in names]
        if missing:
            what = f"numbers that are not in the only list of classes: {some_of(missing)}"
            raise _ambiguous(what, where)
        # A list of the names of numbered folders, in the order of text: 0, 1, 10, 2.
        values = {parse_label(name): label for label, name in names.items()}
        unclear = [number for number in numbers if values.get(number, number) != number]
        if unclear:
            what = f"numbers that could be ids or names of the list: {some_of(unclear)}"
            raise _ambiguous(what, where)
    if faults:
        raise UsageError(faults=faults)


def _ambiguous(what: str, where: str) -> UsageError:
    do = f"put the right list of classes beside each tar, or {_RENAME}"
    return UsageError(what=what, where=where, do=do)


def _describe(uses: Sequence[_Use], lists: Mapping[str, ClassList]) -> str:
    parts = []
    for space in dict.fromkeys(use.space for use in uses):
        own = [use for use in uses if use.space == space]
        where = lists[space].path if space in lists else f"{space} in {own[0].where}"
        parts.append(f"{some_of(use.name or use.label for use in own)} ({where})")
    return "; ".join(parts)


def _uses(tables: Sequence[pa.Table]) -> list[_Use]:
    """List the classes of some listings once each, by space and then by id or name."""
    uses: dict[str, _Use] = {}
    for table in tables:
        keys = class_keys(table)
        _, first = np.unique(keys.indices.to_numpy(), return_index=True)
        for row in table.select(_CLASS_COLUMNS).take(pa.array(first)).to_pylist():
            use = _Use(*row.values())
            if use.space:
                uses.setdefault(_key(*use[:3]), use)
    return sorted(uses.values(), key=lambda use: (use.space, use.label, use.name))


def _key(space: str, label: int, name: str) -> str:
    """Identify a class; "" for no class. A name has no tab, see `clean_name`."""
    return f"{space}\t{name if space == NAMES else label}" if space else ""


def class_keys(table: pa.Table) -> pa.DictionaryArray:
    """Identify the class of every row of a listing; "" for no class."""
    space, label, name = (table.column(n) for n in ("class_space", "label", "class_name"))
    which = pc.if_else(pc.equal(space, NAMES), name, pc.cast(label, pa.string()))
    keys = pc.if_else(pc.equal(space, ""), "", pc.binary_join_element_wise(space, which, "\t"))
    return keys.combine_chunks().dictionary_encode()
