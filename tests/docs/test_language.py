"""Plain, idiomatic English in everything that people read: help, messages, comments, pages."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SOURCES = (
    "dinoforge",
    "cli",
    "curation",
    "training",
    "evaluation",
    "demo",
    "slurm",
    "configs",
    "docs",
)
SOURCES += ("tests", "benchmarks")
SUFFIXES = {".py", ".md", ".yaml", ".html", ".css", ".jinja", ".j2", ".txt"}

UNITS = (
    "images|rows|ranks|crops|tokens|bytes|[kKMGT]i?B|seconds|minutes|hours|cores|CPUs|GPUs|files|samples|jobs|"
    "elements|entries|tasks|processes|threads|steps|copies|lines|labels|folders|partitions|vectors|"
    "numbers|times|markers|memory|[mµ]s"
)
THINGS = (
    "rank|step|image|node|partition|file|second|minute|hour|day|GPU|CPU|machine|class|line|job|photograph|"
    "stage|task|event|fault|seed|row|element|entry|shard|source|crop|micro-batch|token|model"
)

# What not to write -> what to write.
PHRASES = {
    rf"\b({UNITS}) an? ({THINGS})\b(?! \w+s\b)": "images per rank",
    rf"\b(once|twice) an? (?!second|minute|hour|day)({THINGS})\b": "twice per step",
    rf"\bone (?!is|as|of|in|for|was|has|at|from|by|to)\w+ an? ({THINGS})\b": "one row per image",
    r"\bmend(s|ed|ing|able)?\b": "fix",
    r"\b(tells?|telling|told)\b": "prints, reports, logs, warns",
    r"\bsays\b": "prints, reports, describes",
    r"\bto be had\b": "is unavailable",
    r"\branks meet\b": "an error common to several ranks",
    r"\bcluster alone\b": "works only with --on slurm:PROFILE",
    r"\bsubmitted, no more\b": "print what would be submitted, then exit",
    r"\bruns? again what\b": "rerun the affected stages",
    r"\bdoes not hold is\b": "if given, a plan that does not fit is an error",
    r"\bof the GPU's rate\b": "assumed MFU (0 to 1)",
    r"\bGB to plan with\b": "needs 466 GB; 74.1 GB usable",
    r"\bhow it (goes|went)\b": "check progress; how it ended",
    r"\bneed [^.]{1,40}, there (is|are)\b": "need at least 2 test images, got 1",
    r"\b(is|are) asked of\b": "leave-one-out over 40 images",
    r"\bnobody says\b": "SIGKILL, cause unknown",
    r"\bbefore its turn\b": "the array task ended before this partition started",
    r"\bwithout a word\b": "exited without reporting a result",
    r"\b(taken|given up) for dead\b": "its heartbeat expired",
    r"\] there and\b": "checkpoint [8, 16], model [8, 32]",
    r"\bhangs? (on (it|them)|together)\b": "is linked to it by a chain of 3 pairs",
    r"\bnext to nothing\b": "is almost uniform",
    r"\basks? the rest\b": "retrieves images similar to the seeds",
    r"\bopens? up what\b": "reports every step",
    r"\b(come|comes) along\b": "installed",
    r"\bof (ours|theirs)\b": "of dinoforge, of the others",
}
NAMES = {"ours", "theirs", "mine", "found", "told", "both"}


def texts():
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*")]
    paths = [path for path in paths if ROOT / "docs/_build" not in path.parents]
    paths += ROOT.glob("*.md")
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SUFFIXES and path != Path(__file__).resolve():
            yield name, path.read_text(encoding="utf-8")


def flat(text):
    """Text without the line breaks, quotes and comment signs between two words of a sentence."""
    return re.sub(r"\s*\n\s*(# ?|f?\")?", " ", re.sub(r"\"\n", "\n", text))


def phrases(text):
    text = flat(text)
    return [
        f"{match[0]!r} -> {better}"
        for pattern, better in PHRASES.items()
        for match in re.finditer(pattern, text)
    ]


def test_no_text_uses_a_phrase_that_reads_like_a_translation():
    faults = [f"{name}: {fault}" for name, text in texts() for fault in phrases(text)]
    assert not faults, "\n" + "\n".join(faults)


def test_no_variable_is_named_by_a_pronoun():
    faults = []
    for name, text in texts():
        nodes = ast.walk(ast.parse(text)) if name.endswith(".py") else ()
        names = [getattr(node, "arg", None) or getattr(node, "id", None) for node in nodes]
        faults += [f"{name}: {word}" for word in sorted(NAMES & set(names))]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("write one row an image", 1),
        ("needs 8 images a\n    # rank", 1),
        ('"it tells "\n    f"what it does"', 1),
        ("recommends a file; takes a step; needs a GPU; one of a class; it reads a file", 0),
        ("the images a rank holds", 0),
    ],
)
def test_phrases_are_caught_across_lines_and_nothing_else(text, count):
    assert len(phrases(text)) == count
