"""Freed memory is reused where the C library is glibc."""

import subprocess
import sys

import numpy as np
import pytest

from dinoforge.processes import forget_peak_memory, keep_freed_memory, peak_memory

FAULTS = """
import resource, sys
import numpy as np
from dinoforge.processes import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def touch():
    np.ones(6 << 20)  # 48 MiB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_a_page_fault():
    num_faults = {}
    for word in ("keep", "give"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True
        )
        num_faults[word] = int(done.stdout)
    assert num_faults["keep"] < 50 < num_faults["give"]


def test_another_system_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
def test_the_peak_of_what_was_freed_is_forgotten():
    np.ones(160 << 20)  # 1.25 GiB: never kept
    before = peak_memory()
    forget_peak_memory()
    assert peak_memory() < before - (1 << 30)


def test_a_system_without_proc_reports_the_peak_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr("dinoforge.processes.Path", lambda _: tmp_path / "no proc" / "file")
    forget_peak_memory()
    assert peak_memory() > 10 << 20
