"""Of the ranks that meet one mistake, or lose a rank, exactly one reports it."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rank_of_errors.py")
LINE = "2 no GPU - device=cuda - give device=cpu"


@pytest.mark.parametrize("met", ["0,1,2", "0,2", "1,2", "2"])
def test_one_rank_shows_what_several_meet_rank_0_if_it_is_among_them(run_ranks, tmp_path, met):
    run_ranks(3, SCRIPT, [str(tmp_path), "meet", met])
    reported = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert set(reported) == {int(number) for number in met.split(",")}
    assert sorted(reported.values()) == ["2"] * (len(reported) - 1) + [LINE]
    assert 0 not in reported or reported[0] == LINE


def test_without_a_launcher_one_of_the_others_names_a_lost_rank(run_ranks, tmp_path):
    run_ranks(3, SCRIPT, [str(tmp_path), "lose", "1"])
    reported = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert reported.keys() == {0, 2}
    assert reported[0].startswith("76 rank 1 of 3 was lost - ")
    assert reported[2] == "76"
