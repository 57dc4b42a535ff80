"""The parser process: reads one file from standard input, writes its text and blocks, and ends.

Limits itself before it reads a byte. It has no environment, no database and no reason to be trusted: whoever reads its
answer checks it. Imports little, so that it starts fast.
"""

import argparse
import json
import resource
import sys

from services.retrieval.parsing import media, text
from services.retrieval.parsing.outcome import Limits, Refusal, unreadable


def main() -> int:
    """Parses standard input; the answer is one JSON object on standard output."""
    options = _options()
    _limit(cpu_s=options.cpu_s, memory_bytes=options.memory_bytes)
    try:
        answer = _read(sys.stdin.buffer.read(), Limits(options.pages_max, options.characters_max))
    except Refusal as refusal:
        answer = _said(refusal)
    except (MemoryError, RecursionError):
        answer = _said(unreadable("the file needs more memory than a document may take"))
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode())
    sys.stdout.buffer.flush()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="parse")
    parser.add_argument("--cpu-s", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--pages-max", type=int, required=True)
    parser.add_argument("--characters-max", type=int, required=True)
    return parser.parse_args()


def _limit(*, cpu_s: int, memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    if sys.platform != "darwin":  # macOS refuses to limit address space
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _read(content: bytes, limits: Limits) -> dict[str, object]:
    media_type, decoded = media.identify(content)
    if media_type == media.PDF:
        from services.retrieval.parsing import pdf  # noqa: PLC0415 - PDFium costs 50 ms that other files need not pay

        parsed = pdf.parse(content, limits)
    elif media_type == media.HTML:
        from services.retrieval.parsing import html  # noqa: PLC0415 - as above

        parsed = html.parse(decoded)
    elif media_type == media.MARKDOWN:
        from services.retrieval.parsing import markdown  # noqa: PLC0415 - as above

        text.check(decoded, limits)  # before the cost of parsing it
        parsed = markdown.parse(decoded)
    else:
        parsed = text.parse(decoded)
    text.check(parsed[0], limits)
    return {"media_type": media_type, "text": parsed[0], "blocks": parsed[1]}


def _said(refusal: Refusal) -> dict[str, object]:
    return {"reason": refusal.reason, "message": refusal.message, "metadata": refusal.metadata}


if __name__ == "__main__":
    sys.exit(main())
