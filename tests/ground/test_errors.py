"""Errors that users can fix: one line per fault, also after pickling."""

import pickle

from dinoforge.errors import Fault, UsageError


def test_usage_errors_survive_the_way_between_processes():
    error = UsageError(faults=[Fault("a", "b", "c"), Fault("d", "e", "f")])
    back = pickle.loads(pickle.dumps(error))
    assert back.faults == error.faults
    assert str(back) == "a - b - c\nd - e - f"
