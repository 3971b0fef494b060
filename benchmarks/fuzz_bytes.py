"""Fuzz the image decoder or the tar index with atheris (libFuzzer).

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install --editable ".[cpu,heic]" atheris
    /tmp/fuzz/bin/python benchmarks/fuzz_bytes.py decoder --seeds DATA/dirty --record
    /tmp/fuzz/bin/python benchmarks/fuzz_bytes.py index --seeds DATA/dirty --record

An input fails if the process crashes, if anything but `Undecodable` is raised, if a warning is
shown, if a result is invalid, if it takes more than 5 s, or if it needs more memory than the limit
on pixels explains.
Each input is decoded twice: under the default policy and under one that accepts everything.
Checksums of PNG chunks and tar headers are repaired in most inputs, to reach the code behind them.
Seeds are the given files and small images of every format. The first failure ends the campaign
with exit 1; the input is kept.
"""

import argparse
import collections
import io
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SECONDS = 5  # per input
MAX_PIXELS = 1 << 18
# Largest block of memory for an input: MAX_PIXELS of 4 bands of 32 bits, as often as copies exist
# at once, with the buffers of the codecs.
ROOM_BYTES = 256 << 20
MAX_INPUT_BYTES = 1 << 16

reasons: collections.Counter[str] = collections.Counter()


class InvalidResult(Exception):  # noqa: N818 - a fact about the code under test
    """The code under test accepts an input but returns something wrong."""


def check_decoder(data: bytes) -> None:
    """Decode under two policies: valid pixels, or `Undecodable`."""
    from dinoforge.images import DecodePolicy, Undecodable, decode_image

    accepting = DecodePolicy(max_pixels=MAX_PIXELS, truncated="accept", range=(0, 4095))
    for policy in (DecodePolicy(max_pixels=MAX_PIXELS), accepting):
        try:
            image = decode_image(data, policy)
        except Undecodable as error:
            reasons[error.reason] += 1
            cause = error.__cause__
            if isinstance(cause, MemoryError | Warning):
                raise InvalidResult(f"{cause!r}: {error}") from error
        else:
            reasons["decoded"] += 1
            height, width, bands = image.pixels.shape
            if bands != 3 or image.pixels.dtype != "uint8" or height * width > MAX_PIXELS:
                raise InvalidResult(f"pixels {image.pixels.dtype} {image.pixels.shape}")


def check_index(data: bytes) -> None:
    """Index a tar in memory: members inside the file, keys without repetition, twice the same."""
    from dinoforge.shards.index import index_shard

    descriptor = os.memfd_create("shard")
    try:
        os.write(descriptor, data)
        path = f"/proc/self/fd/{descriptor}"
        index, again = index_shard(path), index_shard(path)
    finally:
        os.close(descriptor)
    if index != again:
        raise InvalidResult("two different indexes")
    for sample in index.samples:
        for member in sample.members.values():
            if not 0 <= member.offset <= member.offset + member.size <= len(data):
                raise InvalidResult(f"{member.name!r} lies outside the file")
    keys = [image.key for image in index.images]
    if len(keys) != len(set(keys)):
        raise InvalidResult("an image key occurs twice")
    reasons.update(entry["reason"] for entry in index.problems)
    reasons["images"] += len(keys)


TARGETS: dict[str, Callable[[bytes], None]] = {"decoder": check_decoder, "index": check_index}


