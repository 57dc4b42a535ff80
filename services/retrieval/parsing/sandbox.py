"""Runs the parser in a child process that can neither take the service down nor outstay its welcome.

The child limits its own processor time, memory and file sizes; this side bounds its wall time and its answer, kills it
with its group, and believes nothing of what it says before checking it.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.mesh.errors import ERROR_BY_REASON, DocumentUnreadable, MeshError, Overloaded, Reason
from services.retrieval.model import Block, BlockKind, MediaType, ParsedDocument
from services.retrieval.parsing.outcome import Limits

_ROOT: Final = Path(__file__).parents[3]
_MODULE: Final = "services.retrieval.parsing.child"
# JSON of a text is at most twice its UTF-8 (every character escaped), UTF-8 at most four bytes per character; blocks
# and headings come on top.
_ANSWER_BYTES_PER_CHARACTER: Final = 12
_READ_BYTES: Final = 1 << 20
_REFUSALS: Final = frozenset({
    Reason.DOCUMENT_ENCRYPTED, Reason.DOCUMENT_TOO_LARGE, Reason.DOCUMENT_UNREADABLE, Reason.DOCUMENT_UNSUPPORTED,
})  # fmt: skip
_RETRY_AFTER_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What parsing one file may cost.

    Attributes:
        cpu_s: processor time of the child; a 256 KB PDF can ask for 7 s, 2,000 honest pages for about 20 s.
        wall_s: after this the child is killed whatever it does.
        memory_bytes: address space of the child.
        parallel_max: children at a time; parsing is bound by the processor.
        waiting_max: uploads that may wait for a child; more are refused with OVERLOADED.
    """

    document: Limits = field(default_factory=Limits)
    cpu_s: int = 25
    wall_s: float = 40.0
    memory_bytes: int = 1 << 30
    parallel_max: int = 2
    waiting_max: int = 32


class Sandbox:
    """Parses files in child processes, a few at a time."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.parallel_max)
        self._waiting = 0

    async def parse(self, content: bytes) -> ParsedDocument:
        """Text and blocks of a file.

        Raises:
            MeshError: DocumentEncrypted, DocumentTooLarge, DocumentUnreadable, DocumentUnsupported, or Overloaded.
        """
        if self._waiting >= self._limits.waiting_max:
            raise Overloaded("too many files are being read", retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with self._slots:
                answer = await self._run(content)
        finally:
            self._waiting -= 1
        return await asyncio.to_thread(_checked, answer, self._limits.document)

    async def _run(self, content: bytes) -> bytes:
        child = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._limits.wall_s):
                answer = await _exchange(child, content, self._answer_bytes_max)
                code = await child.wait()
        except TimeoutError as err:
            raise DocumentUnreadable("the file takes too long to read") from err
        finally:
            await _end(child)
        if code in {-signal.SIGXCPU, -signal.SIGKILL}:
            raise DocumentUnreadable("the file takes too long to read")
        if code != 0 or not answer:
            raise DocumentUnreadable("the file is damaged, or built to do damage")
        return answer

    def _command(self) -> list[str]:
        limits = self._limits
        return [
            sys.executable,
            "-s",
            "-m",
            _MODULE,
            f"--cpu-s={limits.cpu_s}",
            f"--memory-bytes={limits.memory_bytes}",
            f"--pages-max={limits.document.pages_max}",
            f"--characters-max={limits.document.characters_max}",
        ]

    @property
    def _answer_bytes_max(self) -> int:
        return _ANSWER_BYTES_PER_CHARACTER * self._limits.document.characters_max


async def _exchange(child: asyncio.subprocess.Process, content: bytes, answer_bytes_max: int) -> bytes:
    """Writes the file and reads the answer at the same time, so that neither pipe can block the other."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_write(child, content), name="parser-input")
        answer = tasks.create_task(_read(child, answer_bytes_max), name="parser-answer")
    return answer.result()


async def _write(child: asyncio.subprocess.Process, content: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(content)
        await child.stdin.drain()
        child.stdin.close()
    except (BrokenPipeError, ConnectionResetError, RuntimeError):  # the last is uvloop's, of a pipe closed before
        return  # the child died; its exit code tells


async def _read(child: asyncio.subprocess.Process, bytes_max: int) -> bytes:
    assert child.stdout is not None
    answer = bytearray()
    while piece := await child.stdout.read(_READ_BYTES):
        answer += piece
        if len(answer) > bytes_max:
            return b""  # no honest parser says so much; the caller kills it
    return bytes(answer)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await asyncio.shield(child.wait())


def _checked(answer: bytes, limits: Limits) -> ParsedDocument:
    try:
        said = json.loads(answer)
        if "reason" in said:
            refusal = _refusal(said["reason"], said["message"], said["metadata"])
        else:
            return _parsed(said, limits)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as err:
        raise DocumentUnreadable("the file is damaged, or built to do damage") from err
    raise refusal


def _parsed(said: Mapping[str, Any], limits: Limits) -> ParsedDocument:  # Any: JSON that nobody has checked yet
    if len(said["text"]) > limits.characters_max:
        raise ValueError("longer than asked for")
    blocks = tuple(
        Block(int(start), int(end), BlockKind(kind), tuple(map(str, headings)), int(page))
        for start, end, kind, headings, page in said["blocks"]
    )
    return ParsedDocument(MediaType(said["media_type"]), str(said["text"]), blocks)


def _refusal(reason: str, message: str, metadata: Mapping[str, str]) -> MeshError:
    if reason not in _REFUSALS:
        raise ValueError(reason)
    return ERROR_BY_REASON[Reason(reason)](message, metadata=metadata)
