"""Words as evidence sees them: stems, without the words that carry no content."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Final, Protocol

import Stemmer

PREFIX_CHARS: Final = 4

_WORD: Final = re.compile(r"[^\W_]+")
# Chinese, Japanese and Korean letters stand for words without spaces between them; each counts as a term.
_IDEOGRAPH: Final = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힯]")

STOP_WORDS: Final = frozenset({
    "a", "about", "above", "after", "again", "against", "all", "also", "am", "an", "and", "any", "are", "as", "at",
    "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "cannot", "could",
    "did", "do", "does", "doing", "don", "down", "during", "each", "either", "else", "ever", "every", "few", "for",
    "from", "further", "get", "give", "given", "had", "has", "have", "having", "he", "her", "here", "hers", "him",
    "his", "how", "i", "if", "in", "into", "is", "it", "its", "itself", "just", "let", "may", "me", "might", "more",
    "most", "much", "must", "my", "name", "named", "no", "nor", "not", "now", "of", "off", "on", "once", "one",
    "only", "or", "other", "our", "out", "over", "own", "per", "please", "s", "same", "shall", "she", "should",
    "show", "so", "some", "such", "t", "tell", "than", "that", "the", "their", "them", "then", "there", "these",
    "they", "this", "those", "through", "thus", "to", "too", "under", "until", "up", "upon", "us", "very", "was",
    "we", "were", "what", "whats", "when", "where", "whether", "which", "while", "who", "whom", "whose", "why",
    "will", "with", "within", "without", "would", "yes", "you", "your",
})  # fmt: skip


class _Stemmer(Protocol):
    def stemWord(self, word: str) -> str: ...  # noqa: N802 - the name is PyStemmer's


_STEMMER: Final[_Stemmer] = Stemmer.Stemmer("english", 0)


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Snowball stem (Porter 2, https://snowballstem.org/algorithms/english/stemmer.html) of a lower-case word."""
    return _STEMMER.stemWord(word)


def words(text: str) -> list[str]:
    """Words of a text in lower case and in their order, content or not."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        if _IDEOGRAPH.search(word):
            found.extend(_IDEOGRAPH.findall(word))
        else:
            found.append(word)
    return found


def terms(text: str) -> list[str]:
    """Stems of the content words of a text, in their order, repeats included."""
    return content(words(text))


def content(said: Iterable[str]) -> list[str]:
    """Stems of the content words among `said`, which are in lower case."""
    return [stem(word) for word in said if word not in STOP_WORDS]


@dataclass(frozen=True, slots=True)
class Bag:
    """The terms of a text without order; `prefixes` finds "administer" where the question says "administration"."""

    terms: frozenset[str]
    prefixes: frozenset[str]

    @classmethod
    def of(cls, found: Iterable[str]) -> "Bag":
        """The bag of these terms."""
        terms_found = frozenset(found)
        return cls(terms_found, frozenset(term[:PREFIX_CHARS] for term in terms_found if len(term) >= PREFIX_CHARS))

    def __or__(self, other: "Bag") -> "Bag":
        return Bag(self.terms | other.terms, self.prefixes | other.prefixes)

    def holds(self, term: str, *, loosely: bool = False) -> bool:
        """Whether the term is there, or, loosely, one that begins like it."""
        return term in self.terms or (loosely and len(term) >= PREFIX_CHARS and term[:PREFIX_CHARS] in self.prefixes)


EMPTY_BAG: Final = Bag(frozenset(), frozenset())


def rarity(bags: Iterable[Bag]) -> dict[str, float]:
    """Inverse document frequency of every term, smoothed so that a term of all documents still weighs a little."""
    counts: dict[str, int] = {}
    total = 0
    for bag in bags:
        total += 1
        for term in bag.terms:
            counts[term] = counts.get(term, 0) + 1
    return {term: log(1 + (total - count + 0.5) / (count + 0.5)) for term, count in counts.items()}


def share(weights: Mapping[str, float], bag: Bag, *, loosely: bool = False) -> float:
    """How much of the weight of the wanted terms is in the bag, from 0 to 1; 0 when nothing is wanted."""
    total = sum(weights.values())
    present = sum(weight for term, weight in weights.items() if bag.holds(term, loosely=loosely))
    return present / total if total else 0.0
