import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import uvloop

from services.mesh.errors import (
    DocumentEncrypted,
    DocumentTooLarge,
    DocumentUnreadable,
    DocumentUnsupported,
    Overloaded,
)
from services.retrieval.model import MediaType
from services.retrieval.parsing.outcome import Limits
from services.retrieval.parsing.sandbox import Sandbox, SandboxLimits
from tests.support.pdf import inflating_pdf, pdf
from tests.support.retrieval import until

_LIMITS = SandboxLimits(cpu_s=5, wall_s=30.0)


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(_LIMITS)


def _children() -> set[int]:
    me = os.getpid()
    return {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == me}


def _environment(child: int) -> bytes:
    return Path(f"/proc/{child}/environ").read_bytes()


async def _born(before: set[int]) -> set[int]:
    """The children that were not there before, as soon as there are any."""

    async def has_any() -> bool:
        return not _children() <= before

    await until(has_any)
    return _children() - before


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


async def test_pdf_gives_its_text_with_pages(sandbox: Sandbox) -> None:
    content = pdf([["The first page has", "two lines of text.", "And a second paragraph here it is"], ["Page two."]])

    document = await sandbox.parse(content)

    assert document.media_type is MediaType.PDF
    assert document.text.startswith("The first page has\ntwo lines of text.")
    assert {block.page for block in document.blocks} == {1, 2}
    assert document.text[document.blocks[-1].start : document.blocks[-1].end] == "Page two."


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"Plain words.\n\nMore.", MediaType.TEXT),
        (b"# Title\n\nWords.", MediaType.MARKDOWN),
        (b"<html><body><p>Words.</p></body></html>", MediaType.HTML),
    ],
)
async def test_every_kind_is_read(sandbox: Sandbox, content: bytes, media_type: MediaType) -> None:
    document = await sandbox.parse(content)

    assert document.media_type is media_type
    assert "Words" in document.text or "words" in document.text


async def test_encrypted_pdf_is_refused_as_such(sandbox: Sandbox) -> None:
    with pytest.raises(DocumentEncrypted):
        await sandbox.parse(pdf([["secret"]], encrypted=True))


@pytest.mark.parametrize(
    "content",
    [b"%PDF-1.4 and then nothing", pdf([["text"]])[:150], pdf([[]]), b"%PDF-1.7\n" + bytes(range(256)) * 50, b" \n "],
    ids=["header only", "truncated", "no text", "noise", "white space"],
)
async def test_damaged_and_empty_files_are_unreadable(sandbox: Sandbox, content: bytes) -> None:
    with pytest.raises(DocumentUnreadable):
        await sandbox.parse(content)


async def test_binary_content_is_unsupported_with_its_type(sandbox: Sandbox) -> None:
    with pytest.raises(DocumentUnsupported) as refused:
        await sandbox.parse(b"PK\x03\x04" + bytes(100))
    assert refused.value.metadata == {"media_type": "application/zip"}


@pytest.mark.parametrize(("pages", "is_fine"), [(2, True), (3, True), (4, False)])
async def test_limit_of_pages_is_exact(pages: int, *, is_fine: bool) -> None:
    sandbox = Sandbox(SandboxLimits(document=Limits(pages_max=3)))
    content = pdf([["A page."]] * pages)
    if is_fine:
        assert len((await sandbox.parse(content)).blocks) == pages
        return
    with pytest.raises(DocumentTooLarge) as refused:
        await sandbox.parse(content)
    assert refused.value.metadata == {"limit": "3"}


@pytest.mark.parametrize("kind", [b"%s", b"# T\n\n%s", b"<p>%s</p>"], ids=["text", "markdown", "html"])
async def test_too_many_characters_are_refused(kind: bytes) -> None:
    sandbox = Sandbox(SandboxLimits(document=Limits(characters_max=1_000)))

    with pytest.raises(DocumentTooLarge) as refused:
        await sandbox.parse(kind % (b"word " * 201))
    assert refused.value.metadata == {"limit": "1000"}


