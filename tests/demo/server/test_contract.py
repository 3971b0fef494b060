"""The OpenAPI document describes what the server does: generated requests get described answers."""

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")

from dinoforge.demo.server.app import OPERATIONS
from dinoforge.demo.server.operations import openapi

DOCUMENT = openapi(OPERATIONS)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
NAMES = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
# Not the headers: the client has the right token.
SENT = {name: name for name in ("method", "url", "params", "json", "files")} | {"data": "content"}
PROBLEM = DOCUMENT["components"]["schemas"]["Problem"]


def test_the_document_is_served_and_has_every_operation(client):
    assert client.get("/api/openapi.json").json() == DOCUMENT
    assert len(NAMES) == len(OPERATIONS)
    page = client.get("/api/docs").text
    assert all(path in page for path, _ in NAMES)


def has_values(path, method):
    """Whether there is anything in its requests that could be wrong."""
    described = DOCUMENT["paths"][path][method]
    is_json = "application/json" in described.get("requestBody", {}).get("content", {})
    is_form = "requestBody" in described and not is_json  # test_uploads has what is wrong there
    return is_json or (not is_form and any(x["in"] != "header" for x in described["parameters"]))


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*name, "positive") for name in NAMES]
    + [(*name, "negative") for name in NAMES if has_values(*name)],
)
def test_generated_requests_get_described_answers(client, path, method, mode):
    described = DOCUMENT["paths"][path][method]["responses"]
    generation = schemathesis.GenerationMode(mode)

    @settings(max_examples=6, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(SCHEMA[path][method].as_strategy(generation_mode=generation))
    def check(case):
        words = case.as_transport_kwargs(base_url="http://127.0.0.1:8765")
        words = {SENT[name]: value for name, value in words.items() if name in SENT}
        answer = client.request(**words)
        assert str(answer.status_code) in described, answer.text
        if answer.status_code != 200:
            jsonschema.validate(answer.json(), PROBLEM)

    check()
