"""Taxonomies: trees and graphs of hypernyms, matrices, those of WordNet; what they refuse."""

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.class_structure.taxonomy import ClassName, read_taxonomy

TREE = """# node, parents, names
animal
cat\tanimal pet\tCat, felis
dog\tanimal pet\tdog
pet\tthing
bird\tanimal
robin\tbird\tcrane, 3
lift\tmachine\tcrane, 4
machine\tthing
"""


def classes(*names):
    return [ClassName(name, number) for number, name in enumerate(names)]


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree.tsv").write_text(TREE)
    return read_taxonomy(str(tmp_path / "tree.tsv"))


def test_distances_are_edges_over_the_nearest_common_ancestor(tree):
    """Animal and thing have no parent: they meet above."""
    cases = {("cat", "dog"): 2, ("Cat", "robin"): 3, ("cat", "lift"): 4, ("bird", "lift"): 5}
    for (a, b), edges in cases.items():
        assert tree.distances(classes(a, b)).tolist() == [[0, edges], [edges, 0]], (a, b)


def test_a_name_of_two_nodes_is_resolved_by_its_number(tree):
    pair = [ClassName("crane", 3), ClassName("crane", 4)]
    assert tree.distances(pair)[0, 1] == 6
    with pytest.raises(UsageError, match="lacks the class `crane`"):
        tree.distances([ClassName("crane", 5)])
    amphibian = ClassName("amphibian", -1)  # a vehicle: no class of ImageNet lies below it
    assert read_taxonomy("imagenet").distances([amphibian, ClassName("n02704792", -1)]).max() == 0


def test_groups_are_below_nodes_and_cover_every_class(tree):
    named = classes("cat", "dog", "robin", "lift")
    assert tree.groups(named, 3) == [("animal", [0, 1, 2]), ("thing", [3])]
    more = [*named, ClassName("animal", 4)]
    groups = tree.groups(more, 4)
    assert sorted(at for _, some in groups for at in some) == [0, 1, 2, 3, 4]
    assert len(groups) <= 4


def test_the_taxonomy_of_imagenet_is_wordnets():
    """Path lengths of NLTK's WordNet 3.0: tench and goldfish share cyprinid."""
    names = [ClassName("tench", 0), ClassName("goldfish", 1), ClassName("crane", 134)]
    distances = read_taxonomy("imagenet").distances([*names, ClassName("crane", 517)])
    assert distances[0, 1] == 2
    assert distances[2, 3] == 14
    assert np.isfinite(distances).all()


def test_a_matrix_is_read_by_names(tmp_path):
    path = tmp_path / "distances.csv"
    path.write_text("class,a,b,c\na,0,1,2.5\nb,1,0,3\nc,2.5,3,0\n")
    taxonomy = read_taxonomy(str(path))
    assert taxonomy.distances(classes("c", "a")).tolist() == [[0, 2.5], [2.5, 0]]
    assert taxonomy.groups(classes("c", "a"), 6) == [("all", [0, 1])]


@pytest.mark.parametrize(
    ("name", "text", "reported"),
    [
        ("gone.tsv", None, "cannot read the taxonomy"),
        ("cycle.tsv", "a\tb\nb\tc\nc\tb\n", "`a` is its own ancestor"),
        ("names.csv", ",a,b\na,0,1\nc,1,0\n", "rows and columns have other names"),
        ("words.csv", ",a,b\na,0,x\nb,1,0\n", "a distance is not a number"),
        ("short.csv", ",a,b\na,0\nb,1\n", "a table of shape (2, 1)"),
        ("lopsided.csv", ",a,b\na,0,1\nb,2,0\n", "these are not distances"),
    ],
)
def test_a_file_that_is_no_taxonomy_is_one_line(tmp_path, name, text, reported):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        read_taxonomy(str(tmp_path / name))
    assert reported in str(error.value)
    assert name in str(error.value)