async def test_too_many_characters_in_a_pdf_are_refused() -> None:
    sandbox = Sandbox(SandboxLimits(document=Limits(characters_max=100)))

    with pytest.raises(DocumentTooLarge):
        await sandbox.parse(pdf([["a line of words"] * 10]))


async def test_pdf_bomb_is_stopped_and_nothing_is_left() -> None:
    before = _children()
    bomb = inflating_pdf(300 * 1024 * 1024)
    assert len(bomb) < 2 * 1024 * 1024

    with pytest.raises((DocumentUnreadable, DocumentTooLarge)):
        await Sandbox(SandboxLimits(cpu_s=2)).parse(bomb)

    assert _children() <= before


async def test_memory_is_limited() -> None:
    tight = Sandbox(SandboxLimits(memory_bytes=200 * 1024 * 1024))

    with pytest.raises(DocumentUnreadable):
        await tight.parse(inflating_pdf(128 * 1024 * 1024))


async def test_wall_time_is_limited_and_the_child_is_killed() -> None:
    before = _children()

    with pytest.raises(DocumentUnreadable):
        await Sandbox(SandboxLimits(wall_s=0.01)).parse(b"words")

    assert _children() <= before


async def test_cancelled_upload_leaves_no_child(sandbox: Sandbox) -> None:
    before = _children()
    task = asyncio.ensure_future(sandbox.parse(inflating_pdf(64 * 1024 * 1024)))
    await _born(before)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert _children() <= before


async def test_killed_child_means_unreadable(sandbox: Sandbox) -> None:
    before = _children()
    task = asyncio.ensure_future(sandbox.parse(inflating_pdf(64 * 1024 * 1024)))
    for child in await _born(before):
        os.kill(child, signal.SIGKILL)

    with pytest.raises(DocumentUnreadable):
        await task


def test_child_that_died_before_it_was_told_anything_means_unreadable(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec

    async def stillborn(*_command: str, **options: Any) -> asyncio.subprocess.Process:  # Any: as subprocess has them
        child = await start("false", **options)
        await child.wait()
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", stillborn)
    with pytest.raises(DocumentUnreadable):
        uvloop.run(sandbox.parse(b"words"))  # as processes run; asyncio's own loop says it in another way


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 100_000,
        '{"media_type": "text/plain", "text": "x", "blocks": [[Infinity, 1, "paragraph", [], 0]]}',
        '{"media_type": "text/plain", "text": "x", "blocks": [[0, 2, "paragraph", [], 0]]}',
        '{"reason": "INTERNAL", "message": "x", "metadata": {}}',
        "7",
    ],
)
async def test_child_that_was_taken_over_is_not_believed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    start = asyncio.create_subprocess_exec

    async def hostile(*_command: str, **options: Any) -> asyncio.subprocess.Process:  # Any: as subprocess has them
        return await start("printf", "%s", answer, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", hostile)
    with pytest.raises(DocumentUnreadable):
        await sandbox.parse(b"words")


async def test_too_many_waiting_files_are_refused() -> None:
    sandbox = Sandbox(SandboxLimits(parallel_max=1, waiting_max=2))
    first = [asyncio.ensure_future(sandbox.parse(b"words")) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded) as refused:
        await sandbox.parse(b"words")

    assert refused.value.retry_after_s
    assert [document.text for document in await asyncio.gather(*first)] == ["words", "words"]


async def test_child_sees_no_secrets_of_its_parent(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_DATABASE_URL", "postgresql://user:secret@host/db")
    before = _children()
    task = asyncio.ensure_future(sandbox.parse(inflating_pdf(64 * 1024 * 1024)))
    child = (await _born(before)).pop()

    async def has_started() -> bool:
        return b"PYTHONPATH" in _environment(child)

    await until(has_started)
    environment = _environment(child)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert b"secret" not in environment
