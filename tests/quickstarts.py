"""A quickstart of a few steps."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from dinoforge.cli.main import main

SMALL = (
    "curation.plant.count=24",
    "curation.duplicates.verify.mode=none",
    "training.steps=12",
    "training.batch_size=8",
    "training.log_every=2",
    "training.threads=1",
    "evaluation.bootstrap.resamples=200",
    "evaluation.logistic.c_count=2",
    "evaluation.logistic.max_iterations=20",
)


def run_small(out: Path, words: list[str]) -> tuple[Path, str]:
    """Run it; returns its folder and what it printed."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main(["quickstart", "--out", str(out), "-q", *words, *SMALL]) == 0
    return out, printed.getvalue()