def repaired(data: bytes) -> bytes:
    """Correct the checksums of a PNG or a tar; other data as they are."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _repaired_png(data)
    return _repaired_tar(data) if data[257:262] == b"ustar" else data


def _repaired_png(data: bytes) -> bytes:
    changed, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def _repaired_tar(data: bytes) -> bytes:
    changed, at = bytearray(data), 0
    while at + 512 <= len(data):
        block = changed[at : at + 512]
        if any(block):
            block[148:156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        digits = bytes(block[124:136]).strip(b"\0 ")
        size = int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else 0
        at += 512 + (size + 511) // 512 * 512
    return bytes(changed)


def read_seeds(paths: Sequence[str], target: str) -> list[bytes]:
    """Read the files that suit a target, without large ones; add images of every format."""
    files = [path for path in paths if Path(path).is_file()]
    files += [str(file) for path in paths for file in sorted(Path(path).glob("*"))]
    is_tar = target == "index"
    contents = [
        Path(file).read_bytes()
        for file in sorted(files)
        if (Path(file).suffix == ".tar") == is_tar and Path(file).suffix not in (".py", ".json")
    ]
    contents += [] if is_tar else small_images()
    return [data for data in contents if len(data) <= MAX_INPUT_BYTES]


def small_images() -> list[bytes]:
    """Encode a small image in each format and mode that Pillow writes, and as HEIF."""
    import numpy as np
    from PIL import Image

    Image.init()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4)).astype(np.uint8)
    wide = np.random.default_rng(1).integers(0, 65_536, (9, 12)).astype(np.uint16)
    images = [Image.fromarray(pixels).convert(mode) for mode in ("RGB", "RGBA", "L", "1", "CMYK")]
    images += [images[0].quantize(8), Image.fromarray(wide), Image.fromarray(wide / np.float32(7))]
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    contents = []
    for format_ in sorted(Image.SAVE):
        for image in images:
            for options in ({}, {"compression": "tiff_lzw"} if format_ == "TIFF" else {}):
                file = io.BytesIO()
                try:
                    with warnings.catch_warnings(action="ignore"):
                        image.save(file, format_, **options)
                except (OSError, ValueError, KeyError, TypeError, RuntimeError):
                    continue  # a mode that the format has not
                contents.append(file.getvalue())
    return list(dict.fromkeys(contents))


def mutated(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield seeds with flipped, removed, repeated and exchanged bytes, without atheris."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 2, 4, 8))):
            start = draw.randrange(len(data) + 1)
            stop = min(len(data), start + draw.choice((1, 2, 4, 16, 512)))
            data[start:stop] = draw.choice(
                (
                    b"",
                    draw.randbytes(stop - start),
                    bytes(data[start:stop]) * 2,
                    draw.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * (stop - start),
                    draw.choice(seeds)[start:stop],
                )
            )
        yield repaired(bytes(data)) if draw.random() < 0.75 else bytes(data)


def fuzz(target: str, folder: Path) -> None:
    """Run libFuzzer in this process, which it ends; counts go to a file."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "dinoforge.images", "dinoforge.shards"]):
        import dinoforge.images
        import dinoforge.shards.index  # noqa: F401
    check = TARGETS[target]
    for data in (file.read_bytes() for file in sorted((folder / "corpus").iterdir())):
        check(data)  # loads all plugins before the room is measured
    reasons.clear()
    warnings.simplefilter("error")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES + (128 << 20), -1))
    runs = 0

    def run(data: bytes) -> None:
        nonlocal runs
        check(data)
        runs += 1
        if runs % 1000 == 0:
            (folder / "reasons.json").write_text(json.dumps({"runs": runs, **reasons}))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        head, data = data[:16], atheris.Mutate(data, max_size)
        if seed % 8:  # most inputs keep their signature
            data = head + data[len(head) :]
        return repaired(data) if seed % 4 else data

    words = json.loads((folder / "words.json").read_text())
    atheris.Setup([sys.argv[0], *words, str(folder / "corpus")], run, custom_mutator=mutate)
    atheris.Fuzz()


def campaign(target: str, seeds: Sequence[bytes], inputs: int, seed: int, folder: Path) -> dict:
    """Run a campaign in its own process; return its figures."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number:04d}").write_bytes(data)
    words = [f"-runs={inputs}", f"-seed={seed or 1}", f"-timeout={SECONDS}", "-print_final_stats=1"]
    words += [f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={folder}/", "-rss_limit_mb=1024"]
    (folder / "words.json").write_text(json.dumps(words))
    command = [sys.executable, __file__, target, "--child", str(folder)]
    start = time.monotonic()
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
    text = (folder / "log").read_text(errors="replace")
    stats = {name: int(value) for name, value in re.findall(r"stat::(\w+): +(\d+)", text)}
    counts = folder / "reasons.json"
    return {
        "target": target,
        "seed": seed,
        "seeds": len(seeds),
        "inputs": stats.get("number_of_executed_units", 0),
        "seconds": round(time.monotonic() - start),
        "slowest_input_s": stats.get("slowest_unit_time_sec"),
        "peak_rss_mib": stats.get("peak_rss_mb"),
        "corpus": len(list(corpus.iterdir())),
        "results": json.loads(counts.read_text()) if counts.is_file() else {},
        "exit_code": done.returncode,
        "failures": sorted(path.name for path in folder.iterdir() if "-" in path.name),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seeds", nargs="*", default=[], help="files, or folders of files")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of corpus, log and failures; must not exist")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        fuzz(args.target, args.child)
        return 0
    folder = args.folder or Path(tempfile.mkdtemp(prefix="fuzz-")) / "campaign"
    seeds = read_seeds(args.seeds, args.target)
    figures = campaign(args.target, seeds, args.inputs, args.seed, folder)
    print(json.dumps(figures, indent=1), folder, sep="\n")
    if args.record:
        from recording import write_result

        print(write_result(f"fuzz-{args.target}", figures))
    return 1 if figures["exit_code"] or figures["failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
