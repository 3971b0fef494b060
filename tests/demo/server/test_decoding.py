"""The process that decodes: it survives what it decodes, and ends with the server."""

import asyncio
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from image_files import encoded

from dinoforge.demo.server import decoding
from dinoforge.demo.server.problems import Problem

PICTURE = np.full((40, 60, 3), 77, np.uint8)


def test_the_process_stays_through_damaged_files_and_is_replaced_when_it_dies():
    async def main():
        decoder = decoding.Decoder()
        assert np.array_equal(await decoder.decode(encoded(PICTURE)), PICTURE)
        first = decoder._process.pid
        with pytest.raises(Problem, match="cannot be decoded"):
            await decoder.decode(encoded(PICTURE)[:60])
        assert np.array_equal(await decoder.decode(encoded(PICTURE)), PICTURE)
        assert decoder._process.pid == first
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Problem, match="memory or time"):
            await decoder.decode(encoded(PICTURE))
        assert np.array_equal(await decoder.decode(encoded(PICTURE)), PICTURE)
        assert decoder._process.pid != first
        second = decoder._process.pid
        await decoder.close()
        with pytest.raises(ProcessLookupError):
            os.kill(second, 0)

    asyncio.run(main())


def test_an_image_beyond_the_limit_of_memory_is_refused_and_the_next_one_is_read():
    program = (
        "import sys; from dinoforge.demo.server import decoding; decoding._MEMORY = 8 << 20\n"
        "decoding._serve(sys.stdin.buffer, sys.stdout.buffer)"
    )
    files = [encoded(np.zeros((3000, 3000, 3), np.uint8)), encoded(PICTURE)]
    requests = b"".join(struct.pack(">Q", len(data)) + data for data in files)
    words = [sys.executable, "-c", program]
    answers = subprocess.run(words, input=requests, capture_output=True, check=True).stdout
    refusal, _, rest = answers.partition(b"\n")
    assert b"reason" in refusal
    assert rest == b'{"height": 40, "width": 60}\n' + PICTURE.tobytes()
