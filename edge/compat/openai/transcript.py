"""An answer as a caller sees it who can only be given more text, never less."""

from parley.conversation.v1 import message_pb2, turn_pb2
from services.mesh.errors import Unavailable


class Transcript:
    """Text that has been handed on, checked against every event.

    Events carry offsets, so a repeated or resumed piece is recognised and not handed on twice; and a piece that
    contradicts what the caller already has is not hidden but ends the answer with an error.
    """

    def __init__(self) -> None:
        self.text = ""
        self._starts: dict[str, int] = {}

    def take(self, event: turn_pb2.TurnEvent) -> str:
        """The text that `event` adds to what has been handed on.

        Raises:
            Unavailable: the answer was begun anew and differs.
        """
        match event.WhichOneof("payload"):
            case "part_started":
                self._starts.setdefault(event.part_started.part_id, len(self.text))
            case "text_delta":
                delta = event.text_delta
                return self._add(self._starts.setdefault(delta.part_id, len(self.text)) + delta.offset, delta.text)
            case "snapshot":
                return self._replace(event.snapshot.message, is_final=False)
            case "turn_finished":
                return self._replace(event.turn_finished.message, is_final=True)
        return ""

    def _add(self, start: int, text: str) -> str:
        known = self.text[start : start + len(text)]
        if start > len(self.text) or not text.startswith(known):
            raise _diverged()
        added = text[len(known) :]
        self.text += added
        return added

    def _replace(self, message: message_pb2.Message, *, is_final: bool) -> str:
        whole = ""
        for part in message.parts:
            self._starts[part.id] = len(whole)
            whole += part.text.text
        if not is_final and self.text.startswith(whole):
            return ""
        if not whole.startswith(self.text):
            raise _diverged()
        return self._add(len(self.text), whole[len(self.text) :])


def _diverged() -> Unavailable:
    return Unavailable("the answer was interrupted and written anew: ask again, or read the stored one")
