"""Decode uploads in a process of their own, within limits of memory and time.

``python -m dinoforge.demo.server.decoding`` is that process: it imports the decoder once and forks
a child per image, so that a decoder that is exploited, crashes or grows takes nothing with it. It
ends when the server closes its end of the pipe, for whatever reason.

Requests: 8 bytes of length, then the file. Answers: a line of JSON, then the pixels it announces.
"""

import asyncio
import contextlib
import io
import json
import os
import resource
import struct
import sys
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dinoforge.demo.server.problems import Problem
from dinoforge.images import DecodePolicy, Undecodable, decode, resize
from dinoforge.images.formats import SNIFF_BYTES, sniff

__all__ = ["FORMATS", "MAX_PIXELS", "MAX_SIDE", "Decoder"]

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 50_000_000  # of an upload, by its header
MAX_SIDE = 1036  # pixels of what is kept: 74 patches of 14
_MEMORY = 1 << 30  # bytes of a child beyond what the process itself maps
_CPU_S = 5
_WALL_S = 30  # on a busy machine; then the process is replaced
_POLICY = DecodePolicy(max_pixels=MAX_PIXELS)


class Decoder:
    """Decodes one image after the other."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Start the process, which takes half a second; `decode` does so if it does not run."""
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "dinoforge.demo.server.decoding"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    async def decode(self, data: bytes) -> Pixels:
        """Decode a file to upright RGB in sRGB, longer side at most 1,036: uint8 ``[H, W, 3]``.

        Raises
        ------
        Problem
            415 for anything but JPEG, PNG, WebP and GIF; 422 if it cannot be decoded.
        """
        kind = sniff(data[:SNIFF_BYTES])
        if kind not in FORMATS:
            names = ", ".join(FORMATS)
            what = f"not one of {names}: {kind or 'unknown format'}"
            raise Problem(415, "unsupported_type", what, "convert the image to JPEG or PNG")
        async with self._lock:
            try:
                return await asyncio.wait_for(self._ask(data), _WALL_S)
            except Problem:
                raise
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
                await self.close()
                raise _undecodable("it needs too much memory or time") from error
            except BaseException:  # cancelled: the answer is still to come
                await self.close()
                raise

    async def _ask(self, data: bytes) -> Pixels:
        await self.start()
        assert self._process is not None, "started"
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None, "opened as a pipe"
        assert answers is not None, "opened as a pipe"
        requests.write(struct.pack(">Q", len(data)))
        requests.write(data)
        await requests.drain()
        answer = json.loads(await answers.readuntil(b"\n"))
        if "reason" in answer:
            raise _undecodable(answer["reason"])
        shape = (answer["height"], answer["width"], 3)
        pixels = await answers.readexactly(int(np.prod(shape)))
        return np.frombuffer(pixels, np.uint8).reshape(shape)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _undecodable(reason: str) -> Problem:
    hint = "open it in an image program and save it again"
    return Problem(422, "undecodable", f"the image cannot be decoded: {reason}", hint)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the server is gone."""
    while header := requests.read(8):
        (size,) = struct.unpack(">Q", header)
        data = requests.read(size)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _answer(data, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        if status != 0:  # a limit, or a crash of a library
            answer = b'{"reason": "it needs too much memory or time, or is damaged"}\n'
        answers.write(answer)
        answers.flush()


def _answer(data: bytes, pipe: int) -> None:
    """Decode in this child, within limits, and end it."""
    code = 1
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - nothing to import
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        for limit, most in (
            (resource.RLIMIT_AS, mapped + _MEMORY),
            (resource.RLIMIT_CPU, _CPU_S),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (most, most))
        try:
            pixels = _picture(data)
            height, width = pixels.shape[:2]
            head: dict[str, object] = {"height": height, "width": width}
        except (Undecodable, MemoryError) as error:
            pixels, head = np.empty((0, 0, 3), np.uint8), {"reason": str(error) or "out of memory"}
        with os.fdopen(pipe, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n" + pixels.tobytes())
        code = 0
    finally:
        os._exit(code)


def _picture(data: bytes) -> Pixels:
    pixels = decode(data, _POLICY)
    height, width = pixels.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale < 1:
        pixels = resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return _as_srgb(pixels, data)


def _as_srgb(pixels: Pixels, data: bytes) -> Pixels:
    """Apply the color profile of an RGB file: cameras write wider spaces than the screen's.

    A profile that cannot be read is ignored, as every profile is in a curation.
    """
    with contextlib.suppress(ImageCms.PyCMSError, OSError, SyntaxError, ValueError):
        profile = Image.open(io.BytesIO(data)).info.get("icc_profile")
        if profile and profile[16:20] == b"RGB ":
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            to_srgb = ImageCms.createProfile("sRGB")
            picture = Image.fromarray(pixels)
            converted = ImageCms.profileToProfile(picture, source, to_srgb, outputMode="RGB")
            assert converted is not None, "not in place"
            return np.asarray(converted)
    return pixels


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
