"""A demo under attack: hostile uploads, other sites, floods and slow clients, on a real server.

The server is `dinoforge demo` in a process of its own, with a small untrained ViT. Every status is
counted; memory is that of the server and its decoder together; files that they write are seen by
fanotify (needs root), and bytes that reach a disk by /proc/PID/io.

usage: python benchmarks/demo_safety.py INDEX [FUZZED [SECONDS]]
"""

import atexit
import collections
import concurrent.futures
import contextlib
import ctypes
import http.client
import io
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from recording import write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from image_files import chunk, encoded

BOUNDARY = "b" * 20
_FAN_EVENTS = 0x2 | 0x8  # modified, closed after writing


class Server:
    """A demo in a process of its own."""

    def __init__(self, index: str, *words: str) -> None:
        start = [sys.executable, "-m", "dinoforge", "demo", index, "--port", "0", "--no-browser"]
        self.process = subprocess.Popen([*start, *words], stderr=subprocess.PIPE, text=True)
        self.port, self.asked = 0, 0
        for line in self.process.stderr:
            if match := re.search(r"open http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(match[1])
                break
        self.errors = []
        threading.Thread(target=self._collect, daemon=True).start()
        atexit.register(self.close)  # after a failure, too
        self.csrf = json.loads(self.ask("GET", "/api/health")[2])["csrf"]
        self.upload(encoded(np.zeros((20, 20, 3), np.uint8)))  # starts the decoder

    def _collect(self) -> None:
        self.errors.extend(self.process.stderr)

    def processes(self) -> list[int]:
        """The server, its decoder, and what decodes at this moment."""
        every = [self.process.pid]
        for process in every:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{process}/task/{process}/children").read_text()
                every.extend(map(int, children.split()))
        return every

    def memory(self) -> int:
        """Resident bytes of server and decoder."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                pages = Path(f"/proc/{process}/statm").read_text().split()[1]
                total += int(pages) * os.sysconf("SC_PAGE_SIZE")
        return total

    def cpu_ms(self) -> float:
        """CPU time of server and decoder so far, what has been decoded included."""
        total = 0.0
        for process in self.processes()[:2]:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) * 1000 / os.sysconf("SC_CLK_TCK")
        return total

    def disk_bytes(self) -> int:
        texts = [Path(f"/proc/{process}/io").read_text() for process in self.processes()]
        return sum(int(re.search(r"^write_bytes: (\d+)", text, re.MULTILINE)[1]) for text in texts)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Any = None, timeout: float = 60
    ) -> tuple[int, dict[str, str], bytes]:
        # Every request from another address of the loopback: the rate is limited per address.
        self.asked += 1
        source = (f"127.0.{1 + self.asked // 250 % 250}.{1 + self.asked % 250}", 0)
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=timeout, source_address=source
        )
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def upload_id(self, data: bytes) -> tuple[int, str]:
        """Upload a picture that is accepted; returns the status and its id."""
        status, _, answer = self._post_file(data, 60)
        return status, json.loads(answer).get("id", "")

    def upload(self, data: bytes, timeout: float = 60) -> tuple[int, dict[str, str]]:
        try:
            return self._post_file(data, timeout)[:2]
        except (ConnectionError, http.client.HTTPException):
            return 0, {}  # closed before it was read

    def _post_file(self, data: bytes, timeout: float) -> tuple[int, dict[str, str], bytes]:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "X-CSRF-Token": self.csrf,
        }
        return self.ask("POST", "/api/images", body, headers, timeout)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def watch_files(server: Server, seen: set[str]) -> bool:
    """Collect paths that the processes of the server write, by fanotify; False if it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    notices = libc.fanotify_init(0, os.O_RDONLY)
    if notices < 0:
        return False
    # 0x101: add, the whole file system. AT_FDCWD is -100.
    for place in ("/", "/tmp", "/dev/shm"):
        libc.fanotify_mark(notices, 0x101, ctypes.c_uint64(_FAN_EVENTS), -100, place.encode())

    def collect() -> None:
        while True:
            data = os.read(notices, 65536)
            while data:
                length, _, _, _, _, file, process = struct.unpack_from("<IBBHQii", data)
                try:
                    if process in server.processes():
                        seen.add(str(Path(f"/proc/self/fd/{file}").readlink()))
                except OSError:
                    pass
                os.close(file)
                data = data[length:]

    threading.Thread(target=collect, daemon=True).start()
    return True


def fuzzed(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield broken files of four formats: changed, cut, repeated and mixed bytes."""
    random_ = random.Random(seed)
    rows, columns = np.mgrid[0:120, 0:160]
    photograph = np.stack([rows * 2, columns, (rows * columns) % 256], axis=-1).astype(np.uint8)
    kinds = ("PNG", "JPEG", "WEBP", "GIF")
    whole = [encoded(photograph, kind) for kind in kinds]
    whole += [
        encoded(photograph, "JPEG", progressive=True),
        encoded(photograph[..., :1].repeat(3, 2)),
    ]
    for number in range(count):
        data = bytearray(whole[number % len(whole)])
        match random_.randrange(4):
            case 0:
                for _ in range(random_.randint(1, 20)):
                    data[random_.randrange(8, len(data))] = random_.randrange(256)
            case 1:
                del data[random_.randrange(8, len(data)) :]
            case 2:
                at = random_.randrange(8, len(data))
                data[at:at] = data[at : at + random_.randrange(1, 400)] * random_.randint(1, 9)
            case 3:
                at, size = random_.randrange(8, len(data) - 4), random_.choice((1, 2, 4))
                data[at : at + size] = b"\xff" * size
        yield bytes(data)


def hostile() -> dict[str, bytes]:
    """Files by what is hostile about them."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND")
    black = encoded(np.zeros((7000, 7100, 3), np.uint8))  # 49.7 MP in 145 kB
    frames = [Image.new("P", (2000, 2000), n) for n in range(40)]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000)))
    small = encoded(np.zeros((9, 9, 3), np.uint8))
    return {
        "PNG of 3.6 gigapixels": png,
        "PNG of 49.7 megapixels": black,
        "JPEG of 65,500 x 700": encoded(np.zeros((700, 65_500, 3), np.uint8), "JPEG"),
        "GIF of 40 frames": gif.getvalue(),
        "PNG with 200 MB of text": small[:33] + text + small[33:],
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "TIFF": encoded(np.zeros((9, 9, 3), np.uint8), "TIFF"),
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "zip": b"PK\3\4" + bytes(100),
        "21 MB": bytes(21_000_000),
    }


