"""Labels and lists of classes as other programs write them."""

import codecs

import pytest

from dinoforge.sources.classes import (
    NAMES,
    NUMBERS,
    UNLABELED,
    class_of_folder,
    class_of_text,
    clean_name,
    find_class_list,
    is_plain_list,
    parse_label,
)

BOM = "\ufeff"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("3", 3),
        (" 3 \n", 3),
        (f"{BOM}3", 3),
        (f" {BOM} 3", 3),
        ("3\0\0", 3),
        ("+3", 3),
        ("003", 3),
        ("3.0", 3),
        ("3.", 3),
        ("-0", 0),
        ("5000000000", 5_000_000_000),
        ("9223372036854775807", 2**63 - 1),
        ("0000000000000000000000000000000007", 7),
        ("\u200b3\u200e", 3),
        # No label.
        ("", None),
        (" \r\n", None),
        (BOM, None),
        ("-1", None),
        ("-7", None),
        ("-1.0", None),
        ("-99999999999999999999", None),
        ("-1.5", None),
        ("-.5", None),
        ("\u22121", None),
        ("-1e0", None),
        ("-1.000000000000000000E+00", None),
        # Names.
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("9" * 400, "9" * 400),
        ("\u0663", "\u0663"),
        ("\uff13", "\uff13"),
        ("3.5", "3.5"),
        ("3 4", "3 4"),
        ("1e3", "1e3"),
        ("0x3", "0x3"),
        ("+", "+"),
        ("\u00a0cat\u3000", "cat"),
        ("a\u00a0cat", "a cat"),
        ("a\u2009\u3000cat", "a  cat"),
        ("\u202acat\u200b \u2060", "cat"),
        ("c\u200ba\ufefft", "cat"),
        ("e\u200b\u0301", "\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("c\0a\nt\u2028", "c\\x00a\\nt"),
        ("c\u2028t", "c\\u2028t"),
        ("\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0645\u06cc\u200c\u0634\u0648\u062f"),
    ],
)
def test_the_text_of_a_label_is_a_number_a_name_or_none(text, label):
    assert parse_label(text) == label


def test_a_clean_name_stays_as_it_is():
    for text in (
        "cafe\u0301",
        "e\u200b\u0301",
        " \u200b\u00a0x\u2060 ",
        "a\nb",
        f"{BOM} x\0",
        "\\n",
        "0",
    ):
        assert clean_name(clean_name(text)) == clean_name(text)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("cat", "cat"), ("007", "007"), ("-1", None), (BOM, None), ("-1.5", None), ("None", "None")],
)
def test_a_class_folder_is_its_name_and_minus_one_is_none(folder, name):
    assert class_of_folder(folder) == (UNLABELED if name is None else (-1, NAMES, name))


def write(folder, data, name="classes.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return find_class_list([folder])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("classes.txt", "cat\ndog\n"),
        ("classes.txt", "cat\ndog"),
        ("classes.txt", " cat \ndog\n\n \n"),
        ("classes.txt", f"{BOM}cat\r\ndog\r\n"),
        ("classes.txt", "cat\rdog\r"),
        ("classes.txt", "cat\ndog\n".encode("utf-16")),
        ("classes.txt", codecs.BOM_UTF16_BE + "cat\r\ndog".encode("utf-16-be")),
        ("classes.tsv", "0\tn01\tcat\n1\tn02\tdog\n"),
        ("classes.tsv", f"{BOM}1\tdog\r\n\r\n0\tcat\r\n"),
        ("classes.txt", "0 cat\n1 dog\n"),
        ("classes.txt", f"{BOM}0: cat\r\n1: dog\r\n"),
        ("classes.txt", "0,cat\n1,dog"),
        ("classes.txt", "0\tn01\tcat\n1\tn02\tdog\n"),
    ],
)
def test_lists_with_the_same_classes_are_one_space(tmp_path, name, data):
    plain = write(tmp_path / "plain", "cat\ndog\n")
    other = write(tmp_path / "other", data, name)
    assert other.fault is None
    assert dict(sorted(other.names.items())) == {0: "cat", 1: "dog"}
    assert other.space == plain.space


