"""What a job reads out of its own log."""

import pytest

from dinoforge.slurm.store.layout import last_error

TRACEBACK = """\
Traceback (most recent call last):
  File "loop.py", line 3, in train
    raise ValueError("no")
OSError: [Errno 116] Stale file handle

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "loop.py", line 9, in train
    save()
training.checkpoint.SaveError: nothing was written
  note: added later
"""


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("", ""),
        ("step 3\nsrun: error: node1: task 0: Exited with exit code 1\n", ""),
        ("error: one - here - fix it\n", "one - here - fix it"),
        ("error: a - b - c\nerror: d - e - f\nbye\n", "d - e - f"),
        (TRACEBACK, "training.checkpoint.SaveError: nothing was written"),
    ],
)
def test_the_last_error_are_the_error_line_or_what_was_raised(tmp_path, text, reported):
    log = tmp_path / "rank0.out"
    log.write_text(text)
    assert last_error(log, 0) == reported


def test_what_an_earlier_start_said_is_not_heard_again(tmp_path):
    log = tmp_path / "rank0.out"
    log.write_text("error: of the first start\n")
    start = log.stat().st_size
    assert last_error(log, start) == ""
    assert last_error(tmp_path / "none.out", 0) == ""
