"""Video files, read and written by the ffmpeg of imageio-ffmpeg (extra `video`).

The package's own generators leave pipes open and do not report how ffmpeg ended: only its program
is used, and its count of frames.
"""

import contextlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.files import fsync_folder, temporary_name
from dinoforge.packages import import_extra

__all__ = ["VideoFile", "find_ffmpeg", "write_video"]

Pixels = NDArray[np.uint8]


def find_ffmpeg(where: str, note: str = "") -> str:
    """Return the path of ffmpeg; without the extra, raise a `UsageError` with its command."""
    package = import_extra("imageio_ffmpeg", extra="video", where=where, note=note)
    program: str = package.get_ffmpeg_exe()
    return program


class VideoFile:
    """A video file: ``total`` frames, ``fps`` per second.

    Raises
    ------
    UsageError
        If it has no frames, or the extra is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._program = find_ffmpeg(str(path), ", or give frames with --video")
        # The header of this format has the rate as a fraction: `YUV4MPEG2 W48 H32 F25:1 ...`.
        options = ("-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-")
        first = subprocess.run(self._command(*options), capture_output=True, check=False).stdout
        rate = re.match(rb"YUV4MPEG2 .*? F(\d+):([1-9]\d*) ", first)
        if rate is None:
            raise self._unreadable("no frames")
        self.fps = float(Fraction(int(rate[1]), int(rate[2])))
        package = import_extra("imageio_ffmpeg", extra="video", where=str(path))
        try:
            self.total: int = package.count_frames_and_secs(_url(path))[0]
        except RuntimeError as error:
            raise self._unreadable("its frames cannot be counted") from error

    def read(self) -> Iterator[Pixels]:
        """Yield the frames as stored, uint8 ``[h, w, 3]``: none repeated or left out for the rate.

        Raises
        ------
        UsageError
            If it cannot be read to the end.
        """
        options = ("-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm")
        command = self._command(*options, "-f", "image2pipe", "-")
        number = 0
        with _started(command, stdout=subprocess.PIPE) as process:
            try:
                while (frame := _read_ppm(process.stdout)) is not None:
                    number += 1
                    yield frame
            finally:
                process.kill()  # no effect once it has ended
        if number != self.total:
            raise self._unreadable(f"{number} frames instead of {self.total}")

    def _command(self, *options: str) -> list[str]:
        source = ("-nostdin", "-v", "error", "-i", _url(self._path), "-map", "0:v:0")
        return [self._program, *source, *options]

    def _unreadable(self, why: str) -> UsageError:
        do = "check that a player shows it, or convert it"
        what = f"ffmpeg cannot read the video: {why}"
        return UsageError(what=what, where=str(self._path), do=do)


def write_video(
    program: str, frames: Iterable[Pixels], path: Path, *, size: tuple[int, int], fps: float
) -> None:
    """Write RGB frames ``[h, w, 3]`` atomically as H.264 in MP4; ``size`` is w and h, even numbers.

    Raises
    ------
    UsageError
        If ffmpeg fails.
    """
    for stale in path.parent.glob(f".{path.name}.tmp-*"):  # of a call that was killed
        stale.unlink()
    temporary = temporary_name(path)
    command = [program, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", "{}x{}".format(*size), "-r", f"{Fraction(fps).limit_denominator(1001)}"]
    command += ["-i", "-", "-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p", "-f", "mp4"]
    try:
        writing = _started([*command, _url(temporary)], stdin=subprocess.PIPE)
        with contextlib.suppress(BrokenPipeError), writing as process:  # its exit code counts
            assert process.stdin is not None, "a pipe"
            try:
                for frame in frames:
                    process.stdin.write(frame.tobytes())
            except BaseException:
                process.kill()
                raise
        if writing.returncode != 0:
            do = "check the disk space, then start the same command again"
            raise UsageError(what="ffmpeg cannot write the video", where=str(path), do=do)
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _url(path: Path) -> str:
    """With a scheme, a colon in a name is no protocol, and a dash no option."""
    return f"file:{path}"


def _started(
    command: list[str], *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL)


def _read_ppm(stream: IO[Any] | None) -> Pixels | None:
    """Read the next picture, ``P6``, size, ``255``, pixels; None at the end or in its middle."""
    assert stream is not None, "a pipe"
    header = [stream.readline() for _ in range(3)]
    if not header[2]:
        return None
    width, height = map(int, header[1].split())
    data = stream.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    writable = bytearray(data)  # as torch wants it
    return np.frombuffer(writable, np.uint8).reshape(height, width, 3)
