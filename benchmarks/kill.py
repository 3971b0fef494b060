"""Kill a command at random moments, start it again until it ends, compare with an undisturbed run.

    python benchmarks/kill.py --kills 20 --seed 0 -- curate configs/curation/quickstart.yaml ...
    python benchmarks/kill.py --kills 20 --seed 0 -- train configs/training/quickstart.yaml ...
    python benchmarks/kill.py --kills 100 -- train tests/training/tiny.yaml ... --on local:2

Of a command that starts ranks, the launcher or one of the ranks is killed, by lot. The command gets
``out=FOLDER`` appended. *Identical* means: every table, array, shard and weight file byte-equal;
tensors of checkpoints bit-equal; markers equal outside ``measured``; ``metrics.jsonl`` equal but
for what a clock measured. Exit 1 when anything differs. Of a training it is counted how many steps
each kill cost: those since the newest whole checkpoint.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dinoforge.errors import RankLost

# What may differ between identical runs: logs, times, locks.
IGNORED = {"run.json", "config.yaml", ".lock", "report.html"}
IGNORED_FOLDERS = {"log", "tensorboard"}
CLOCK_KEYS = {"time_s", "images_per_s", "data_wait_s", "cpu_s", "wall_s", "seconds", "step_s"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--name", help="of the record; default kill-COMMAND")
    parser.add_argument("words", nargs="+", help="sub-command, recipe, key=value ...")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    try:
        result = measure(args.words, folder, args.kills, random.Random(args.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=1))
    if args.record:
        from recording import write_result

        print(write_result(args.name or f"kill-{args.words[0]}", result))
    return 0 if not result["different"] else 1


def measure(words: list[str], folder: Path, kills: int, draw: random.Random) -> dict:
    started = time.monotonic()
    code = start(words, folder / "calm").wait()
    if code:
        raise SystemExit(f"the undisturbed run ended with {code}")
    calm_s = time.monotonic() - started
    landed = starts = 0
    moments, lost, victims, stages = [], [], [], []
    while True:
        starts += 1
        process = start(words, folder / "disturbed")
        # Early moments too: the interpreter alone takes seconds to start.
        moment = draw.uniform(0.02, 1.0) * calm_s * 0.7
        try:
            code = process.wait(timeout=moment if landed < kills else None)
        except subprocess.TimeoutExpired:
            victims.append(kill(process, draw))
            landed += 1
            moments.append(round(moment, 2))
            lost.append(lost_steps(folder / "disturbed"))
            stages.append(last_stage(folder / "disturbed"))
            continue
        if code:
            raise SystemExit(f"start {starts} ended with {code}")
        if landed >= kills:
            break
        # Finished before all kills landed: begin a new disturbed run.
        compare_or_exit(folder)
        shutil.rmtree(folder / "disturbed")
    return {
        "kills": landed,
        "starts": starts,
        "undisturbed_s": round(calm_s, 1),
        "moments_s": moments,
        "victims": dict(collections.Counter(victims)),
        "lost_steps": lost,
        "stages": dict(collections.Counter(filter(None, stages))),
        "files": len(state(folder / "calm")),
        "different": differences(folder),
    }


def kill(process: subprocess.Popen, draw: random.Random) -> str:
    """Kill the command or one of its ranks; returns which, once all of it is gone."""
    ranks = ranks_of(process)
    victim = draw.choice(["command", *ranks])
    if victim == "command":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(ranks[victim], signal.SIGKILL)
    code = process.wait(timeout=120)
    if victim != "command" and code != RankLost.exit_code:
        raise SystemExit(f"{victim} was killed, the command ended with {code}")
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in ranks.values()):
        if time.monotonic() > deadline:
            raise SystemExit("a rank outlived the command")
        time.sleep(0.05)
    return victim


def ranks_of(process: subprocess.Popen) -> dict[str, int]:
    """Find the ranks that a command has started: "rank 1" -> process id."""
    actual = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended
        ranks = [w.removeprefix(b"RANK=").decode() for w in words if w.startswith(b"RANK=")]
        actual |= {f"rank {rank}": int(pid) for rank in ranks}
    return actual


def lost_steps(run: Path) -> int | None:
    """Count the steps in the metrics after the newest whole checkpoint; None before the first."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    if not whole:
        return None
    saved = [int(p.parent.name[5:]) for p in run.glob("checkpoints/step-*/manifest.json")]
    return max(0, json.loads(whole[-1])["step"] - max(saved, default=0))


def last_stage(run: Path) -> str:
    """Name the last stage of a pipeline that was begun; "" before the first."""
    plans = sorted(path.parent.name for path in run.glob("*/*/plan.json"))
    return plans[-1].partition("-")[2] if plans else ""


def start(words: list[str], out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "dinoforge", *words, f"out={out}", "-q"]
    return subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if "--on" in words else None,  # each lost rank is reported there
    )


def compare_or_exit(folder: Path) -> None:
    different = differences(folder)
    if different:
        raise SystemExit(f"different after kills: {different}")


def differences(folder: Path) -> list[str]:
    calm, disturbed = state(folder / "calm"), state(folder / "disturbed")
    names = sorted(calm.keys() | disturbed.keys())
    return [name for name in names if calm.get(name) != disturbed.get(name)]


def state(folder: Path) -> dict[str, object]:
    """Name -> content hash (or what is left of a marker or a metrics file without the clock)."""
    actual: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or path.name in IGNORED or IGNORED_FOLDERS & set(name.parts):
            continue
        if name.parts[0] == "checkpoints":  # in a format with random identifiers
            if path.name == "manifest.json":
                actual[str(name.parent)] = tensor_hash(path.parent)
            continue
        if path.suffix == ".done":
            marker = json.loads(path.read_text())
            marker.pop("measured")
            actual[str(name)] = marker
        elif path.name == "index.json":  # of an index, with its date
            actual[str(name)] = json.loads(path.read_text()) | {"date": ""}
        elif path.name == "metrics.jsonl":
            actual[str(name)] = [without_clock(line) for line in path.read_text().splitlines()]
        else:
            actual[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return actual


def tensor_hash(checkpoint: Path) -> str:
    from dinoforge.training.distributed.checkpoint import read_whole

    digest = hashlib.sha256()
    for name, tensor in sorted(read_whole(checkpoint).items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def without_clock(line: str) -> dict[str, object]:
    row = json.loads(line)
    return {k: v for k, v in row.items() if k.rsplit("/", 1)[-1] not in CLOCK_KEYS}


if __name__ == "__main__":
    sys.exit(main())
