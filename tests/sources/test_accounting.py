"""The account of what was read: counted once, and every incomplete source by name."""

import logging
from dataclasses import replace

from dinoforge.shards.index import INCOMPLETE, NOTES, SHARD_REASONS, problem
from dinoforge.sources.accounting import Account, merge_problems
from dinoforge.sources.discover import SOURCE_REASONS

CUT = problem("cut.tar", "3.jpg", "truncated", "at byte 512")
TEXTS = [problem("notes.txt", "", "other_file"), problem("more.txt", "", "other_file")]


def test_reasons_are_known_and_of_one_kind():
    assert (SHARD_REASONS | SOURCE_REASONS).keys() >= INCOMPLETE | NOTES
    assert not INCOMPLETE & NOTES


def test_counts_are_written_and_logged(caplog):
    account = Account.of(1200, [CUT, *TEXTS], undecodable=2)
    assert account.as_json() == {
        "images": 1200,
        "undecodable": 2,
        "problems": {"other_file": 2, "truncated": 1},
        "incomplete": [CUT],
    }
    with caplog.at_level(logging.INFO, logger="dinoforge"):
        logging.getLogger("dinoforge").addHandler(caplog.handler)
        account.log()
        Account.of(3, []).log()
        Account.of(2, [], not_selected=1000).log()
        replace(Account.of(4, []), labeled=2).log()
        logging.getLogger("dinoforge").removeHandler(caplog.handler)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert list(dict.fromkeys(lines)) == [
        (
            "WARNING",
            "cut.tar is incomplete: truncated (it ends inside a member or a header), "
            "3.jpg at byte 512",
        ),
        ("WARNING", "1,200 images read; problems: 2 other_file, 1 truncated, 2 undecodable"),
        ("INFO", "3 images read; no problems"),
        ("INFO", "2 images read, 1,000 not selected; no problems"),
        ("INFO", "4 images and 2 labeled images read; no problems"),
    ]


def test_sources_that_were_not_read_are_named_up_to_a_limit():
    entries = [problem(f"{n}.tar", "", "unreadable", "Permission denied") for n in range(23)]
    lines = Account.of(1, [*entries, problem("p.tar", "", "no_members")]).lines()
    why = "unreadable (it cannot be opened or read), Permission denied"
    assert lines[0] == f"0.tar was not read: {why}"
    assert lines[20:] == [
        "p.tar is incomplete: no_members (an archive without files)",
        "3 more were not read: see `run.json`",
        "1 images read; problems: 1 no_members, 23 unreadable",
    ]


def test_what_earlier_starts_decoded_of_the_same_images_is_kept():
    def start(images, undecodable):
        return {"sources": Account.of(images, [CUT], undecodable=undecodable).as_json()}

    now = Account.of(9, [CUT], undecodable=1)
    assert now.joined([]) == now.joined([{}, start(9, 0)]) == now.joined([start(8, 5)]) == now
    assert now.joined([start(9, 2), start(9, 0)]).undecodable == 2


def test_a_tar_that_two_listings_share_counts_once_and_its_repeats_each():
    twice = [problem("a.tar", ".h.jpg", "no_key")] * 2
    assert merge_problems([[*twice, CUT], [*twice, CUT, *TEXTS]]) == [*twice, CUT, *TEXTS]
