"""Pillow's warnings stay inside, also when threads overlap; others' warnings do not."""

import threading
import warnings

import pytest

from dinoforge.images.pillow import quiet_pillow


def warn_as(module):
    warnings.warn_explicit("odd file", UserWarning, f"{module}.py", 1, module=module)


def test_only_warnings_of_pillow_are_quiet():
    with quiet_pillow:
        warn_as("PIL.Image")
        with pytest.raises(UserWarning, match="odd file"):
            warn_as("elsewhere")
    with pytest.raises(UserWarning, match="odd file"):
        warn_as("PIL.Image")


def test_overlapping_threads_restore_the_filters():
    before = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with quiet_pillow:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with quiet_pillow:
        thread.start()
        assert entered.wait(10)
    warn_as("PIL.Image")  # the other thread is still inside
    leave.set()
    thread.join()
    assert warnings.filters == before
