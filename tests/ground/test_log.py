"""What a person reads while a command runs: progress, log, and what the log does to a disk."""

import io
import logging
import sys
from pathlib import Path

import pytest

from dinoforge import progress as progress_module
from dinoforge.log import log_to_folder, set_up_logging, stop_logging
from dinoforge.progress import Progress, as_duration

LOGGERS = ("dinoforge", "curation", "training", "evaluation", "slurm")


@pytest.fixture(autouse=True)
def _loggers_of_their_own():
    """Whatever command ran before in this process: nothing is set up yet, and all is put back."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(x, list(x.handlers), x.level, x.propagate) for x in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [], False
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


class Clock:
    """Seconds that pass when a test sets them."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_a_line_a_minute_with_done_total_rate_and_time_left(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    set_up_logging()
    with Progress(1200, unit="images", label="embed", done=200) as progress:
        for _ in range(50):
            clock.now += 4
            progress.advance(10)
    assert [line.partition(" ")[2] for line in file.getvalue().splitlines()] == [
        "embed: 350/1,200 images (2.50/s), 5 min 40 s left",
        "embed: 500/1,200 images (2.50/s), 4 min 40 s left",
        "embed: 650/1,200 images (2.50/s), 3 min 40 s left",
    ]
    assert progress.rate() == pytest.approx(2.5), "what was done before does not count"


def test_a_finished_or_empty_count_has_no_time_left_and_nothing_divides_by_zero(monkeypatch):
    clock = Clock(monkeypatch)
    empty = Progress(0, unit="steps", label="train")
    assert empty.line() == "train: 0/0 steps (0.00/s)"
    whole = Progress(30, unit="steps", label="train")
    whole.advance(30, note="loss 6.1")
    assert whole.line() == "train: 30/30 steps (0.00/s, loss 6.1)"
    clock.now += 1
    whole.advance(0)
    assert whole.line() == "train: 30/30 steps (30/s, loss 6.1)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations_carry_over(seconds, text):
    assert as_duration(seconds) == text


def test_a_terminal_gets_a_bar_and_a_file_gets_no_control_characters(monkeypatch):
    texts = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        set_up_logging()
        with Progress(4, unit="images", label="embed") as progress:
            progress.advance(4, note="loss 2.5")
        texts[stream.isatty()] = stream.getvalue()
    assert "embed" in texts[True]
    assert "4/4" in texts[True]
    assert "loss 2.5" in texts[True]
    assert texts[False] == ""


@pytest.mark.parametrize("quiet", [{"verbosity": -1}, {"rank": 1}], ids=["-q", "rank 1"])
def test_a_quiet_terminal_gets_no_bar(monkeypatch, quiet):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    set_up_logging(**quiet)
    with Progress(4, unit="images", label="embed") as progress:
        progress.advance(4)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("verbosity", "rank", "expected"),
    [
        (0, 0, ["info", "warning"]),
        (1, 0, ["debug", "info", "warning"]),
        (-1, 0, ["warning"]),
        (0, 3, ["[rank 3] warning"]),
    ],
)
def test_the_screen_shows_what_was_asked_for(monkeypatch, verbosity, rank, expected):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    set_up_logging(verbosity=verbosity, rank=rank)
    logger = logging.getLogger("dinoforge.curation.stages.embed")
    logger.debug("debug")
    logger.info("info")
    logger.warning("%s", "warning")
    shown = [line.split(" ") for line in screen.getvalue().splitlines()]
    # less the time of day, which stands behind the rank
    assert [" ".join(w for w in words if w.count(":") != 2) for words in shown] == expected


def test_a_run_keeps_its_log_also_of_what_the_screen_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    set_up_logging(verbosity=-1)
    handler = log_to_folder(tmp_path / "log", rank=2)
    logging.getLogger("dinoforge.training.loop").info("step %d, %s", 7, "\udce4 f\u00fcr \u2028")
    stop_logging(handler)
    logging.getLogger("dinoforge.training.loop").info("not in the file")
    (file,) = (tmp_path / "log").iterdir()
    assert file.name == "rank-00002.txt"
    text = file.read_text(encoding="utf-8")
    assert " I dinoforge.training.loop: step 7, \\xe4 für" in text
    assert "not in the file" not in text
    again = log_to_folder(tmp_path / "log", rank=2)
    logging.getLogger("dinoforge.slurm").warning("second")
    stop_logging(again)
    assert file.read_text(encoding="utf-8").startswith(text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_no_run_through_its_log(tmp_path, capsys):
    (tmp_path / "rank-00000.txt").symlink_to("/dev/full")
    handler = log_to_folder(tmp_path)
    logging.getLogger("dinoforge").warning("nowhere to write this")
    stop_logging(handler)
    assert "Traceback" not in capsys.readouterr().err


def test_a_message_that_cannot_be_formatted_is_still_complained_of(tmp_path, capsys):
    handler = log_to_folder(tmp_path)
    handler.handle(logging.makeLogRecord({"msg": "%d steps", "args": ("ten",)}))
    stop_logging(handler)
    assert "TypeError" in capsys.readouterr().err