def flood(server: Server, count: int) -> dict[str, Any]:
    """Upload at once; returns statuses, whether all refusals have Retry-After, and peak memory."""
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2500, 3), np.uint8)
    data = encoded(noise, compress_level=0)  # 15 MB
    peak, running = [0], [True]

    def measure() -> None:
        while running[0]:
            peak[0] = max(peak[0], server.memory())
            time.sleep(0.02)

    threading.Thread(target=measure, daemon=True).start()
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        answers = list(threads.map(lambda _: server.upload(data, 300), range(count)))
    running[0] = False
    statuses = collections.Counter(status for status, _ in answers)
    waits = all("retry-after" in headers for status, headers in answers if status == 429)
    return {"statuses": dict(statuses), "all_429_have_retry_after": waits, "peak_bytes": peak[0]}


def slow(server: Server, count: int) -> dict[str, Any]:
    """Open connections that send a byte per second; returns what others get meanwhile."""
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for number, one in enumerate(sockets):
        one.sendall(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n" if number % 2 else b"GE")
    latencies, closed, start = [], set(), time.monotonic()
    while time.monotonic() - start < 14:
        for number, one in enumerate(sockets):
            try:
                one.sendall(b"X: y\r\n" if number % 2 else b"T")
                one.setblocking(False)
                if one.recv(1000) is not None:
                    closed.add(number)
            except BlockingIOError:
                pass
            except OSError:
                closed.add(number)
        asked = time.monotonic()
        assert server.ask("GET", "/api/card")[0] == 200
        latencies.append(time.monotonic() - asked)
        time.sleep(1)
    for one in sockets:
        one.close()
    return {
        "connections": count,
        "closed_by_server": len(closed),
        "others_wait_ms_max": round(1000 * max(latencies), 1),
    }


def strangers(server: Server) -> dict[str, Any]:
    """Statuses of requests that must be refused."""
    csrf = {"X-CSRF-Token": server.csrf}
    paths = ["/../etc/passwd", "/%2e%2e/x", "/api/rows/../x", "/api/images/%2fetc", "//etc/passwd"]
    search = json.dumps({"row": 0})
    return {
        "other host": server.ask("GET", "/api/card", headers={"Host": "evil.example"})[0],
        "other origin": server.ask(
            "POST", "/api/search", search, csrf | {"Origin": "http://evil.example"}
        )[0],
        "no CSRF token": server.ask("POST", "/api/search", search)[0],
        "paths": sorted({server.ask("GET", path)[0] for path in paths}),
    }


def contract(server: Server) -> tuple[dict[str, Any], str]:
    """Run schemathesis; returns requests and failures."""
    url = f"http://127.0.0.1:{server.port}/api/openapi.json"
    words = ["-m", "schemathesis.cli", "run", url, "--checks", "not_a_server_error"]
    words += ["--header", f"X-CSRF-Token:{server.csrf}", "--max-examples", "10"]
    words += ["--request-timeout", "30", "--generation-deterministic", "--no-color"]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    text = result.stdout
    tested = re.search(r"([\d,]+) generated", text)
    return {
        "exit_code": result.returncode,
        "cases": int(tested[1].replace(",", "")) if tested else None,
        "server_errors": text.count("Server error"),
    }, text


def fuzz(server: Server, count: int, limit_s: float) -> dict[str, Any]:
    """Upload broken files, six at a time, until the time is up; returns statuses and memory."""
    statuses, start = collections.Counter[int](), time.monotonic()

    def send(data: bytes) -> None:
        if time.monotonic() - start < limit_s:
            statuses[server.upload(data)[0]] += 1

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        for number, _ in enumerate(threads.map(send, fuzzed(count))):
            if number % 1000 == 999:
                print(number + 1, dict(statuses), f"{server.memory():,}", flush=True)
    return {
        "files": statuses.total(),
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "seconds": round(time.monotonic() - start),
        "memory_after_bytes": server.memory(),
    }


def main() -> None:
    index, count, limit_s = [*sys.argv[1:], *("10000", "3600")[len(sys.argv) - 2 :]]
    server, written = Server(index, "--threads", "1", "--faces", "off"), set()
    watched = watch_files(server, written)
    before, start_bytes = server.memory(), server.disk_bytes()
    figures = {"memory_at_start_bytes": before, "hostile": {}}
    for name, data in hostile().items():
        start = time.monotonic()
        status, _ = server.upload(data)
        figures["hostile"][name] = [status, round(time.monotonic() - start, 2)]
        print(name, figures["hostile"][name], flush=True)
    figures["strangers"] = strangers(server)
    print(figures["strangers"], flush=True)
    figures["slow"] = slow(server, 100)
    print(figures["slow"], flush=True)
    figures["flood"] = flood(server, 200)
    print(figures["flood"], flush=True)
    figures["contract"], text = contract(server)
    print(text[-3000:], figures["contract"], flush=True)
    figures["fuzzed"] = fuzz(server, int(count), float(limit_s))
    print(figures["fuzzed"], flush=True)
    alive = server.ask("GET", "/api/health")[0] == 200
    figures |= {
        "alive": alive,
        "log_lines": [line.strip() for line in server.errors if "position" not in line][:20],
        "files_written": sorted(written) if watched else "not watched",
        "bytes_to_disk": server.disk_bytes() - start_bytes,
    }
    server.close()
    print(json.dumps(figures, indent=1))
    write_result("demo-safety", figures)


if __name__ == "__main__":
    main()
