"""A taxonomy of classes from a file: a tree (or graph) of hypernyms, or a matrix of distances.

Shapes: C classes.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.files import decode_text, read_regular

__all__ = ["BUILT_IN", "ClassName", "Distances", "Tree", "read_taxonomy"]

_FOLDER = Path(__file__).resolve().parent / "taxonomies"
BUILT_IN = ("cifar10", "imagenet")  # made from WordNet 3.0 by benchmarks/wordnet_taxonomies.py
_ROOT = ""  # above the nodes without parents


class ClassName(NamedTuple):
    """A class of the images: its name, and its number in their list of classes (-1: none)."""

    name: str
    number: int


@dataclass(frozen=True)
class Tree:
    """Nodes with their parents and names; a node of WordNet may have several parents."""

    path: str
    parents: Mapping[str, Sequence[str]]
    names: Mapping[str, Sequence[str]]  # the first one is shown

    def distances(self, classes: Sequence[ClassName]) -> NDArray[np.float64]:
        """Count the edges of the shortest path over a common ancestor, ``[C, C]``.

        Raises
        ------
        UsageError
            That names the first class that the taxonomy lacks.
        """
        ups = self._ups(classes)
        distances_CC = np.full((len(classes), len(classes)), np.inf)
        for node in dict.fromkeys(node for up in ups for node in up):
            below = np.array([at for at, up in enumerate(ups) if node in up])
            edges = np.array([ups[at][node] for at in below], np.float64)
            block = np.ix_(below, below)
            distances_CC[block] = np.minimum(distances_CC[block], edges[:, None] + edges)
        return distances_CC

    def groups(self, classes: Sequence[ClassName], most: int) -> list[tuple[str, list[int]]]:
        """Sort classes into at most ``most`` named groups, each below one node.

        From the root on, the largest group is replaced by those of its children, until ``most - 1``
        have a twentieth of the classes; what is below other nodes is ``other``. Returns names and
        positions of classes, the largest group first.
        """
        ups = self._ups(classes)
        groups: dict[str, list[int]] = {_ROOT: list(range(len(classes)))}
        whole: set[str] = set()  # groups that are not split
        while sum(20 * len(group) >= len(classes) for group in groups.values()) < most - 1:
            inner = [node for node in groups if node not in whole]
            if not inner:
                break
            largest = max(inner, key=lambda node: len(groups[node]))
            parts: dict[str, list[int]] = {}
            for at in groups[largest]:
                parts.setdefault(self._child(largest, ups[at]), []).append(at)
            if len(parts) == len(groups[largest]):  # a class each
                whole.add(largest)
                continue
            del groups[largest]
            groups |= parts
            whole |= {largest} & set(parts)
        ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
        named = [(self._shown(node), group) for node, group in ordered]
        if len(named) > most:
            rest = [at for _, group in named[most - 1 :] for at in group]
            named = [*named[: most - 1], ("other", rest)]
        return named

    def _child(self, node: str, up: Mapping[str, int]) -> str:
        """Return the child of a node on the shortest way down to a class, or the node itself."""
        children = [n for n in up if n != _ROOT and node in (self.parents.get(n) or (_ROOT,))]
        return min(children, key=lambda child: up[child], default=node)

    def _shown(self, node: str) -> str:
        return (self.names.get(node) or (node or "all",))[0].replace("_", " ")

    def _ups(self, classes: Sequence[ClassName]) -> list[dict[str, int]]:
        """Return the ancestors of every class with the edges up to them, itself included."""
        return [self._up(self._node(one)) for one in classes]

    def _node(self, one: ClassName) -> str:
        nodes = self._by_name.get(one.name, [])
        if (
            len(nodes) > 1
        ):  # crane, a bird and a machine; amphibian, a vehicle and a group of animals
            numbered = self._by_name.get(str(one.number), [])
            lowest = [node for node in nodes if node not in self._inner]
            nodes = [node for node in nodes if node in numbered] or lowest
        if len(nodes) != 1:
            raise _lacks(one.name, self.path)
        return nodes[0]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        nodes: dict[str, list[str]] = {}
        for node in self.parents:
            for name in dict.fromkeys((node, *self.names.get(node, ()))):
                nodes.setdefault(name, []).append(node)
        return nodes

    @cached_property
    def _inner(self) -> set[str]:
        return {node for above in self.parents.values() for node in above}

    def _up(self, node: str) -> dict[str, int]:
        edges, todo = {node: 0}, [node]
        for at in todo:  # breadth first: the first way is the shortest
            for parent in self.parents.get(at) or ((_ROOT,) if at != _ROOT else ()):
                if parent not in edges:
                    edges[parent] = edges[at] + 1
                    todo.append(parent)
        return edges


@dataclass(frozen=True)
class Distances:
    """A matrix of distances between named classes."""

    path: str
    names: Mapping[str, int]  # row and column
    values: NDArray[np.float64]

    def distances(self, classes: Sequence[ClassName]) -> NDArray[np.float64]:
        """Return the distances of these classes, ``[C, C]``; see `Tree.distances`."""
        for one in classes:
            if one.name not in self.names:
                raise _lacks(one.name, self.path)
        rows = [self.names[one.name] for one in classes]
        return self.values[np.ix_(rows, rows)]

    def groups(self, classes: Sequence[ClassName], most: int) -> list[tuple[str, list[int]]]:  # noqa: ARG002 - as of a tree
        """Return one group: distances have no nodes with names."""
        return [("all", list(range(len(classes))))]


def read_taxonomy(name: str) -> Tree | Distances:
    """Read a taxonomy of this package (`BUILT_IN`), a ``.csv`` of distances, or a tree.

    A line of a tree has columns separated by tabs: a node, its parents separated by spaces, and its
    names separated by commas, of which the last two may be left out. Lines with ``#`` are comments.
    A matrix has the names of its columns in the first line and of its rows in the first column.

    Raises
    ------
    UsageError
        If there is no such file, a node is its own ancestor, or a matrix is no matrix of distances.
    """
    path = _FOLDER / f"{name}.tsv" if name in BUILT_IN else Path(name)
    try:
        text = decode_text(read_regular(path))
    except (OSError, ValueError) as error:
        do = f"give a file, or one of {', '.join(BUILT_IN)}"
        raise UsageError(what="cannot read the taxonomy", where=name, do=do) from error
    if path.suffix == ".csv":
        return _read_matrix(text, name)
    return _read_tree(text, name)


def _read_tree(text: str, path: str) -> Tree:
    parents: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for node, above, called in _rows(text):
        parents.setdefault(node, []).extend(above.split())
        names.setdefault(node, []).extend(word.strip() for word in called.split(",") if word)
    for one in [above for some in parents.values() for above in some]:
        parents.setdefault(one, [])
    tree = Tree(path, parents, names)
    _check_order(tree)
    return tree


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield [field.strip() for field in (*line.split("\t"), "", "")[:3]]


def _check_order(tree: Tree) -> None:
    """Refuse a node that is its own ancestor: remove nodes above all others until none is left."""
    left = {node: {*above} for node, above in tree.parents.items()}
    while done := {node for node, above in left.items() if not above}:
        left = {node: above - done for node, above in left.items() if node not in done}
    if left:
        what, do = f"`{min(left)}` is its own ancestor", "give a tree: nodes with their parents"
        raise UsageError(what=what, where=tree.path, do=do)


def _read_matrix(text: str, path: str) -> Distances:
    do = "give a square table: names in the first line and column, symmetric numbers, 0 between"
    do += " a class and itself"
    head, *rows = [row for row in csv.reader(text.splitlines()) if row] or [[]]
    names = {name.strip(): at for at, name in enumerate(head[1:])}
    try:
        values = np.array([[float(value) for value in row[1:]] for row in rows])
    except ValueError as error:
        raise UsageError(what="a distance is not a number", where=path, do=do) from error
    if len(names) < 1 or [row[0].strip() for row in rows] != list(names):
        raise UsageError(what="rows and columns have other names", where=path, do=do)
    if values.shape != (len(names), len(names)) or not math.isfinite(values.sum()):
        raise UsageError(what=f"a table of shape {values.shape}", where=path, do=do)
    if values.min() < 0 or values.diagonal().any() or not np.allclose(values, values.T):
        raise UsageError(what="these are not distances", where=path, do=do)
    return Distances(path, names, values)


def _lacks(name: str, path: str) -> UsageError:
    do = "add it, or leave out its images"
    return UsageError(what=f"the taxonomy lacks the class `{name}`", where=path, do=do)
