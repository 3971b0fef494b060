"""Classes of images: which class space the label of an image belongs to, and lists of classes.

A class is (class space, id, name). The spaces: a list of classes beside tars, identified by its
content; ``names``, where the name itself is the identity (class folders, the text of a ``.cls``);
``numbers`` (the number in a ``.cls`` without a list). Ids of different spaces are never compared;
how classes of several spaces meet is decided in `dinoforge.sources.numbering`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dinoforge.errors import Fault
from dinoforge.files import decode_text, hash_json, read_regular, write_text
from dinoforge.remote import is_url
from dinoforge.remote.store import read_object
from dinoforge.remote.urls import join_url

__all__ = [
    "CLASS_LISTS",
    "NAMES",
    "NUMBERS",
    "UNLABELED",
    "ClassList",
    "ImageClass",
    "class_of_folder",
    "class_of_text",
    "clean_name",
    "find_class_list",
    "is_plain_list",
    "parse_label",
    "write_class_list",
]

CLASS_LISTS = ("classes.txt", "classes.tsv")  # the first that is there and not empty is used

NAMES = "names"
NUMBERS = "numbers"

_LARGEST = (1 << 63) - 1
_NUMBER = re.compile(r"([+-]?)([0-9]{1,300})(\.0*)?")
_NEGATIVE = re.compile(r"[-\u2212]([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
# What pandas, numpy and others write for a missing number; -1 of an unsigned type.
_MISSING = re.compile(
    r"[+-]?nan|-inf|none|null|#?n/a|<na>|18446744073709551615(\.0*)?", re.IGNORECASE
)
_NUMBERED = re.compile(r"([0-9]{1,9})(?:[.):]?\s+|[:,;]\s*)(\S.*)")
_NUMBER_LAST = re.compile(r".*\S(?:\s+|[:,;=]\s*)([0-9]{1,9})")
_NO_CLASS = {  # first lines
    "line 1 is a comment": re.compile(r"#+(\s|$)"),
    "it is a Git LFS pointer, which `git lfs pull` replaces": re.compile("version https://git-lfs"),
    "it is a web page or XML": re.compile(r"<(!doctype|html|\?xml)", re.IGNORECASE),
}
# Zero-width characters, marks of direction, soft hyphens.
_OUTSIDE = "[\\s\0\xad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069]+"
_AT_ENDS = re.compile(f"^{_OUTSIDE}|{_OUTSIDE}$")
# Look the same: spaces of other widths, and nothing. A joiner (U+200C, U+200D) inside may matter.
_SPACES = "\xa0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SAME = str.maketrans(dict.fromkeys(_SPACES, " ") | dict.fromkeys("\u200b\u2060\ufeff"))
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_LINE_END = re.compile("\r\n|\n|\r")


class ImageClass(NamedTuple):
    """The class of an image: id in its space (-1: none), the space ("": none), the name."""

    label: int
    space: str
    name: str  # "": a number without a name


UNLABELED = ImageClass(-1, "", "")


@dataclass(frozen=True)
class ClassList:
    """A ``classes.txt`` or ``classes.tsv``: names by id; equal lists are one space."""

    space: str  # ``list:`` and 8 hex digits of its content
    path: str
    names: Mapping[int, str] = field(default_factory=dict)
    fault: Fault | None = None  # why it cannot be used
    rival: str = ""  # another list in its folder that has other classes

    def only_id(self, name: str) -> int | None:
        """Return the id of a name; None unless exactly one class has it."""
        return self._ids.get(name)

    @cached_property
    def _ids(self) -> dict[str, int]:
        counts = Counter(self.names.values())
        return {name: number for number, name in self.names.items() if counts[name] == 1}


def clean_name(text: str) -> str:
    r"""Return the form of a name that identifies a class.

    Unicode form NFC, with plain spaces and without zero-width spaces; without white space, NUL and
    invisible marks at the ends. Control characters inside become ``\n`` or ``\x07``, so that a name
    is one line of a list.
    """
    name = _AT_ENDS.sub("", unicodedata.normalize("NFC", text.translate(_SAME)))
    return _UNPRINTABLE.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), name)


def parse_label(text: str) -> int | str | None:
    """Read a label: a number, a name, or None for no label.

    Negative numbers (``-1.5``, too) and empty texts are no labels; ``+3``, ``003`` and ``3.0`` are
    the number 3. What is no int64 in ASCII digits is a name.
    """
    name = clean_name(text)
    match = _NUMBER.fullmatch(name)
    if match is None:
        return None if _NEGATIVE.fullmatch(name) else name or None
    number = int(match[1] + match[2])
    if number < 0:
        return None
    return number if number <= _LARGEST else name


def class_of_folder(name: str, classes: ClassList | None = None) -> ImageClass:
    """Return the class of the images in a class folder; none for ``-1``, as in a ``.cls``.

    A list of classes beside the folders names those that are numbers in it.
    """
    label, name = parse_label(name), clean_name(name)
    if label is None:
        return UNLABELED
    # In a list of the names of numbered folders, 2 may be the name of another class.
    if classes is not None and label in classes.names and classes.only_id(name) in {None, label}:
        return class_of_text(str(label), classes)
    return ImageClass(-1, NAMES, name)


def class_of_text(text: str, classes: ClassList | None) -> ImageClass:
    """Return the class that the text of a ``.cls`` names, with the list of its tar if any.

    ``nan``, ``None``, ``null`` and the like are no labels, unless the list has the name.
    """
    label = parse_label(text)
    classes = classes or ClassList(NUMBERS, "")
    if label is None:
        return UNLABELED
    if isinstance(label, int):
        return ImageClass(label, classes.space, classes.names.get(label, ""))
    number = classes.only_id(label)
    if number is not None:
        return ImageClass(number, classes.space, label)
    if _MISSING.fullmatch(label) and label not in classes.names.values():
        return UNLABELED
    return ImageClass(-1, NAMES, label)


def find_class_list(folders: Iterable[str]) -> ClassList | None:
    """Read the list of classes that lies in the first of some folders that has one.

    A list that cannot be used has a ``fault``: whoever needs the classes reports it.
    """
    for folder in folders:
        read = (_read_list(str(folder), name) for name in CLASS_LISTS)
        lists = [classes for classes in read if classes is not None]
        if lists:
            rivals = [other.path for other in lists[1:] if other.space != lists[0].space]
            return replace(lists[0], rival="".join(rivals))
    return None


def is_plain_list(names: Sequence[str]) -> bool:
    """Return whether a ``classes.txt`` with these lines numbers them from 0."""
    try:
        return _one_per_line(names) == dict(enumerate(names))
    except ValueError:
        return False


def write_class_list(folder: Path, names: Mapping[int, str]) -> Path | None:
    """Write a list of classes into a folder, or remove that of an earlier recipe if there are none.

    Classes numbered from 0 without a gap make a ``classes.txt``; others, and names that would be
    read otherwise there, a ``classes.tsv``.
    """
    is_numbered = list(names) != list(range(len(names))) or not is_plain_list([*names.values()])
    lists = [folder / name for name in CLASS_LISTS]  # .txt, .tsv
    path, other = reversed(lists) if is_numbered else lists
    other.unlink(missing_ok=True)
    if not names:
        path.unlink(missing_ok=True)
        return None
    rows = (f"{number}\t{name}\n" if is_numbered else f"{name}\n" for number, name in names.items())
    text = "".join(rows)
    if not path.is_file() or path.read_bytes() != text.encode():  # a takedown leaves it alone
        write_text(path, text)
    return path


def _read_list(folder: str, name: str) -> ClassList | None:
    """Read a list; None if it is missing or empty."""
    is_remote = is_url(folder)
    path = join_url(folder, name) if is_remote else str(Path(folder) / name)
    try:
        raw = read_object(path) if is_remote else read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        what = f"list of classes unreadable: {error.strerror or error}"
        return _unusable(path, what, "make it readable")
    try:
        text = decode_text(raw)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a byte order mark, UTF-32
        return _unusable(path, "list of classes is not UTF-8 text", "save it as UTF-8")
    lines = _LINE_END.split(text)
    while lines and not clean_name(lines[-1]):
        lines.pop()
    if not lines:
        return None
    try:
        names = _tab_separated(lines) if name.endswith(".tsv") else _one_per_line(lines)
    except ValueError as error:
        return _unusable(path, f"list of classes: {error}", "fix the list")
    return ClassList(f"list:{hash_json(sorted(names.items()))[:8]}", path, names)


def _unusable(path: str, what: str, do: str) -> ClassList:
    return ClassList(f"list:{hash_json(path)[:8]}", path, {}, Fault(what, path, do))


def _read_numbered(lines: Sequence[str]) -> dict[int, str]:
    """Read lines ``number name`` if all are, from 0 or 1 on without a gap; else return nothing."""
    matches = [_NUMBERED.fullmatch(_AT_ENDS.sub("", line)) for line in lines]
    names = {int(m[1]): clean_name(m[2].rpartition("\t")[2]) for m in matches if m is not None}
    first = next(iter(names), 2)
    is_each = len(lines) > 1 and first < 2 and all(names.values())
    return names if is_each and list(names) == list(range(first, first + len(lines))) else {}


def _check_order(lines: Sequence[str]) -> None:
    """Refuse lines that all begin, or all end, with numbers that look like ids in another order."""
    texts = [_AT_ENDS.sub("", line) for line in lines]
    for pattern in (_NUMBERED, _NUMBER_LAST):
        numbers = [int(match[1]) for text in texts if (match := pattern.fullmatch(text))]
        is_each = len(set(numbers)) == len(lines) and min(numbers, default=2) < 2
        if is_each and numbers != sorted(numbers):
            raise ValueError("its numbers are not in order, write `number<TAB>name` in classes.tsv")


def _one_per_line(lines: Sequence[str]) -> dict[int, str]:
    for what, pattern in _NO_CLASS.items():
        if lines and pattern.match(clean_name(lines[0])):
            raise ValueError(what)
    if names := _read_numbered(lines):
        return names
    _check_order(lines)
    names = {number: clean_name(line) for number, line in enumerate(lines)}
    blank = next((number for number, name in names.items() if not name), None)
    if blank is not None:
        # Tools disagree on whether such a line has a number.
        raise ValueError(f"line {blank + 1} is blank, so the numbers below it are ambiguous")
    return names


def _tab_separated(lines: list[str]) -> dict[int, str]:
    """Read rows ``number <tab> ... <tab> name``, in any order."""
    names: dict[int, str] = {}
    for at, line in enumerate(lines, start=1):
        if not clean_name(line):
            continue
        cells = [clean_name(cell) for cell in line.split("\t")]
        number, name = parse_label(cells[0]), cells[-1]
        if not isinstance(number, int) or len(cells) < 2 or not name:
            raise ValueError(f"line {at} is not `number<TAB>name`")
        if number in names:
            raise ValueError(f"line {at} repeats the number {number}")
        names[number] = name
    return names
