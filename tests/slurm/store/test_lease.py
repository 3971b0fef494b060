"""One driver at a time, whoever is killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from waiting import wait_for

from dinoforge.slurm.store import lease as module
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease

HOLD = """
import sys, time
from pathlib import Path
from dinoforge.slurm.store.lease import hold_lease
with hold_lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_waits_and_names_the_holder(tmp_path):
    me = f"process {os.getpid()} on"
    with (
        hold_lease(tmp_path),
        pytest.raises(LeaseBusyError, match=me),
        hold_lease(tmp_path, wait_s=0.0),
    ):
        pass
    with hold_lease(tmp_path, wait_s=0.0) as lease:
        assert lease.number == 2


def test_a_killed_holder_is_followed_at_once(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    began = time.monotonic()
    with hold_lease(tmp_path, wait_s=10.0):
        assert time.monotonic() - began < 5


def test_a_holder_of_another_machine_is_followed_when_its_heartbeat_stops(tmp_path, monkeypatch):
    turn = tmp_path / "00001"
    turn.mkdir()
    (turn / "holder.json").write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1}))
    with pytest.raises(LeaseBusyError), hold_lease(tmp_path, wait_s=0.0):
        pass
    old = time.time() - module.EXPIRES_S - 5
    os.utime(turn / "holder.json", (old, old))
    with hold_lease(tmp_path, wait_s=0.0) as lease:
        assert lease.number == 2


def test_a_driver_killed_before_its_first_word_is_followed_when_time_is_up(tmp_path):
    turn = tmp_path / "00001"
    turn.mkdir()
    with pytest.raises(LeaseBusyError), hold_lease(tmp_path, wait_s=0.0):
        pass
    old = time.time() - module.EXPIRES_S - 5
    os.utime(turn, (old, old))
    with hold_lease(tmp_path, wait_s=0.0):
        pass


def test_a_holder_whose_heartbeat_expired_stops_before_it_acts(tmp_path):
    with hold_lease(tmp_path) as old:
        old.check()
        stale = time.time() - module.EXPIRES_S - 5
        (old.turn / "holder.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        os.utime(old.turn / "holder.json", (stale, stale))
        with (
            hold_lease(tmp_path, wait_s=1.0),
            pytest.raises(LeaseBusyError, match="another driver took over"),
        ):
            old.check()


def test_the_heartbeat_keeps_a_long_turn_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_HEARTBEAT_S", 0.02)
    with hold_lease(tmp_path) as lease:
        path = lease.turn / "holder.json"
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > time.time() - 60, 10, "the heartbeat")


def _count(folder, number):
    for _ in range(20):
        with hold_lease(folder, wait_s=60):
            value = int((folder / "value").read_text())
            (folder / "value").write_text(str(value + 1))


def test_many_processes_never_hold_it_together(tmp_path):
    (tmp_path / "value").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "value").read_text() == "60"


def test_threads_of_one_process_take_turns_too(tmp_path):
    inside, most = [], []

    def turn():
        with hold_lease(tmp_path, wait_s=60):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=turn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
