"""Every dialect of tar, written by the tools that speak it and compared with their own listings."""

import io
import os
import shutil
import subprocess
import tarfile
from functools import partial

import pytest

from dinoforge.shards.index import index_shard
from dinoforge.shards.tar import BLOCK, TarWalk

JPEG = b"\xff\xd8\xff\xe0"
LONG = "/".join(["n" * 90] * 3)


def tool(name):
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    return name


def run(*words, cwd, **options):
    return subprocess.run(words, cwd=cwd, check=True, capture_output=True, **options).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Files of every kind, in an order that puts images behind everything that may derail."""
    root = tmp_path_factory.mktemp("tree")
    # 30 pieces of data between holes: more than an old GNU header has room for.
    with (root / "a_sparse.bmp").open("wb") as file:
        for piece in range(30):
            file.seek(piece * (64 << 10))
            file.write(b"x" * 4096)
        file.truncate(2 << 20)
    for number, name in enumerate(["b.jpg", f"{LONG}/c.jpg", "sub/d.jpg", "sub/é.jpg", "z.jpg"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG + bytes([number]) * (300 * number))
    shutil.copyfile(root / "a_sparse.bmp", root / f"{LONG}/s.bmp")
    subprocess.run(["fallocate", "-d", root / f"{LONG}/s.bmp"], check=False, capture_output=True)
    (root / os.fsdecode(b"caf\xe9.jpg")).write_bytes(JPEG)
    (root / "c.link.jpg").symlink_to("b.jpg")
    (root / ("l" * 120)).symlink_to("t" * 150)
    os.link(root / "b.jpg", root / "y_hard.jpg")
    os.mkfifo(root / "pipe")
    return root


def walked(path):
    """Entries of an archive, how it ends, and the bytes of its regular members by name."""
    with path.open("rb") as file:
        walk = TarWalk(partial(os.pread, file.fileno()), path.stat().st_size)
        entries = list(walk)
        data = {
            entry.name: os.pread(file.fileno(), entry.size, entry.offset)
            for entry in entries
            if entry.kind == b"0"
        }
    return entries, walk.ending.reason, data


def check(archive, tree, listing, *, files=5):
    """Compare with the tool's own listing, and contents with the files on disk."""
    entries, ending, data = walked(archive)
    assert ending is None
    names = sorted(entry.name.rstrip("/").removeprefix("./") for entry in entries)
    shown = listing.decode("utf-8", "backslashreplace").splitlines()
    shown = sorted(name.rstrip("/").removeprefix("./") for name in shown)
    assert [name for name in names if name not in ("", ".")] == [
        name for name in shown if name not in ("", ".")
    ]
    for name, content in data.items():
        raw = name.encode().replace(rb"caf\xe9", b"caf\xe9")
        assert content == (tree / os.fsdecode(raw)).read_bytes(), name
    assert len([name for name in data if name.endswith(".jpg")]) >= files


NAMES = ["a_sparse.bmp", "b.jpg", "c.link.jpg", "l" * 120, "n" * 90, "pipe", "sub", "y_hard.jpg"]
NAMES += [os.fsdecode(b"caf\xe9.jpg"), "z.jpg"]


