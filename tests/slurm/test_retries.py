"""What happens to a partition that is not done, by its history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.slurm.outcomes import Outcome, Verdict
from dinoforge.slurm.retries import Ending, Limits, decide, since_progress

LIMITS = Limits(4.0, 60), Limits(16.0, 240)


def ended(*outcomes, **facts):
    return [Ending(outcome=outcome, memory_gb=4.0, minutes=60, **facts) for outcome in outcomes]


def play(limits, outcome, **facts):
    """The same end again and again: limits of every attempt, and the stop."""
    history, tried = [], []
    while isinstance(result := decide(history, *limits), Limits):
        tried.append((result.memory_gb, result.minutes))
        history.append(
            Ending(outcome=outcome, memory_gb=result.memory_gb, minutes=result.minutes, **facts)
        )
        assert len(tried) < 20
    return tried, result


def test_a_new_partition_gets_what_the_profile_states():
    assert decide([], *LIMITS) == Limits(4.0, 60)


def test_out_of_memory_gets_half_as_much_again_once():
    tried, stop = play(LIMITS, Outcome.MEMORY)
    assert tried == [(4.0, 60), (6.0, 60)]
    assert "with 6 GB" in stop.message


def test_no_more_memory_is_asked_for_than_a_node_has():
    tried, _ = play((Limits(4.0, 60), Limits(5.0, 0)), Outcome.MEMORY)
    assert tried == [(4.0, 60), (5.0, 60)]
    tried, _ = play((Limits(4.0, 60), Limits(4.0, 0)), Outcome.MEMORY)
    assert tried == [(4.0, 60)]


def test_killed_by_nobody_known_is_tried_as_it_is_then_as_memory():
    tried, stop = play(LIMITS, Outcome.KILLED)
    assert tried == [(4.0, 60), (4.0, 60), (6.0, 60)]
    assert stop.outcome is Outcome.KILLED


def test_out_of_time_gets_twice_the_minutes_and_more_only_with_progress():
    tried, stop = play(LIMITS, Outcome.TIME)
    assert tried == [(4.0, 60), (4.0, 120)]
    assert stop.outcome is Outcome.TIME
    history = ended(Outcome.TIME, Outcome.TIME, progressed=True)
    assert decide(history, *LIMITS) == Limits(4.0, 120)


def test_no_more_time_is_asked_for_than_the_partition_gives():
    tried, _ = play((Limits(4.0, 60), Limits(0.0, 90)), Outcome.TIME)
    assert tried == [(4.0, 60), (4.0, 90)]


def test_the_same_exception_twice_stops_another_one_does_not():
    first = Ending(outcome=Outcome.EXCEPTION, message="ValueError: a")
    other = Ending(outcome=Outcome.EXCEPTION, message="OSError: b")
    assert isinstance(decide([first], *LIMITS), Limits)
    assert isinstance(decide([first, other], *LIMITS), Limits)
    assert decide([first, other, first], *LIMITS) == Verdict(Outcome.EXCEPTION, "ValueError: a")


@pytest.mark.parametrize(
    "outcome", [Outcome.SETUP, Outcome.USAGE, Outcome.USER, Outcome.DEVICE_MEMORY]
)
def test_what_a_person_must_fix_stops_at_once(outcome):
    assert isinstance(decide(ended(outcome), *LIMITS), Verdict)


def test_set_up_that_fails_on_one_node_alone_is_tried_once_more():
    assert isinstance(decide(ended(Outcome.SETUP, alone=False), *LIMITS), Limits)
    assert isinstance(decide(ended(Outcome.SETUP, Outcome.SETUP, alone=False), *LIMITS), Verdict)


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.INFRASTRUCTURE])
def test_what_is_nobodys_fault_goes_on_under_the_same_limits(outcome):
    assert decide(ended(*[outcome] * 9), *LIMITS) == Limits(4.0, 60)


def test_more_memory_is_kept_when_something_else_happens_next():
    preempted = Ending(outcome=Outcome.PREEMPTED, memory_gb=6.0, minutes=60)
    history = [*ended(Outcome.MEMORY), preempted]
    assert decide(history, *LIMITS) == Limits(6.0, 60)


@given(st.lists(st.sampled_from(list(Outcome)), max_size=8), st.booleans())
def test_no_history_asks_for_more_than_the_cluster_has(outcomes, progressed):
    history = []
    for outcome in outcomes:
        result = decide(history, *LIMITS)
        if isinstance(result, Verdict):
            break
        assert 4.0 <= result.memory_gb <= 16.0
        assert 60 <= result.minutes <= 240
        history.append(
            Ending(
                outcome=outcome,
                memory_gb=result.memory_gb,
                minutes=result.minutes,
                progressed=progressed,
            )
        )


def test_of_a_training_only_what_happened_since_it_got_further_counts():
    got_further = ended(Outcome.EXCEPTION, message="disk away", progressed=True)
    stood_still = ended(Outcome.EXCEPTION, message="disk away")
    assert isinstance(decide(since_progress(got_further * 5), *LIMITS), Limits)
    assert isinstance(decide(since_progress(got_further + stood_still), *LIMITS), Verdict)
    assert isinstance(decide(since_progress(stood_still + got_further), *LIMITS), Limits)
    assert since_progress([]) == []
