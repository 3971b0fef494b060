"""Of the ranks that meet one mistake, or lose a rank, exactly one tells it."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rank_of_errors.py")
LINE = "2 no GPU - device=cuda - give device=cpu"

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.parametrize("met", ["0,1,2", "0,2", "1,2", "2"])
def test_one_rank_tells_what_several_meet_rank_0_if_it_is_among_them(run_ranks, tmp_path, met):
    run_ranks(3, SCRIPT, [str(tmp_path), "meet", met])
    told = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert set(told) == {int(number) for number in met.split(",")}
    assert sorted(told.values()) == ["2"] * (len(told) - 1) + [LINE]
    assert 0 not in told or told[0] == LINE


def test_without_a_launcher_one_of_the_others_names_a_lost_rank(run_ranks, tmp_path):
    run_ranks(3, SCRIPT, [str(tmp_path), "lose", "1"])
    told = {int(path.name): path.read_text() for path in tmp_path.iterdir()}
    assert told.keys() == {0, 2}
    assert told[0].startswith("76 rank 1 of 3 was lost - ")
    assert told[2] == "76"