@pytest.mark.parametrize("data", ["dog\ncat\n", "cat\n", "cat\ndog\ncow\n", "Cat\ndog\n"])
def test_other_lists_are_other_spaces(tmp_path, data):
    spaces = {write(tmp_path / name, d).space for name, d in (("a", "cat\ndog\n"), ("b", data))}
    assert len(spaces) == 2


def test_unicode_forms_of_a_name_are_one_name(tmp_path):
    composed, split = write(tmp_path / "a", "caf\u00e9"), write(tmp_path / "b", "cafe\u0301")
    assert composed == write(tmp_path / "a", "caf\u00e9\n")
    assert (composed.space, composed.names) == (split.space, split.names)


def test_a_list_with_gaps_and_any_order_keeps_its_numbers(tmp_path):
    classes = write(tmp_path, "7\tdog\n5000000000\tcow\n3\tcat\n", "classes.tsv")
    assert classes.names == {7: "dog", 5_000_000_000: "cow", 3: "cat"}


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("1 cat\n2 dog\n", {1: "cat", 2: "dog"}),
        ("01 001.cat\n02 002.dog\n", {1: "001.cat", 2: "002.dog"}),
        # Parts of the names, not numbers of the classes.
        ("001.cat\n002.dog\n", {0: "001.cat", 1: "002.dog"}),
        ("1 cat\n3 dog\n", {0: "1 cat", 1: "3 dog"}),
        ("2 cat\n3 dog\n1\n", {0: "2 cat", 1: "3 dog", 2: "1"}),
        # Parts of the names in the order of their numbers, or numbers that are no ids.
        ("room 1\nroom 2\n", {0: "room 1", 1: "room 2"}),
        ("Audi 2012\nAcura 2001\n", {0: "Audi 2012", 1: "Acura 2001"}),
        ("#1\n#tag\n", {0: "#1", 1: "#tag"}),
        ("<3\n<htm\n", {0: "<3", 1: "<htm"}),
        ("2019 cat\n2020 dog\n", {0: "2019 cat", 1: "2020 dog"}),
        ("1 cat\ndog\n", {0: "1 cat", 1: "dog"}),
        ("1 cat\n", {0: "1 cat"}),
        ("0\n1\n", {0: "0", 1: "1"}),
    ],
)
def test_a_list_whose_lines_begin_with_consecutive_numbers_has_these(tmp_path, data, names):
    assert write(tmp_path, data).names == names


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("classes.txt", "cat\n\ndog\n", "line 2 is blank"),
        ("classes.txt", "\ncat\n", "line 1 is blank"),
        ("classes.txt", "cat\r\r\ndog\r\r\n", "line 2 is blank"),
        ("classes.txt", b"caf\xe9\n", "not UTF-8 text"),
        ("classes.txt", "cat\ndog\n".encode("utf-16-le"), "not UTF-8 text"),
        ("classes.txt", "cat\ndog\n".encode("utf-32"), "not UTF-8 text"),
        ("classes.tsv", "0\tcat\n".encode("utf-16-be"), "not UTF-8 text"),
        ("classes.txt", "# classes\ncat\n", "line 1 is a comment"),
        ("classes.txt", f"{BOM}#\ncat\n", "line 1 is a comment"),
        ("classes.txt", "version https://git-lfs.github.com/spec/v1\noid x\n", "Git LFS pointer"),
        ("classes.txt", "<!DOCTYPE html>\n<html>\n", "web page"),
        ("classes.txt", ' <?xml version="1.0"?>\n<a/>', "web page or XML"),
        ("classes.txt", "1 dog\n0 cat\n", "numbers are not in order"),
        ("classes.txt", "2: cow\n1: cat\n5: dog\n", "numbers are not in order"),
        ("classes.txt", "dog 1\ncat 0\n", "numbers are not in order"),
        ("classes.txt", "dog\t2\ncow,3\ncat:1\n", "numbers are not in order"),
        ("classes.tsv", "id\tname\n0\tcat\n", "line 1 is not `number<TAB>name`"),
        ("classes.tsv", "0\tcat\n1\n", "line 2 is not"),
        ("classes.tsv", "0\tcat\t\n", "line 1 is not"),
        ("classes.tsv", "0\tcat\n-1\tdog\n", "line 2 is not"),
        ("classes.tsv", "1\tcat\n1\tdog\n", "line 2 repeats the number 1"),
    ],
)
def test_a_list_that_could_mix_up_classes_is_refused_by_name(tmp_path, name, data, problem):
    fault = write(tmp_path, data, name).fault
    assert problem in fault.what
    assert fault.where == str(tmp_path / name)


