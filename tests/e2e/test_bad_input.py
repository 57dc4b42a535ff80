"""Bad input over REST gets a problem with its reason; nothing of it is stored, and nothing of ours breaks."""

from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.support.pdf import inflating_pdf, pdf
from tests.support.rest import Rest
from tests.support.stack import Stack

MIB: Final = 1024 * 1024
UPLOAD_S_MAX: Final = 90.0
PROCESSES: Final = ("edge", "retrieval", "retrieval-worker", "conversation")


@pytest.fixture(scope="module")
def rest(stack: Stack) -> Iterator[Rest]:
    with Rest(stack.url, stack.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def knowledge_base_id(rest: Rest) -> str:
    created = rest.post("/api/v1/knowledge_bases", {"display_name": "Bad input"})
    return str(created["id"])


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["detail"]
    return response.status_code, body["reason"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"title": ', "body"),
        (b'{"titel": "x"}', "titel"),
        (b'{"title": 5}', "title"),
        (b'{"title": "a", "title": "b"}', "title"),
        (b'{"messages": [{"role": "user", "text": ["x"]}]}', "messages[0].text"),
        (b'{"messages": [{"role": "oracle", "text": "x"}]}', "messages[0].role"),
    ],
    ids=["malformed", "unknown field", "wrong type", "repeated key", "nested wrong type", "unknown enum"],
)
def test_bad_json_names_the_field(rest: Rest, body: bytes, field: str) -> None:
    response = rest.http.post("/api/v1/conversations", content=body, headers={"content-type": "application/json"})

    assert problem(response) == (400, "INVALID_ARGUMENT")
    assert field in [error["field"] for error in response.json()["errors"]]


def test_body_of_30_mib_is_refused(rest: Rest) -> None:
    response = rest.http.post(
        "/api/v1/conversations", content=b" " * (30 * MIB), headers={"content-type": "application/json"}
    )

    assert problem(response) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        ("big.txt", b"word " * (6 * MIB), (413, "DOCUMENT_TOO_LARGE")),
        ("locked.pdf", pdf([["secret"]], encrypted=True), (422, "DOCUMENT_ENCRYPTED")),
        ("bomb.pdf", inflating_pdf(300 * MIB), (422, "DOCUMENT_UNREADABLE")),
        ("empty.txt", b"", (422, "DOCUMENT_UNREADABLE")),
        ("damaged.pdf", pdf([["torn"]])[:-200], (422, "DOCUMENT_UNREADABLE")),
        ("words.pdf", b"These are words, and no PDF.", (415, "DOCUMENT_UNSUPPORTED")),
        ("noise.pdf", bytes(range(256)) * 16, (415, "DOCUMENT_UNSUPPORTED")),
    ],
    ids=["30 MB", "encrypted", "bomb", "empty", "damaged", "text as PDF", "noise as PDF"],
)
def test_bad_document_is_refused_and_leaves_nothing(
    stack: Stack, rest: Rest, knowledge_base_id: str, name: str, content: bytes, refusal: tuple[int, str]
) -> None:
    path = f"/api/v1/knowledge_bases/{knowledge_base_id}/documents"
    pids = [stack.pid(process) for process in PROCESSES]

    response = rest.http.post(path, files={"file": (name, content)}, timeout=UPLOAD_S_MAX)

    assert problem(response) == refusal
    assert rest.get(path)["documents"] == []
    assert [stack.pid(process) for process in PROCESSES] == pids
