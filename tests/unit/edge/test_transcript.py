"""An answer that can only grow."""

import pytest

from edge.compat.openai.transcript import Transcript
from parley.conversation.v1 import message_pb2, turn_pb2
from services.mesh.errors import Unavailable


def delta(offset: int, text: str, part: str = "p1") -> turn_pb2.TurnEvent:
    return turn_pb2.TurnEvent(text_delta=turn_pb2.TextDelta(part_id=part, offset=offset, text=text))


def message(*texts: str) -> message_pb2.Message:
    parts = [
        message_pb2.Part(id=f"p{number}", text=message_pb2.Text(text=text)) for number, text in enumerate(texts, 1)
    ]
    return message_pb2.Message(parts=parts)


def snapshot(*texts: str) -> turn_pb2.TurnEvent:
    return turn_pb2.TurnEvent(snapshot=turn_pb2.Snapshot(message=message(*texts)))


def end(*texts: str) -> turn_pb2.TurnEvent:
    return turn_pb2.TurnEvent(turn_finished=turn_pb2.TurnFinished(message=message(*texts)))


START = turn_pb2.TurnEvent(part_started=turn_pb2.PartStarted(part_id="p2"))
AGAIN = turn_pb2.TurnEvent(attempt_started=turn_pb2.AttemptStarted(attempt=2, resume_offset=2))


@pytest.mark.parametrize(
    ("events", "pieces"),
    [
        ([delta(0, "ab"), delta(2, "c")], ["ab", "c"]),
        ([delta(0, "⭐é"), delta(2, "x")], ["⭐é", "x"]),
        ([delta(0, "ab"), START, delta(0, "c", "p2")], ["ab", "", "c"]),
        ([delta(0, "abcd"), AGAIN, delta(2, "cd"), delta(4, "e")], ["abcd", "", "", "e"]),
        ([delta(0, "abcd"), AGAIN, delta(2, "cdef")], ["abcd", "", "ef"]),
        ([delta(0, "ab"), snapshot("abc")], ["ab", "c"]),
        ([delta(0, "abc"), snapshot("ab")], ["abc", ""]),
        ([snapshot("ab", "cd"), delta(2, "e", "p2")], ["abcd", "e"]),
        ([delta(0, "ab"), end("abc")], ["ab", "c"]),
        ([end("abc")], ["abc"]),
    ],
)
def test_text_is_handed_on_once(events: list[turn_pb2.TurnEvent], pieces: list[str]) -> None:
    transcript = Transcript()

    assert [transcript.take(event) for event in events] == pieces
    assert transcript.text == "".join(pieces)


@pytest.mark.parametrize(
    "last", [delta(2, "XY"), delta(9, "z"), snapshot("aX"), end("aX"), end("abc"), snapshot("abcd!"[:2] + "Z")]
)
def test_what_contradicts_the_text_is_not_hidden(last: turn_pb2.TurnEvent) -> None:
    transcript = Transcript()
    transcript.take(delta(0, "abcd"))

    with pytest.raises(Unavailable):
        transcript.take(last)
