"""Contact sheets: the decisions that a person should look at, with the number behind each."""

import json

import pytest

from dinoforge.curated import summary_path
from dinoforge.evaluation.report.ledger import Ledger, read_ledger
from dinoforge.evaluation.report.sheets import make_sheets


@pytest.fixture(scope="module")
def ledger(project):
    return read_ledger(project["curation"])


@pytest.fixture(scope="module")
def sheets(ledger):
    return make_sheets(ledger, threshold=0.95, floor=0.85)


def changed(ledger, **columns):
    return Ledger({**ledger.columns, **columns}, ledger.run_folder)


def test_groups_show_the_image_that_stays_and_copies_of_it(sheets, ledger):
    assert sheets.num_groups == 19
    assert len(sheets.duplicates) == 12
    for group in sheets.duplicates:
        assert all(
            ledger.row(m.image_id).duplicate_of == group.head.image_id for m in group.members
        )
    heads = [group.head.image_id for group in sheets.duplicates]
    assert len(set(heads)) == len(heads)


def test_every_kind_of_edit_is_shown_at_its_hardest_first(sheets, ledger):
    shown = [ledger.row(group.members[0].image_id) for group in sheets.duplicates[:5]]
    assert sorted(row.edit for row in shown) == ["brightness", "crop", "flip", "jpeg", "resize"]
    for row in shown:
        alike = ledger["similarity"][ledger["edit"] == row.edit]
        assert row.similarity == alike.min()


def test_the_largest_group_comes_next(sheets, ledger):
    sizes = [len(group.members) + group.more for group in sheets.duplicates]
    assert sizes[5] == 2 == max(sizes)


def test_a_copy_states_how_it_was_planted_and_an_exact_one_what_is_equal(sheets, ledger):
    members = [member for group in sheets.duplicates for member in group.members]
    for member in members:
        row = ledger.row(member.image_id)
        if row.reason == "exact_duplicate":
            assert (member.notes, member.similarity) == (["same bytes"], None)
        else:
            assert member.notes == [f"planted: {row.edit}"]
            assert member.similarity == row.similarity


def test_a_number_that_belongs_to_another_pair_is_reported(ledger):
    """In a chain a - b - c with a kept, the similarity of c is that of (b, c)."""
    near = ledger["image_id"][ledger["reason"] == "near_duplicate"].tolist()
    edge_i, edge_j = ledger["edge_i"].copy(), ledger["edge_j"].copy()
    edge_i[near[0]], edge_j[near[0]] = near[0], near[1]
    sheets = make_sheets(changed(ledger, edge_i=edge_i, edge_j=edge_j))
    notes = {m.image_id: m.notes for group in sheets.duplicates for m in group.members}
    assert "to another copy" in notes[near[0]]
    assert sum("to another copy" in words for words in notes.values()) == 1


def test_nearest_misses_are_the_best_pairs_below_the_threshold(sheets, ledger):
    assert sheets.num_misses == 20
    result = [group.members[0].similarity for group in sheets.misses]
    assert len(result) == 12
    assert result == sorted(result, reverse=True)
    assert result[0] == pytest.approx(0.949)
    ids = [g.head.image_id for g in sheets.misses] + [g.members[0].image_id for g in sheets.misses]
    assert len(set(ids)) == len(ids)


def test_a_pair_inside_a_group_is_no_miss(ledger):
    component = ledger["component"].copy()
    component[[6, 7]] = 6  # the nearest pair
    sheets = make_sheets(changed(ledger, component=component), threshold=0.95)
    assert sheets.misses[0].head.image_id == 8


def test_a_pair_with_a_reference_image_is_no_miss(ledger):
    role = ledger["role"].copy()
    role[[7, 8]] = "reference"  # of the nearest pair and of the next one
    sheets = make_sheets(changed(ledger, role=role), threshold=0.95)
    assert sheets.num_misses == 18
    assert sheets.misses[0].head.image_id == 10


def test_without_a_threshold_there_are_no_misses(ledger):
    sheets = make_sheets(ledger)
    assert (sheets.misses, sheets.num_misses) == ([], 0)


def test_seeds_are_shown_with_what_they_got_by_rank(sheets, ledger):
    assert (sheets.num_seeds, len(sheets.seeds)) == (6, 6)
    for group in sheets.seeds:
        assert ledger.row(group.head.image_id).role == "seed"
        assert [m.notes for m in group.members] == [[f"rank {rank}"] for rank in (1, 2, 3, 4)]
        assert all(ledger.row(m.image_id).seed_id == group.head.image_id for m in group.members)
        scores = [m.similarity for m in group.members]
        assert scores == sorted(scores, reverse=True)


def test_leaks_stand_beside_the_reference_image_surest_first(ledger, project):
    summary = json.loads(summary_path(project["curation"]).read_text())
    references = summary["leaks"]["references"]
    sheets = make_sheets(ledger, leak_threshold=0.95, references=references)
    assert sheets.num_leaks == 4
    shown = sheets.leaks["reference"]
    similarities = [group.members[0].similarity for group in shown.above]
    assert similarities == pytest.approx([0.985, 0.975, 0.965, 0.955])
    assert all(group.head.notes == ["reference"] for group in shown.above)
    assert all(group.members[0].notes == ["leak"] for group in shown.above)
    (below,) = shown.below
    assert (below.members[0].similarity, below.members[0].notes) == (0.92, ["kept"])
