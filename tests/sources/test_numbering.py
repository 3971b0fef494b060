"""Classes of several spaces under one numbering."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.errors import UsageError
from dinoforge.sources.classes import NAMES, NUMBERS, ClassList
from dinoforge.sources.numbering import (
    FirstOfClasses,
    describe_classes,
    rename_classes,
    unite_classes,
)


def class_list(name, *names):
    """List NAME of these names, numbered from 0."""
    return ClassList(f"list:{name}", f"{name}/classes.txt", dict(enumerate(names)))


def table(*classes, shard="x.tar"):
    """Rows of a listing; a class is a name, a number, None, or (list, number)."""
    rows = []
    for one in classes:
        if isinstance(one, tuple):
            rows.append((one[1], one[0].names.get(one[1], ""), one[0].space))
        elif isinstance(one, int):
            rows.append((one, "", NUMBERS))
        else:
            rows.append((-1, one or "", NAMES if one else ""))
    types = {"label": pa.int64(), "class_name": pa.string(), "class_space": pa.string()}
    columns = {
        name: pa.array([row[at] for row in rows], kind)
        for at, (name, kind) in enumerate(types.items())
    }
    return pa.table(columns | {"shard": pa.array([shard] * len(rows), pa.string())})


def united(*classes, lists=()):
    one = table(*classes)
    numbering = unite_classes([one], [{c.space: c for c in lists}])
    return numbering.labels(one).tolist(), numbering.names


A = class_list("a", "cat", "dog")
B = class_list("b", "bird", "fish")
TENS = class_list("tens", "10", "20")
CRANES = class_list("cranes", "crane", "dog", "crane")


@pytest.mark.parametrize(
    ("classes", "lists", "labels", "names"),
    [
        ([], [], [], {}),
        ([None, None], [], [-1, -1], {}),
        # One space: as it is.
        (["dog", "cat", None, "dog"], [], [1, 0, -1, 1], {0: "cat", 1: "dog"}),
        ([3, 5_000_000_000, None], [], [3, 5_000_000_000, -1], {}),
        ([(A, 1), None], [A], [1, -1], {0: "cat", 1: "dog"}),
        ([(CRANES, 0), (CRANES, 2)], [CRANES], [0, 2], {0: "crane", 1: "dog", 2: "crane"}),
        # Folders called 10 and 007 are the numbers 10 and 7.
        (["10", "9", "007"], [], [10, 9, 7], {7: "007", 9: "9", 10: "10"}),
        (["10", "cat", 10], [], [10, 11, 10], {10: "10", 11: "cat"}),
        (["007", 7, 8], [], [7, 7, 8], {7: "7", 8: "8"}),
        (["7", "07", "8"], [], [10, 9, 8], {8: "8", 9: "07", 10: "7"}),
        # Numbers beside names of other things stay apart.
        ([0, 1, "bird", "fish"], [], [0, 1, 2, 3], {0: "0", 1: "1", 2: "bird", 3: "fish"}),
        ([2**63 - 1, "a", 0], [], [2**63 - 1, 1, 0], {0: "0", 1: "a", 2**63 - 1: str(2**63 - 1)}),
        # The only list names numbers.
        ([(A, 0), 0, 1], [A], [0, 0, 1], {0: "cat", 1: "dog"}),
        # Names and lists meet by name.
        (["dog", (A, 0), "cow"], [A], [1, 0, 2], {0: "cat", 1: "dog", 2: "cow"}),
        (["10", (A, 0)], [A], [2, 0], {0: "cat", 1: "dog", 2: "10"}),
        (["1", 0, (A, 0)], [A], [1, 0, 0], {0: "cat", 1: "dog"}),
        # Folders 0, 1 beside a list: its ids, if all of them are and its names are not numbers.
        (["1", "0", "cow", (A, 0)], [A], [1, 0, 2, 0], {0: "cat", 1: "dog", 2: "cow"}),
        (["1", "7", (A, 0)], [A], [2, 3, 0], {0: "cat", 1: "dog", 2: "1", 3: "7"}),
        ([(TENS, 0), "1"], [TENS], [0, 2], {0: "10", 1: "20", 2: "1"}),
        ([(A, 0), (B, 0), "1"], [A, B], [0, 2, 3], {0: "cat", 1: "dog", 2: "bird", 3: "1"}),
        # Lists meet by name.
        ([(A, 0), (B, 0), (B, 1)], [A, B], [0, 2, 3], {0: "cat", 1: "dog", 2: "bird", 3: "fish"}),
        (
            [(A, 0), (class_list("r", "dog", "cat"), 0)],
            [A, class_list("r", "dog", "cat")],
            [0, 1],
            {0: "cat", 1: "dog"},
        ),
        # Two classes of a name that no image has harm nobody.
        ([(CRANES, 1), "crane"], [CRANES], [1, 3], {0: "crane", 1: "dog", 2: "crane", 3: "crane"}),
    ],
)
def test_classes_meet_where_a_rule_says_so_and_no_others(classes, lists, labels, names):
    assert united(*classes, lists=lists) == (labels, names)


def broken(path="bad/classes.txt"):
    from dinoforge.errors import Fault

    return ClassList("list:bad", path, {}, Fault("line 2 is blank", path, "fix the list"))


@pytest.mark.parametrize(
    ("classes", "lists", "words"),
    [
        ([(A, 0), (B, 0), 7], [A, B], ["any of 2 lists: 7", "a/classes.txt", "b/classes.txt"]),
        ([(A, 0), 2], [A], ["not in the only list", ": 2", "x.tar", "a/classes.txt"]),
        ([(A, 2)], [A], ["not in the list", ": 2", "x.tar", "a/classes.txt"]),
        ([(CRANES, 0), "crane"], [CRANES], ["`crane`", "0, 2", "x.tar", "cranes/classes.txt"]),
        (
            [(CRANES, 0), (class_list("b", "crane"), 0)],
            [CRANES, class_list("b", "crane")],
            ["`crane`", "cranes/classes.txt", "b/classes.txt"],
        ),
        ([7, "7", "007"], [], ["number 7", "007, 7"]),
        (
            [(class_list("c", "0", "1", "10", "2"), 0), 2],
            [class_list("c", "0", "1", "10", "2")],
            ["ids or names", ": 2"],
        ),
        ([(broken(), 0)], [broken()], ["line 2 is blank", "bad/classes.txt"]),
    ],
)
def test_what_cannot_be_decided_names_both_spaces(classes, lists, words):
    with pytest.raises(UsageError) as caught:
        united(*classes, lists=lists)
    for word in words:
        assert word in str(caught.value)


LISTS = {classes.space: classes for classes in (A, B, CRANES)}
LISTED = [(classes, label) for classes in LISTS.values() for label in classes.names]
CLASS = st.sampled_from([None, *range(4), "cat", "bird", "owl", "3", "03", *LISTED])


@given(st.lists(CLASS, max_size=12))
def test_no_label_is_lost_and_no_two_classes_of_a_space_become_one(classes):
    rows = table(*classes)
    try:
        labels = unite_classes([rows], [LISTS]).labels(rows).tolist()
    except UsageError:
        return
    assert labels.count(-1) == classes.count(None)
    columns = (rows.column(name).to_pylist() for name in ("class_space", "label", "class_name"))
    own = list(zip(*columns, strict=True))
    for one, number in zip(own, labels, strict=True):
        for other, another in zip(own, labels, strict=True):
            if one[0] == other[0]:
                assert (one == other) == (number == another)


def test_tables_share_numbers_however_each_is_ordered():
    train, test = table("b", "a", "b"), table("c", "b", None)
    numbering = unite_classes([train, test], [{}, {}])
    assert numbering.labels(train).tolist() == [1, 0, 1]
    assert numbering.labels(test).tolist() == [2, 1, -1]


@pytest.mark.parametrize(
    ("renames", "labels"),
    [
        ({}, [0, 1, 2, 3, -1]),
        ({"dog": "cow"}, [0, 2, 2, 3, -1]),
        ({"cat": "", "owl": ""}, [-1, 1, 2, -1, -1]),
        ({"0": "dog"}, [1, 1, 2, 3, -1]),
        ({"owl": "0"}, [0, 1, 2, 0, -1]),
        ({"*": ""}, [-1, -1, -1, -1, -1]),
        ({"*": "", "dog": "dog"}, [-1, 0, -1, -1, -1]),
        # A class of a list gets a number of that list.
        ({"cat": "1", "dog": "0"}, [1, 0, 2, 3, -1]),
        ({"0": "1", "1": "0", "cow": "1"}, [1, 0, 1, 2, -1]),
        ({"*": "0"}, [0, 0, 0, 0, -1]),
    ],
)
def test_a_recipe_renames_classes(renames, labels):
    lists = {A.space: A}
    rows = rename_classes(table((A, 0), (A, 1), "cow", "owl", None), lists, renames, "classes")
    assert unite_classes([rows], [lists]).labels(rows).tolist() == labels


def test_numbers_for_the_classes_of_a_list_are_those_of_no_other_list():
    lists = {A.space: A, B.space: B}
    for renames, names in (
        ({"cat": "1", "dog": "0"}, "dog cat bird"),
        ({"cat": "1"}, "dog dog bird"),
    ):
        rows = rename_classes(table((A, 0), (A, 1), (B, 0)), lists, renames, "classes")
        numbering = unite_classes([rows], [lists])
        labels = numbering.labels(rows).tolist()
        assert [numbering.names[at] for at in labels] == names.split()
    rows = rename_classes(table((A, 0), (A, 1)), lists, {"cat": "7", "dog": "8"}, "classes")
    with pytest.raises(
        UsageError, match=r"not in the list of classes: 7, 8 - x.tar, a/classes.txt"
    ):
        unite_classes([rows], [lists])


@pytest.mark.parametrize("renames", [{"0": "owl", "cat": "eagle"}, {"cat": "owl", " cat": "owl"}])
def test_a_class_that_is_renamed_twice_is_an_error(renames):
    with pytest.raises(
        UsageError, match=r"`(0|cat)` and ` ?cat` are one class.*`classes` - remove"
    ):
        rename_classes(table((A, 0)), {A.space: A}, renames, "classes")


@pytest.mark.parametrize(
    ("classes", "is_warned"),
    [(["train", "val"], 1), (["Test2017", "dev"], 1), (["train", "car"], 0), (["train", 0], 0)],
)
def test_classes_that_are_called_like_splits_are_reported(caplog, classes, is_warned):
    united(*classes)
    assert caplog.text.count("called like splits") == is_warned


def test_a_name_of_several_classes_is_renamed_by_number():
    rows, lists = table((CRANES, 0), (CRANES, 2), "crane"), {CRANES.space: CRANES}
    with pytest.raises(UsageError, match=r"`crane` is the name of several classes of cranes.*0, 2"):
        rename_classes(rows, lists, {"crane": "bird"}, "classes")
    named = rename_classes(rows, lists, {"0": "bird", "2": "machine"}, "classes")
    assert named.column("class_name").to_pylist() == ["bird", "machine", "crane"]


def test_a_number_is_one_without_a_list_if_there_is_one_else_that_of_the_only_list():
    lists = {A.space: A, B.space: B}
    with pytest.raises(UsageError, match=r"`0` is a number of 2 lists: a/.*, b/.* - give a name"):
        rename_classes(table((A, 0), (B, 0)), lists, {"0": "cat"}, "classes")
    named = rename_classes(table((A, 0), (B, 0), 0), lists, {"0": "owl"}, "classes")
    assert named.column("class_name").to_pylist() == ["cat", "bird", "owl"]


def test_a_rename_of_nothing_is_an_error_that_lists_classes():
    message = "no class `cta` - `classes` - choose from: cat, dog, 7"
    with pytest.raises(UsageError, match=message):
        rename_classes(table((A, 0), 7), {A.space: A}, {"cta": "cat", "dog": "cat"}, "classes")


def test_spaces_are_described_with_examples():
    rows = table((A, 0), 7, *"zyxwv")
    assert describe_classes(rows, {A.space: A}) == (
        "cat (a/classes.txt); v, w, x, y, ... (names in x.tar); 7 (numbers in x.tar)"
    )


def test_many_classes_take_no_quadratic_time():
    rows = table(*(f"{number:06d}" for number in range(20_000)), 2**63 - 1, *"abc" * 100)
    labels = unite_classes([rows], [{}]).labels(rows)
    assert labels[:20_000].tolist() == list(range(20_000))
    assert labels[20_001:20_004].tolist() == [20_000, 20_001, 20_002]


def test_the_first_rows_of_classes_stand_for_a_listing():
    birds = class_list("birds", "owl", "crane")
    whole = pa.concat_tables(
        [table("cat", None, (birds, 1), shard="x.tar"), table(0, "cat", "ant", shard="y.tar")]
    )
    firsts = FirstOfClasses()
    for start in range(0, whole.num_rows, 2):
        firsts.add(whole.slice(start, 2))
    lists = [{birds.space: birds}]
    assert firsts.table.column("shard").to_pylist() == ["x.tar"] * 3 + ["y.tar"] * 2
    assert len(firsts.keys) == 5
    assert unite_classes([firsts.table], lists) == unite_classes([whole], lists)
    assert describe_classes(firsts.table, lists[0]) == describe_classes(whole, lists[0])
