"""What must agree before two questions may mean the same, whatever their vectors say.

Vectors of a small encoder do not tell "increase" from "decrease" or "did" from "did not": questions that were written
to be mistaken for one another lie closer together than most paraphrases do (docs/caching.md has the figures). So
vectors only choose among questions that agree in all that carries content; words that merely make a sentence may
differ. The lists are English. What shows no English word has to agree to the letter.
"""

import re
from dataclasses import dataclass
from typing import Final

from services.inference.extraction.terms import stem

# Makes a sentence and changes nothing: articles, pronouns, politeness, and the verbs of asking.
_NEUTRAL: Final = frozenset({
    "a", "an", "the", "i", "me", "my", "mine", "we", "us", "our", "you", "your", "one", "it", "its", "they", "their",
    "this", "that", "these", "those", "there", "here", "and", "so", "just", "please", "kindly", "tell", "explain",
    "describe", "show", "give", "know", "want", "need", "like", "let", "hi", "hello", "thanks", "thank", "of", "for",
    "in", "on", "at", "by", "with", "about", "as", "be", "been", "being", "is", "are", "am", "do", "does", "can",
    "could", "would", "may", "might", "get", "go", "have", "has", "way", "ways", "possible", "able", "exactly",
    "actually", "called", "named", "name", "happen", "happens", "mean", "means", "to",
})  # fmt: skip
# No language with the same letters that is asked much has these words.
_ENGLISH: Final = frozenset({
    "the", "what", "how", "why", "who", "whose", "which", "where", "when", "there", "it", "does", "did", "could",
    "should", "would", "your", "you", "my", "have", "has", "had", "with", "from", "please", "this", "that", "i",
})  # fmt: skip
_PAST: Final = frozenset({"was", "were", "did", "had", "formerly", "used", "previously"})
_FUTURE: Final = frozenset({"will", "shall", "going"})
_DUTY: Final = frozenset({"should", "must", "ought", "required", "supposed"})
_NEGATION: Final = frozenset({"not", "no", "never", "none", "nobody", "nothing", "nor", "neither", "without", "cannot"})
# Which of two things comes first matters to these.
_DIRECTED: Final = frozenset({
    "to", "from", "into", "than", "before", "after", "over", "under", "by", "between", "via", "through", "against",
    "instead", "versus", "vs", "then",
})  # fmt: skip
_ASKED: Final = {
    "who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where", "why": "why", "how": "how",
    "what": "what", "which": "what",
}  # fmt: skip
_FIGURES: Final = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
    if word != "one"
}
_ENDINGS: Final = frozenset({"s", "re", "ve", "d", "m", "ll", ""})
_BEGINNING_SHARE: Final = 0.7
_BEGINNING_CHARS: Final = 5

_KINDS: Final = (("past", _PAST), ("future", _FUTURE), ("duty", _DUTY), ("not", _NEGATION))
_SILENT: Final = _NEUTRAL | _PAST | _FUTURE | _DUTY | _NEGATION | frozenset(_ASKED)

_WORD: Final = re.compile(r"[^\W_]+(?:[-'.,:/][^\W_]+)*|[%$€£+*/=<>^]")


@dataclass(frozen=True, slots=True)
class Gist:
    """What a question says.

    Attributes:
        content: stems of the words that carry content, in their order.
        exact: numbers, signs, codes and names, in their order, which must agree to the letter.
        marks: what is asked for, when, and whether it is denied or a duty.
        is_directed: the order of its words matters.
    """

    content: tuple[str, ...]
    exact: tuple[str, ...]
    marks: frozenset[str]
    is_directed: bool

    def agrees(self, other: "Gist") -> bool:
        """Whether both may mean the same."""
        if self.exact != other.exact or self.marks != other.marks:
            return False
        if self.is_directed or other.is_directed:
            return len(self.content) == len(other.content) and all(map(_alike, self.content, other.content))
        mine, theirs = sorted(self.content), sorted(other.content)
        return len(mine) == len(theirs) and all(map(_alike, mine, theirs))


def gist(question: str) -> Gist:
    """What `question` says, without how it says it."""
    content: list[str] = []
    exact: list[str] = []
    marks: set[str] = set()
    is_directed = False
    said = _WORD.findall(question.replace("’", "'"))
    if not any(_plain(written.lower())[0] in _ENGLISH for written in said):
        return Gist((), tuple(written.lower() for written in said), frozenset(), is_directed=True)
    for index, written in enumerate(said):
        word, mark = _plain(written.lower())
        if mark:
            marks.add(mark)
        is_directed = is_directed or word in _DIRECTED
        marks |= _marks(word)
        if word in _FIGURES or not _is_word(word):
            exact.append(_FIGURES.get(word, word.replace(",", "")))
        elif index and _is_name(written, word):
            exact.append(word)
        elif _carries(word):
            content.append(word if "-" in word else stem(word))
    return Gist(tuple(content), tuple(exact), frozenset(marks), is_directed)


def _is_name(written: str, word: str) -> bool:
    """Written large within a sentence; a letter by itself is one too, but for the word of the first person."""
    if len(written) == 1:
        return written.isupper() and written != "I"
    return written[0].isupper() and word not in _ASKED and word not in _NEUTRAL


def _is_word(word: str) -> bool:
    """Letters only, put together at most; everything else is a number, a sign or a code."""
    return all(char.isalpha() or char in "-'" for char in word)


def _plain(word: str) -> tuple[str, str]:
    """The word without what was put together with it, and the mark of that."""
    if word.endswith("n't"):
        return {"can't": "can", "won't": "will", "shan't": "shall"}.get(word, word[:-3]), "not"
    bare, quote, ending = word.partition("'")
    if quote and ending in _ENDINGS:
        return bare, "future" if ending == "ll" else ""
    return word, ""


def _marks(word: str) -> set[str]:
    found = {mark for mark, words in _KINDS if word in words}
    if word in _ASKED:
        found.add(_ASKED[word])
    if word.endswith("ed") and len(word) > _BEGINNING_CHARS - 1 and word not in _NEUTRAL:
        found.add("past")
    return found


def _carries(word: str) -> bool:
    return word not in _SILENT


def _alike(mine: str, theirs: str) -> bool:
    """The same word, or forms of one: "cancel" and "cancellation" begin alike."""
    if mine == theirs:
        return True
    common = 0
    for one, other in zip(mine, theirs, strict=False):
        if one != other:
            break
        common += 1
    return common >= _BEGINNING_CHARS and common >= _BEGINNING_SHARE * max(len(mine), len(theirs))