@pytest.mark.parametrize(
    "options",
    [
        *(["--format=gnu"], ["--format=gnu", "-S"], ["--format=oldgnu", "-S"], ["--format=posix"]),
        *(["--format=posix", "-S", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
        ["--format=posix", "--pax-option=delete=atime", "--pax-option=comment=no:one"],
        ["--format=gnu", "--label=Volume 1"],
        ["--format=posix", "--label=Volume 1"],
        ["--format=gnu", "--listed-incremental=SNAPSHOT"],
        ["--format=posix", "--listed-incremental=SNAPSHOT"],
        ["--format=gnu", "--hard-dereference", "-h", "--ignore-failed-read"],
    ],
    ids=" ".join,
)
def test_gnu_tar(tree, tmp_path, options):
    tool("tar")
    archive = tmp_path / "a.tar"
    names = [name for name in NAMES if "-h" not in options or not name.startswith("lll")]
    options = [option.replace("SNAPSHOT", str(tmp_path / "snapshot")) for option in options]
    run("tar", *options, "-cf", archive, *names, cwd=tree)
    listing = run("tar", "-tf", archive, "--quoting-style=literal", cwd=tree)
    if any(option.startswith("--label") for option in options):
        listing = listing.replace(b"Volume 1\n", b"")
    check(archive, tree, listing)


@pytest.mark.parametrize("format_", ["v7", "ustar"])
def test_formats_without_room_for_long_names(tree, tmp_path, format_):
    tool("tar")
    archive = tmp_path / "a.tar"
    names = ["b.jpg", "sub", "c.link.jpg", "y_hard.jpg", "z.jpg"]
    run("tar", f"--format={format_}", "-cf", archive, *names, cwd=tree)
    listing = run("tar", "-tf", archive, "--quoting-style=literal", cwd=tree)
    check(archive, tree, listing, files=4)


@pytest.mark.parametrize("format_", ["pax", "gnutar", "ustar", "v7"])
def test_bsdtar(tree, tmp_path, format_):
    tool("bsdtar")
    archive = tmp_path / "a.tar"
    names = NAMES
    if format_ in ("ustar", "v7"):
        names = ["b.jpg", "sub", "c.link.jpg", "y_hard.jpg", "z.jpg"]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    run("bsdtar", f"--format={format_}", "-cf", archive, *names, cwd=tree, env=environment)
    listing = run("tar", "-tf", archive, "--quoting-style=literal", cwd=tree)
    check(archive, tree, listing, files=4)


@pytest.mark.parametrize("option", ["-mm=gnu", "-mm=pax"])
def test_7z(tree, tmp_path, option):
    tool("7z")
    archive = tmp_path / "a.tar"
    names = ["b.jpg", "sub", "n" * 90, "z.jpg"]
    run("7z", "a", "-ttar", option, archive, *names, cwd=tree)
    listing = run("7z", "l", "-slt", "-ba", archive, cwd=tree)
    lines = [line[7:] for line in listing.splitlines() if line.startswith(b"Path = ")]
    check(archive, tree, b"\n".join(lines), files=5)


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python(tree, tmp_path, format_):
    archive = tmp_path / "a.tar"
    names = NAMES if format_ != tarfile.USTAR_FORMAT else ["b.jpg", "sub", "z.jpg", "y_hard.jpg"]
    with tarfile.open(archive, "w", format=format_) as tar:
        for name in names:
            tar.add(tree / name, name)
        listing = "\n".join(tar.getnames())
    check(archive, tree, listing.encode("utf-8", "surrogateescape"), files=3)


@pytest.mark.parametrize("format_", ["gnu", "posix"])
def test_volumes(tree, tmp_path, format_):
    tool("tar")
    (tmp_path / "0.jpg").write_bytes(JPEG * 1000)
    (tmp_path / "1.jpg").write_bytes(JPEG * 5000)
    (tmp_path / "2.jpg").write_bytes(JPEG)
    words = [f"--format={format_}", "-M", "-L", "20", "-cf", "one.tar", "-f", "two.tar"]
    run("tar", *words, "0.jpg", "1.jpg", "2.jpg", cwd=tmp_path)
    first, second = (index_shard(tmp_path / name) for name in ("one.tar", "two.tar"))
    assert [sample.key for sample in first.samples] == ["0"]
    assert [(p["reason"], p["member"]) for p in first.problems] == [("truncated", "1.jpg")]
    assert [sample.key for sample in second.samples] == ["2"]
    assert [p["reason"] for p in second.problems] == ["not_a_file"]
    assert second.complete


def test_every_member_of_many_volumes_is_read_or_named(tmp_path):
    # Not in the format posix: its extended headers are split, which GNU tar cannot read, either.
    tool("tar")
    names = [f"{number}.jpg" for number in range(14)]
    for number, name in enumerate(names):
        # Ends of volumes between members and inside them.
        (tmp_path / name).write_bytes(JPEG + bytes([number]) * (1500 + 300 * (number % 3)))
    volumes = [f"v{number}.tar" for number in range(9)]
    words = [word for volume in volumes for word in ("-f", volume)]
    run("tar", "--format=gnu", "-cM", "-L", "10", *words, *names, cwd=tmp_path)
    indexes = [index_shard(tmp_path / name) for name in volumes if (tmp_path / name).exists()]
    assert len(indexes) > 2
    whole = [image.key + ".jpg" for index in indexes for image in index.images]
    problems = [entry for index in indexes for entry in index.problems]
    cut = [p["member"] for p in problems if p["reason"] == "truncated" and p["member"]]
    assert sorted(whole + cut) == sorted(names)
    assert {entry["reason"] for entry in problems} <= {"truncated", "not_a_file", "no_end_marker"}


def member(name, data, kind=b"0", **fields):
    """One member whose header Python does not write: ``fields`` are bytes by offset, ``at_N``."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    header = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    header[156:157] = kind
    for place, value in fields.items():
        at = int(place.removeprefix("at_"))
        header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % BLOCK)


def pax(**records):
    """Records of a pax header."""
    lines = b""
    for key, value in records.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(body) + 1
        while length != len(str(length)) + len(body):
            length += 1
        lines += str(length).encode() + body
    return lines


PICTURE = member("a.jpg", JPEG)
END = bytes(2 * BLOCK)
# Archives of tools that are not at hand -> names of the files in them.
RARE = {
    "solaris extended header": (member("x", pax(path="b.jpg"), b"X") + PICTURE, ["b.jpg"]),
    "solaris access list": (member("acl", b"user::rwx", b"A") + PICTURE, ["a.jpg"]),
    "old gnu long names": (member("n", b"Rename x to y", b"N") + PICTURE, ["a.jpg"]),
    "global path": (member("g", pax(path="b.jpg"), b"g") + PICTURE + PICTURE, ["b.jpg", "b.jpg"]),
    "global path, taken back": (
        member("g", pax(path="b.jpg"), b"g") + PICTURE + member("x", pax(path=""), b"x") + PICTURE,
        ["b.jpg", "a.jpg"],
    ),
    "global size": (
        member("g", pax(size="4"), b"g") + member("a.jpg", JPEG, at_124=b"00000000000\0") + PICTURE,
        ["a.jpg", "a.jpg"],
    ),
    "size in base 256": (member("a.jpg", JPEG, at_124=b"\x80" + bytes(10) + b"\4"), ["a.jpg"]),
    "size without an end": (member("a.jpg", JPEG, at_124=b"000000000004"), ["a.jpg"]),
    "size with blanks": (member("a.jpg", JPEG, at_124=b"         4\0x"), ["a.jpg"]),
    "contiguous file": (member("a.jpg", JPEG, b"7"), ["a.jpg"]),
    "unknown kind": (member("a.jpg", JPEG, b"Z"), ["a.jpg"]),
    "folder of v7": (member("sub/", b"", b"\0") + PICTURE, ["a.jpg"]),
    "folder with a size": (member("sub/", b"", b"5", at_124=b"00000001000\0") + PICTURE, ["a.jpg"]),
    "link with a size": (member("l.jpg", b"", b"1", at_124=b"00000001000\0") + PICTURE, ["a.jpg"]),
    "hard link with data": (member("l.jpg", JPEG, b"1") + PICTURE, ["l.jpg", "a.jpg"]),
    "prefix of star": (
        member(
            "a.jpg", JPEG, at_345=b"p" * 131, at_476=b"15000000000 15000000000 ", at_508=b"tar\0"
        ),
        ["p" * 131 + "/a.jpg"],
    ),
    "many records": (
        member("x", pax(**{f"k{n}": "v" * 40 for n in range(9000)}, path="b.jpg"), b"x") + PICTURE,
        ["b.jpg"],
    ),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_headers(tmp_path, name):
    content, names = RARE[name]
    (tmp_path / "a.tar").write_bytes(content + END)
    with (tmp_path / "a.tar").open("rb") as file:
        walk = TarWalk(partial(os.pread, file.fileno()), len(content + END))
        files = [entry for entry in walk if entry.kind == b"0"]
        assert [os.pread(file.fileno(), e.size, e.offset) for e in files] == [JPEG] * len(names)
    assert [entry.name for entry in files] == names
    assert walk.ending.reason is None


def test_a_number_of_thousands_of_digits_is_ignored(tmp_path):
    data = member("x", pax(size="9" * 5000), b"x") + PICTURE + END
    (tmp_path / "a.tar").write_bytes(data)
    assert [sample.key for sample in index_shard(tmp_path / "a.tar").samples] == ["a"]


@pytest.mark.parametrize("records", [b"path=b.jpg\n", b"", b" ", b"0 a=b\n", b"-4 a=b\n", b"x"])
def test_records_without_a_length_are_ignored(tmp_path, records):
    (tmp_path / "a.tar").write_bytes(member("x", records + bytes(5), b"x") + PICTURE + END)
    assert [image.key for image in index_shard(tmp_path / "a.tar").images] == ["a"]


def archive(*names, end=END):
    return b"".join(member(name, JPEG + name.encode()) for name in names) + end


@pytest.mark.parametrize("between", [b"", bytes(BLOCK), bytes(20 * BLOCK)])
def test_appended_archives_are_read_as_tar_i_reads_them(tmp_path, between):
    path = tmp_path / "a.tar"
    path.write_bytes(archive("0.jpg", "1.jpg") + between + archive("2.jpg") + archive() + between)
    listing = run(tool("tar"), "-itf", path, cwd=tmp_path).decode().split()
    index = index_shard(path)
    assert [image.member.name for image in index.images] == listing == ["0.jpg", "1.jpg", "2.jpg"]
    assert [entry["reason"] for entry in index.problems] == ["appended_tar"]
    assert index.complete


def test_headers_of_one_archive_do_not_reach_the_next(tmp_path):
    first = member("g", pax(path="b.jpg"), b"g") + PICTURE + member("L", b"long.jpg", b"L") + END
    (tmp_path / "a.tar").write_bytes(first + PICTURE + END)
    index = index_shard(tmp_path / "a.tar")
    assert [sample.key for sample in index.samples] == ["b", "a"]


@pytest.mark.parametrize("rest", [b"no tar", b"x" * 2000, archive("2.jpg")[:300]])
def test_other_data_after_the_end_stays_a_problem(tmp_path, rest):
    (tmp_path / "a.tar").write_bytes(archive("0.jpg") + rest)
    index = index_shard(tmp_path / "a.tar")
    assert [sample.key for sample in index.samples] == ["0"]
    assert [entry["reason"] for entry in index.problems] == ["data_after_end"]
    assert not index.complete


def test_an_appended_archive_that_is_cut_is_reported_as_any(tmp_path):
    (tmp_path / "a.tar").write_bytes(archive("0.jpg") + archive("1.jpg", "2.jpg")[: 3 * BLOCK + 5])
    index = index_shard(tmp_path / "a.tar")
    assert [sample.key for sample in index.samples] == ["0", "1"]
    assert [entry["reason"] for entry in index.problems] == ["appended_tar", "truncated"]


def test_python_reads_the_same_members_of_an_appended_archive(tmp_path):
    data = archive("0.jpg") + archive("1.jpg")
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as tar:
        offsets = [entry.offset_data for entry in tar]
    (tmp_path / "a.tar").write_bytes(data)
    assert [i.member.offset for i in index_shard(tmp_path / "a.tar").images] == offsets
