"""Which images each source gives, against a plain reference: a dictionary of all images."""

import fnmatch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.config import SourceConfig
from dinoforge.curation.policies import selection
from dinoforge.curation.policies.selection import find_repeated_files, select_images
from dinoforge.randomness import KeyedPermutation

SIZES = (3, 0, 5, 1, 2)  # images of every file, whichever source lists it

SOURCES = st.lists(
    st.tuples(
        st.sampled_from(["pool", "reference", "as_is", "seed"]),
        st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=6),  # a file may be twice
        st.sampled_from(["", "*1", "[02]*"]),
        st.integers(0, 6),  # the limit
        st.sampled_from(["first", "random"]),
    ),
    min_size=1,
    max_size=4,
)


def rows_of(files):
    return [(file, at) for file in files for at in range(SIZES[file])]


def plain(given, seed):
    """Choose row by row: (chosen, also in references, not selected)."""
    locations = [rows_of(files) for _, files, *_ in given]
    owner, chosen, also = {}, [[]] * len(given), [[]] * len(given)
    for at in sorted(range(len(given)), key=lambda at: given[at][0] != "reference"):
        role, _, keys, limit, pick = given[at]
        where = locations[at]
        rows = [r for r, (_, n) in enumerate(where) if fnmatch.fnmatchcase(str(n), keys or "*")]
        if role != "reference":
            also[at] = [row for row in rows if owner.get(where[row]) == "reference"]
        rows = [row for row in rows if where[row] not in owner]
        if limit and limit < len(rows) and pick == "first":
            rows = rows[:limit]
        elif limit and limit < len(rows):
            order = KeyedPermutation(len(rows), seed, f"limit {role} s{at}")
            rows = sorted(rows[place] for place in order[np.arange(limit)])
        owner.update((where[row], role) for row in rows)
        chosen[at] = rows
    return chosen, also, len(set().union(*locations) - owner.keys())


@pytest.fixture(autouse=True, params=[2, 1 << 20])
def _few_rows(request, monkeypatch):
    monkeypatch.setattr(selection, "_ROWS", request.param)


@given(SOURCES, st.integers(0, 3))
def test_an_image_has_one_owner_whatever_files_sources_share(given, seed):
    places = [np.array([bytes([file]) * 32 for file in one[1]], "V32") for one in given]
    counts = [np.array([SIZES[file] for file in one[1]], np.int64) for one in given]
    repeated = find_repeated_files(places, counts)
    sources = [
        SourceConfig(role=role, name=f"s{at}", paths=["x"], keys=keys, limit=limit, pick=pick)
        for at, (role, _, keys, limit, pick) in enumerate(given)
    ]

    def matches(at):
        keys = [str(number) for _, number in rows_of(given[at][1])]
        return np.array([fnmatch.fnmatchcase(key, sources[at].keys or "*") for key in keys], bool)

    result = select_images(sources, matches, repeated, seed)
    chosen, also, not_selected = plain(given, seed)
    assert [np.flatnonzero(mask).tolist() for mask in result.chosen] == chosen
    assert [rows.tolist() for rows, _ in result.also_in_references] == also
    assert result.not_selected == not_selected
    locations = [rows_of(files) for _, files, *_ in given]
    assert result.num_shared == len(
        {locations[at][row] for at in range(len(given)) for row in also[at]}
    )
    numbers = {}
    for at, (rows, of_rows) in enumerate(result.also_in_references):
        for row, number in zip(rows.tolist(), of_rows.tolist(), strict=True):
            assert numbers.setdefault(locations[at][row], number) == number
    assert len(set(numbers.values())) == len(numbers)


def test_only_files_that_are_listed_again_are_numbered():
    places = [np.array([b"a" * 32, b"b" * 32], "V32"), np.array([b"c" * 32, b"b" * 32], "V32")]
    counts = [np.array([1000, 2]), np.array([5000, 2])]
    repeated = find_repeated_files(places, counts)
    assert repeated.num_images == 2
    rows, numbers = repeated.images(1, 5001, 9999)
    assert (rows.tolist(), numbers.tolist()) == ([5001], [1])