def test_the_nearest_list_inside_the_source_is_used(tmp_path):
    folder = tmp_path / "source/train/part"
    folder.mkdir(parents=True)
    write(tmp_path, "outside\n")
    folders = [folder, tmp_path / "source/train", tmp_path / "source"]
    assert find_class_list(folders) is None
    write(tmp_path / "source", "cat\n")
    write(folder, "", "classes.txt")  # empty: no list
    assert find_class_list(folders).names == {0: "cat"}
    write(folder, "0\tdog\n", "classes.tsv")
    assert find_class_list(folders).names == {0: "dog"}


@pytest.mark.parametrize(("table", "is_rival"), [("0\tcat\n1\tdog\n", 0), ("0\tcat\n", 1)])
def test_two_lists_of_a_folder_that_differ_are_noted(tmp_path, table, is_rival):
    write(tmp_path, "cat\ndog\n")
    classes = write(tmp_path, table, "classes.tsv")
    assert classes.path == str(tmp_path / "classes.txt")
    assert classes.rival == is_rival * str(tmp_path / "classes.tsv")


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        ["1 cat", "2 dog"],
        ["1 cat", "0 dog"],
        ["dog 1", "cat 0"],
        ["# a"],
        ["<html"],
    ],
)
def test_a_plain_list_is_read_as_it_was_written(tmp_path, names):
    assert is_plain_list(names) == (
        write(tmp_path, "\n".join(names)).names == dict(enumerate(names))
    )
    assert is_plain_list(names) == (names == ["cat", "dog"])


def test_labels_take_the_space_of_their_list(tmp_path):
    classes = write(tmp_path, "crane\ndog\ncrane\n")
    assert class_of_text("2", classes) == (2, classes.space, "crane")
    assert class_of_text("dog", classes) == (1, classes.space, "dog")
    assert class_of_text("9", classes) == (9, classes.space, "")
    assert class_of_text("crane", classes) == (-1, NAMES, "crane"), "two classes have the name"
    assert class_of_text("cow", classes) == (-1, NAMES, "cow")
    assert class_of_text("2", None) == (2, NUMBERS, "")
    assert class_of_text("-1", classes) == class_of_text("", None) == UNLABELED


@pytest.mark.parametrize(
    "text",
    ["nan", "NaN", "-nan", "None", "NULL", "n/a", "#N/A", "<NA>", "18446744073709551615", "-1.5"],
)
def test_what_other_tools_write_without_a_label_is_none_unless_the_list_has_it(tmp_path, text):
    classes = write(tmp_path, "cat\nnone\nnone\nNULL\n")
    assert class_of_text(text, None) == UNLABELED
    expected = (3, classes.space, "NULL") if text == "NULL" else UNLABELED
    assert class_of_text(text, classes) == expected
    assert class_of_text("none", classes) == (-1, NAMES, "none"), "two classes have the name"
