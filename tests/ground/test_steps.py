"""Names of steps: the only place where they are written and read."""

import pytest

from dinoforge.steps import export_file, exported_steps, step_name, steps_in


def make(folder, *names):
    for name in names:
        (folder / "export" / name).mkdir(parents=True)
        (folder / "export" / name / "model.safetensors").write_bytes(b"")


def test_exports_are_listed_by_step_and_other_names_are_ignored(tmp_path):
    make(tmp_path, "step-000000100", "step-000000009", "step-1000000000", "step-7.tmp", "other")
    (tmp_path / "export" / "step-000000011").mkdir()
    assert list(exported_steps(tmp_path)) == [9, 100, 1_000_000_000]
    assert steps_in(tmp_path / "export") == [9, 11, 100, 1_000_000_000]


def test_a_run_that_has_exported_nothing_has_no_steps(tmp_path):
    assert exported_steps(tmp_path) == {}


@pytest.mark.parametrize("step", [0, 12_500, 999_999_999, 1_000_000_000])
def test_a_name_that_is_written_is_read(step, tmp_path):
    make(tmp_path, step_name(step))
    assert exported_steps(tmp_path) == {step: export_file(tmp_path, step)}
