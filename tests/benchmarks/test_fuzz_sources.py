"""A hundred generated sources: every image put in is a row, or named by a problem."""

import pytest


@pytest.fixture(scope="module")
def fuzzing(load_benchmark):
    return load_benchmark("fuzz_sources")


@pytest.mark.parametrize("tenth", range(10))
def test_images_in_are_rows_or_named_problems(fuzzing, tenth):
    for number in range(10 * tenth, 10 * tenth + 10):
        # Train and evaluate open their images as embed does.
        commands = fuzzing.LISTINGS if number % 10 == 0 else ["curate", "embed"]
        counts, wrong = fuzzing.fuzz(number, 1, commands=commands)
        assert not wrong
        assert counts["embed: rows"] + counts["embed: named"] == counts["images in"] > 0


def test_a_lost_an_invented_and_a_changed_image_are_noticed(fuzzing, tmp_path):
    source = fuzzing.Generator(tmp_path / "source", 1, 3).make()
    rows, problems = fuzzing.list_embed(source, tmp_path)
    assert fuzzing.faults(source, rows, problems) == []
    path, offset, _ = rows[0]
    for wrong in (
        rows[1:],
        [*rows, rows[0]],
        [*rows, ("x", 0, b"")],
        [(path, offset, b""), *rows[1:]],
    ):
        assert fuzzing.faults(source, wrong, problems)
    unnamed = [p for p in problems if p["reason"] not in ("hidden", "not_regular", "own_output")]
    assert len(unnamed) < len(problems)
    assert fuzzing.faults(source, rows, unnamed)
