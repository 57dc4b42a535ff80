"""What kind of thing a question asks for, and whether a sentence holds one. English only; others ask for none."""

import re
from typing import Final

from services.inference.extraction.terms import STOP_WORDS, words

_NUMBER: Final = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion|half|"
    r"third|quarter|twice|single|both|no)\b",
    re.IGNORECASE,
)
_DATE: Final = re.compile(
    r"\b\d{3,4}s?\b|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b|"
    r"\b(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)\b|\bcentury\b|\bBCE?\b|\bAD\b|"
    r"\b\d+(?:st|nd|rd|th)?\s+(?:years?|days?|hours?|months?|weeks?)\b"
)
_PLACE: Final = re.compile(r"\b(?:in|at|on|near|from|to|of|across|outside|inside|along)\s+(?:the\s+)?[A-Z]")
_CAUSE: Final = re.compile(
    r"\b(?:because|since|due|cause[sd]?|reason|result|so that|in order|therefore|thus|led)\b", re.IGNORECASE
)
_NAME: Final = re.compile(r"\b[A-Z][\w’'.-]+")

_ASKS_DATE: Final = re.compile(
    r"\b(?:when|what (?:year|date|day|month|century|decade|time)|which (?:year|date|century|decade)|how long ago)\b"
)
_ASKS_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|long|far|old|tall|high|large|big|deep|fast|often|wide|heavy)\b|"
    r"\bwhat (?:percent|percentage|number|amount|size)\b"
)
_ASKS_PLACE: Final = re.compile(
    r"\bwhere\b|\b(?:in )?(?:what|which) (?:city|country|state|place|region|area|location|continent)\b"
)
_ASKS_CAUSE: Final = re.compile(r"\bwhy\b|\bwhat (?:causes?|caused|reason)\b")
_ASKS_NAME: Final = re.compile(r"\b(?:who|whom|whose|what (?:person|company|group|organi[sz]ation|team))\b")

QUESTION_CHARS_MAX: Final = 2_000
"""What is longer asks for no one thing; and what is asked is looked at again for every sentence."""

# "What is a turn?" wants a definition; longer subjects ("what is the length of …") want a fact about them.
_ASKS_DEFINITION: Final = re.compile(
    r"^\s*(?:what|who)(?:'s|’s|\s+(?:is|are|was|were))\s+(?:an?\s+|the\s+)?((?:[\w.-]+\s+){0,2}[\w.-]+?)\s*\??\s*$"
)
_DEFINES: Final = (
    r"^\W*(?:an?\s+|the\s+)?{subject}s?\b[^.:;]{{0,60}}?"
    r"\b(?:(?:is|was)\s+(?:an?|the|one|any)|are|were|means|refers|stands)\b"
)

_PATTERNS: Final = (
    (_ASKS_DATE, _DATE),
    (_ASKS_NUMBER, _NUMBER),
    (_ASKS_PLACE, _PLACE),
    (_ASKS_CAUSE, _CAUSE),
)


def fits(question: str, sentence: str) -> float:
    """1 when the sentence holds the kind of thing that is asked for, -1 when it lacks it, 0 when none is asked for."""
    if len(question) > QUESTION_CHARS_MAX:
        return 0.0
    asked = " ".join(question.lower().split())  # in a row of spaces, each end of the pattern would be tried with each
    if definition := _ASKS_DEFINITION.match(asked):
        return 1.0 if re.match(_DEFINES.format(subject=re.escape(definition[1])), sentence.lower()) else -1.0
    for asks, answers in _PATTERNS:
        if asks.search(asked):
            return 1.0 if answers.search(sentence) else -1.0
    if _ASKS_NAME.search(asked):
        known = STOP_WORDS.union(words(question))
        return 1.0 if any(set(words(name)) - known for name in _NAME.findall(sentence)) else -1.0
    return 0.0
