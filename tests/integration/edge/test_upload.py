"""Uploads: streamed, bounded, and refused as clear 4xx answers with nothing stored."""

import pytest

from tests.support.edge import KEY_HEADERS, EdgeUnderTest, running_edge
from tests.support.waiting import until

PATH = "/api/v1/knowledge_bases/kb_1/documents"
FORM = KEY_HEADERS | {"content-type": "multipart/form-data; boundary=b"}
MIB = 1024 * 1024


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    whole = b""
    for disposition, content in parts:
        whole += f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return whole + end


FILE = 'form-data; name="file"; filename="a.txt"'


async def test_a_file_arrives_whole_and_in_pieces(edge: EdgeUnderTest) -> None:
    content = bytes(range(256)) * 12_000
    response = await edge.client.post(PATH, files={"file": ("naïve ⭐.bin", content)}, headers=KEY_HEADERS)

    assert response.status_code == 201
    assert (response.json()["state"], response.json()["size_bytes"]) == ("queued", len(content))
    assert edge.fakes.documents.files == {"naïve ⭐.bin": content}
    assert edge.fakes.documents.largest <= MIB


@pytest.mark.parametrize(
    ("name", "stored"), [("dir/a.txt", "a.txt"), ("C:\\x\\a.txt", "a.txt"), ("../../etc/passwd", "passwd")]
)
async def test_folders_of_a_name_are_dropped(edge: EdgeUnderTest, name: str, stored: str) -> None:
    await edge.client.post(PATH, files={"file": (name, b"x")}, headers=KEY_HEADERS)

    assert list(edge.fakes.documents.files) == [stored]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (form(), "file"),
        (form(('form-data; name="other"', b"x")), "other"),
        (form((FILE, b"x"), ('form-data; name="more"', b"y")), "more"),
        (form((FILE, b"x"), (FILE, b"y")), "file"),
        (form(('form-data; name="file"', b"x")), "file"),
        (form(('form-data; name="file"; filename="/"', b"x")), "file"),
        (form(("form-data", b"x")), "part"),
        (form((FILE, b"x"), end=b""), "body"),
        (b"nothing of the kind", "body"),
        (b"", "file"),
    ],
)
async def test_bad_forms_are_refused_and_nothing_is_stored(edge: EdgeUnderTest, body: bytes, field: str) -> None:
    response = await edge.client.post(PATH, content=body, headers=FORM)

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, field)
    assert not edge.fakes.documents.files


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data", "text/plain; boundary=b"])
async def test_only_forms_are_taken(edge: EdgeUnderTest, media_type: str) -> None:
    headers = KEY_HEADERS | {"content-type": media_type}
    response = await edge.client.post(PATH, content=form((FILE, b"x")), headers=headers)

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, "content-type")


async def test_what_retrieval_refuses_is_told_as_it_says(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(PATH, files={"file": ("a.bin", b"%BAD" * 100)}, headers=KEY_HEADERS)

    assert (response.status_code, response.json()["reason"]) == (415, "DOCUMENT_UNSUPPORTED")
    assert response.json()["metadata"] == {"media_type": "application/x-bad"}


async def test_retrieval_may_refuse_before_the_end(edge: EdgeUnderTest) -> None:
    content = b"%BAD" + b"x" * (5 * MIB)
    response = await edge.client.post(PATH, files={"file": ("a.bin", content)}, headers=KEY_HEADERS)

    assert response.status_code == 415


@pytest.mark.parametrize("size", [30 * MIB, 26 * MIB])
async def test_a_file_beyond_the_limit_is_too_large(size: int) -> None:
    async with running_edge(listens=True) as edge:
        response = await edge.client.post(PATH, files={"file": ("a.bin", b"x" * size)}, headers=KEY_HEADERS)

    assert (response.status_code, response.json()["reason"]) == (413, "DOCUMENT_TOO_LARGE")
    assert response.json()["metadata"] == {"limit": str(25 * MIB)}


@pytest.mark.parametrize(("size", "status"), [(2047, 201), (2048, 201), (2048 + 64 * 1024 + 1, 413)])
async def test_the_limit_is_a_setting(size: int, status: int) -> None:
    async with running_edge(document_bytes_max=2048) as edge:
        response = await edge.client.post(PATH, files={"file": ("a.bin", b"x" * size)}, headers=KEY_HEADERS)

    assert response.status_code == status


async def test_a_chunked_body_cannot_hide_its_size() -> None:
    async def pieces() -> object:
        yield form((FILE, b""), end=b"")[:-2]
        for _ in range(100):
            yield b"x" * 4096

    async with running_edge(document_bytes_max=2048) as edge:
        response = await edge.client.post(PATH, content=pieces(), headers=FORM)  # type: ignore[arg-type]  # a generator
        await until(lambda: edge.fakes.documents.broken == 1)

    assert (response.status_code, response.json()["reason"]) == (413, "DOCUMENT_TOO_LARGE")
    assert not edge.fakes.documents.files


async def test_an_empty_file_is_retrievals_to_judge(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(PATH, files={"file": ("empty.txt", b"")}, headers=KEY_HEADERS)

    assert response.status_code == 201
    assert edge.fakes.documents.files == {"empty.txt": b""}


async def test_nobody_uploads_without_a_credential(edge: EdgeUnderTest) -> None:
    response = await edge.client.post(PATH, files={"file": ("a.txt", b"x")})

    assert response.status_code == 401
    assert not edge.fakes.documents.files
