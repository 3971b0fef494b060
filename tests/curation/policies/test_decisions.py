import numpy as np

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation.policies.decisions import (
    Screened,
    apply_duplicates,
    apply_leaks,
    apply_retrieval,
    decide_rest,
    start_decisions,
)
from dinoforge.curation.policies.duplicates import EXACT, NEAR, NONE, Groups
from dinoforge.curation.policies.slots import Slots

AS_IS, SEED, POOL, REFERENCE = range(4)
ROLE = np.array([SEED, POOL, POOL, POOL, POOL, POOL, AS_IS, REFERENCE], np.int8)


def screened(bad=()):
    reason = np.full(len(ROLE), -1, np.int8)
    reason[list(bad)] = REASONS.index("undecodable")
    return Screened(ROLE, reason)


def groups(ids, kept, reason, duplicate_of, link):
    return Groups(
        kept=np.array(kept),
        reason=np.array(reason, np.int8),
        component=np.array(ids),
        duplicate_of=np.array(duplicate_of),
        link=np.array(link),
        similarity=np.where(np.array(link) >= 0, 0.97, np.nan).astype(np.float32),
        num_split=0,
    )


def reasons(decisions):
    return [REASONS[code] for code in decisions.reason]


def test_the_first_rule_that_speaks_decides():
    given = screened(bad=[5])
    decisions = start_decisions(given, exported=np.ones(len(ROLE), np.bool_))
    ids = np.array([0, 1, 2, 3, 4, 6])
    result = groups(
        ids.tolist(),
        [True, False, False, True, True, True],
        [NONE, EXACT, NEAR, NONE, NONE, NONE],
        [-1, 0, 0, -1, -1, -1],
        [-1, 0, 0, -1, -1, -1],
    )
    apply_duplicates(decisions, ids, result)
    leak_ids, references = np.array([2, 3, 6]), np.array([7, 7, 7])
    value = np.array([0.99, 0.98, 0.96], np.float32)
    apply_leaks(decisions, leak_ids, references, value, exempt=ROLE == AS_IS)
    decide_rest(decisions, given, keep_survivors=True)
    assert reasons(decisions) == [
        "seed",
        "exact_duplicate",
        "near_duplicate",
        "leak",
        "kept",
        "undecodable",
        "as_is",
        "reference",
    ]
    # the duplicate keeps its own evidence although it would leak, too; as_is is noted, not dropped
    assert decisions.duplicate_of.tolist() == [-1, 0, 0, 7, -1, -1, 7, -1]
    assert decisions.kept.tolist() == [True, False, False, False, True, False, True, False]


def test_a_seed_that_only_asks_is_not_kept_and_may_still_leak():
    given = screened()
    decisions = start_decisions(given, exported=np.zeros(len(ROLE), np.bool_))
    assert reasons(decisions)[0] == "seed"
    apply_leaks(
        decisions, np.array([0]), np.array([7]), np.array([0.99], np.float32), exempt=ROLE == AS_IS
    )
    decide_rest(decisions, given, keep_survivors=True)
    assert reasons(decisions)[0] == "leak"
    assert not decisions.kept[0]


def test_retrieval_keeps_what_was_asked_for_and_counts_copies():
    given = screened()
    decisions = start_decisions(given, exported=np.ones(len(ROLE), np.bool_))
    slots = Slots(
        np.array([0, 0, 1]),
        np.array([0, 1, 0]),
        np.array([1, 2, 2]),
        np.array([0.9, 0.5, 0.8], np.float32),
        np.zeros(3, np.int32),
    )
    apply_retrieval(decisions, slots, np.array([0, 0]), multiset=[True])
    decide_rest(decisions, given, keep_survivors=False)
    assert reasons(decisions)[1:4] == ["retrieved", "retrieved", "not_retrieved"]
    assert decisions.copies[1:4].tolist() == [1, 2, 0]
    assert decisions.rank[2] == 0
    assert decisions.score[2] == np.float32(0.8)


def test_every_role_has_a_place_in_the_order_of_preference():
    assert ROLES == ("as_is", "seed", "pool", "reference")
