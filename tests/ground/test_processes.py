"""Freed memory is reused where the C library is glibc; cores are shared."""

import subprocess
import sys

import numpy as np
import pytest

from dinoforge import processes
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


# Some sandboxes report a peak and never lower it: this asks the kernel itself.
RESET = """
import mmap
from pathlib import Path
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
with mmap.mmap(-1, 256 << 20) as pages:
    for start in range(0, len(pages), 4096):
        pages[start] = 1
before = peak()
Path("/proc/self/clear_refs").write_text("5")
assert peak() < before - (128 << 10), "the peak stays"
"""


def test_the_peak_of_what_was_freed_is_forgotten():
    asked = subprocess.run([sys.executable, "-c", RESET], capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"this system keeps the peak of a process: {asked.stderr.splitlines()[-1]}")
    np.ones(160 << 20)  # 1.25 GiB: never kept
    before = peak_memory()
    forget_peak_memory()
    assert peak_memory() < before - (1 << 30)


def test_a_system_without_proc_reports_the_peak_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr("dinoforge.processes.Path", lambda _: tmp_path / "no proc" / "file")
    forget_peak_memory()
    assert peak_memory() > 10 << 20


def test_cores_are_those_of_the_task_shared_by_its_processes(monkeypatch):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert processes.usable_cores() == 12
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert processes.usable_cores() == 8
    monkeypatch.setattr(processes, "_num_sharing", 3)
    assert processes.usable_cores() == 2
    monkeypatch.setattr(processes, "_num_sharing", 99)
    assert processes.usable_cores() == 1
