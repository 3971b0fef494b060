"""A real server: slow clients, and more uploads at once than there is room for."""

import concurrent.futures
import contextlib
import http.client
import socket
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
import uvicorn
from image_files import encoded

from dinoforge.demo.server import serving, uploads
from dinoforge.demo.server.app import make_app
from dinoforge.demo.server.opening import open_site
from dinoforge.demo.server.pictures import Pictures
from dinoforge.errors import UsageError

BODY = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n%b\r\n--b--\r\n'


class Served(NamedTuple):
    port: int
    csrf: str
    server: uvicorn.Server


@pytest.fixture(scope="module")
def served(demo_index):
    """A server in a thread."""
    patch = pytest.MonkeyPatch()
    servers = []
    patch.setattr(uvicorn.Server, "install_signal_handlers", lambda _: None, raising=False)
    make = uvicorn.Server
    patch.setattr(
        serving.uvicorn, "Server", lambda config: servers.append(make(config)) or servers[0]
    )
    opened = serving.listen("127.0.0.1", 0)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of its connections, too
    site = open_site([demo_index], size=112, threads=1, faces="off")
    thread = threading.Thread(target=serving.serve, args=(make_app(site), opened))
    thread.start()
    yield Served(opened.getsockname()[1], site.csrf, servers[0])
    servers[0].should_exit = True
    thread.join()
    opened.close()
    patch.undo()


def post(served, data):
    headers = {"Content-Type": "multipart/form-data; boundary=b", "X-CSRF-Token": served.csrf}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("POST", "/api/images", BODY % data, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("Retry-After")


def test_more_uploads_than_there_is_room_for_wait(served):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    data = encoded(noise, compress_level=0)
    with concurrent.futures.ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(lambda _: post(served, data), range(24)))
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 8
    assert all(wait for status, wait in answers if status == 429)
    assert post(served, data)[0] == 200  # there is room again


POST = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nX-CSRF-Token: %b\r\n"
REFUSED = POST % b"wrong"


@pytest.mark.parametrize(
    ("first", "then", "is_trickle"),
    [
        pytest.param(b"", b"", False, id="nothing"),
        pytest.param(b"GET /api/card HT", b"", False, id="a part of a line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"", False, id="headers"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"a: b\r\n", True, id="slow headers"
        ),
        pytest.param(REFUSED + b"Content-Length: 99\r\n\r\n", b"x", False, id="the rest of a body"),
        pytest.param(
            REFUSED + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", True, id="slow chunks"
        ),
        pytest.param(
            POST + b"Content-Length: 11\r\n\r\n", b'{"row": 3}\nGET / HT', False, id="a late body"
        ),
        pytest.param(
            40 * b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", False, id="unread"
        ),
    ],
)
def test_a_client_that_neither_sends_nor_reads_is_disconnected(
    served, first, then, is_trickle, monkeypatch
):
    monkeypatch.setattr(serving, "_REQUEST_S", 0.4)
    monkeypatch.setattr(serving, "_ANSWER_S", 0.8)
    connections, slow = served.server.server_state.connections, socket.socket()
    with slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", served.port))
        slow.sendall(first.replace(b"%b", served.csrf.encode()))
        time.sleep(0.6)
        with contextlib.suppress(OSError):  # it has been disconnected
            slow.sendall(then)
            for _ in range(100):
                if not connections:
                    break
                time.sleep(0.1)
                slow.sendall(then if is_trickle else b"")
        assert not connections


def test_a_body_that_does_not_arrive_is_given_up(served, monkeypatch):
    monkeypatch.setattr(uploads, "_TIME_S", 0.6)
    head = f"POST /api/images HTTP/1.1\r\nHost: localhost\r\nX-CSRF-Token: {served.csrf}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900\r\n\r\n--b\r\n"
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as slow:
        slow.sendall(head.encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 25  # without the limit of this test: 30 s


def test_the_log_does_not_quote_clients(served, monkeypatch, caplog):
    def fail(_, name):
        raise ValueError(f"{name} is a secret")

    monkeypatch.setattr(Pictures, "get", fail)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", f"/api/images/{'a' * 16}")
    assert connection.getresponse().status == 500
    connection.close()
    for _ in range(100):  # it is logged after the answer
        if caplog.text:
            break
        time.sleep(0.1)
    assert "a request failed: ValueError" in caplog.text
    assert "in _picture" in caplog.text  # where it happened
    assert "aaaa" not in caplog.text


def test_a_port_in_use_is_one_line(served):
    with pytest.raises(UsageError, match=r"port .* cannot be used"):
        serving.listen("127.0.0.1", served.port)
