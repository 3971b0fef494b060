"""Who may ask: host, origin, token, CSRF, rate; the headers of every answer."""

import json
import time

import pytest
from starlette.testclient import TestClient

from dinoforge.demo.server.access import Rates
from dinoforge.demo.server.app import make_app
from dinoforge.demo.server.problems import Problem

TOKEN = "correct-horse-battery"
OWN = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def remote_site(demo_index):
    from dinoforge.demo.server.opening import open_site

    return open_site([demo_index], threads=1, faces="off")


@pytest.fixture(scope="module")
def remote(remote_site):
    """A client of a demo that other machines may connect to, without the token."""
    app = make_app(remote_site, host="0.0.0.0", token=TOKEN)
    with TestClient(app, base_url="http://192.0.2.7:8765", follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.3", "", "[", "a@b"],
)
def test_other_host_names_are_refused(client, host):
    answer = client.get("/api/health", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "host")


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "[::1]:8765", "127.0.0.2"])
def test_names_of_this_machine_are_accepted(client, host):
    assert client.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "x", "["])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_origins_are_refused(client, origin, method):
    path = "/api/card" if method == "GET" else "/api/search"
    answer = client.request(method, path, headers={"Origin": origin}, json={"row": 1})
    assert (answer.status_code, answer.json()["code"]) == (403, "origin")
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_other_sites_are_refused_by_what_browsers_send(client):
    for site in ("cross-site", "same-site"):
        answer = client.get("/api/card", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 403
    own = {"Sec-Fetch-Site": "same-origin", "Origin": OWN}
    assert client.post("/api/search", json={"row": 1}, headers=own).status_code == 200


@pytest.mark.parametrize("csrf", ["", "wrong", "\xe9"])
def test_a_change_needs_the_csrf_token(client, csrf):
    headers = {"X-CSRF-Token": csrf.encode("latin-1")}
    answer = client.post("/api/search", json={"row": 1}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Cookie": "dinoforge_token=wrong"},
        {"Authorization": TOKEN[1:]},
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/health", "/api/card", "/api/rows/0/thumb", "/x"])
def test_everything_needs_the_token_if_there_is_one(remote, path, headers):
    answer = remote.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_a_bearer_needs_no_csrf_token_and_a_cookie_does(remote, remote_site):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert remote.post("/api/search", json={"row": 1}, headers=bearer).status_code == 200
    assert remote.get("/?token=wrong").status_code == 401
    answer = remote.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert remote.get("/api/card").status_code == 200  # the client keeps the cookie
    assert remote.post("/api/search", json={"row": 1}).json()["code"] == "csrf"
    csrf = {"X-CSRF-Token": remote_site.csrf}
    assert remote.post("/api/search", json={"row": 1}, headers=csrf).status_code == 200
    remote.cookies.clear()


def test_names_of_others_are_refused_with_a_token_too(remote):
    answer = remote.get("/api/card", headers={"Host": "evil.example"})
    assert answer.json()["code"] == "host"


@pytest.mark.parametrize(
    "path", ["/", "/api/health", "/api/docs", "/nothing", "/api/rows/99/thumb"]
)
def test_every_answer_has_the_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"]


def test_a_client_that_asks_too_often_waits():
    rates = Rates(burst=3, per_second=1e-9)
    for _ in range(3):
        rates.take("a", 1)
    with pytest.raises(Problem, match="too many") as error:
        rates.take("a", 1)
    assert error.value.headers["Retry-After"] == "1"
    rates.take("b", 3)  # another client


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/%2e%2e/%2e%2e/pyproject.toml", "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/api/rows/../../card.json", "/api/rows/%2e%2e%2f/thumb", "/api/rows/-1/thumb",
        "/api/rows/1e3/thumb", "/api/rows/99999999999999999999999/image", "/api/rows/%00/image",
        "/api/images/..%2f..%2fx", "/api/images/%2fetc%2fpasswd", "/api/images/" + "a" * 3000,
        "/api/duplicates/%f0%28%8c%28", "/api/attention/......%2f......",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"code", "message", "hint"}


def test_long_bodies_are_refused_before_their_values_are_read(client):
    start = time.process_time()
    answer = client.post("/api/selection", json={"rows": [-1] * 300_000})
    assert time.process_time() - start < 2  # one by one: 5 s
    assert answer.status_code == 422
    assert answer.json()["message"].endswith("-1] is too long")
    assert len(answer.json()["message"]) < 300
    answer = client.post("/api/selection", content=bytes(1_000_001))
    assert (answer.status_code, answer.json()["hint"]) == (413, "send less than 1 MB")


def test_text_that_utf_8_cannot_encode_is_no_bug(client):
    id_ = client.post("/api/images/from-row", json={"row": 3}).json()["id"]
    body = {"id": id_, "head": "\ud800"}
    assert client.post("/api/dense", content=json.dumps(body)).status_code == 404
