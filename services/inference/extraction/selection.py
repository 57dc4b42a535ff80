"""Chooses the sentences that answer a question, and says how sure it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.inference.extraction.evidence import Candidate, Question, candidates
from services.inference.extraction.sentences import Kind
from services.inference.extraction.terms import words
from services.inference.model import Message, Passage, Role

SENTENCES_MAX: Final = 4

# Distance in log-odds from the best sentence at which others still join it. On the test half of squad2-wiki 1.6 quotes
# 1.6 sentences and holds the answer in 84 of 100; a wider margin adds sentences faster than answers.
_MARGIN: Final = 1.6
# Who asks for reasons, steps or a description wants more than one fact.
_MARGIN_BROAD: Final = 3.0
_BROAD: Final = re.compile(
    r"\b(?:why|explain|describe|list|steps?|how (?:do|does|did|can|could|should|to|is|are)|what (?:are|kinds?|types?)|"
    r"tell me about|overview|summar)",
    re.IGNORECASE,
)

# Logistic model of "the passages hold an answer" on the best sentence, fitted on the calib half of squad2-wiki:
# answerable questions against the same questions with passages of other articles, and against chit-chat.
_EVIDENCE_BASE: Final = -4.32
_EVIDENCE_LOOSE_COVERAGE: Final = 3.09
_EVIDENCE_NEIGHBOURHOOD: Final = 4.26
_EVIDENCE_PAIRS: Final = 1.98
_EVIDENCE_PHRASES: Final = 4.25
# Keeps 97 and 90 of 100 answerable questions of the calib half.
_WEAK: Final = -1.62
_STRONG: Final = -0.61

# Sentences that begin like this lean on the one before.
_LEANING: Final = frozenset({
    "he", "her", "his", "however", "it", "its", "she", "such", "that", "their", "therefore", "these", "they", "this",
    "those", "thus",
})  # fmt: skip
# A follow-up names its topic by a pronoun, or opens like one.
_FOLLOW_UP: Final = re.compile(
    r"\b(?:it|its|this|that|these|those|they|them|their|he|him|his|she|her|there)\b|"
    r"^\s*(?:and|but|so|what about|how about)\b",
    re.IGNORECASE,
)
_FOLLOW_UP_TERMS_MAX: Final = 1
_ALIKE: Final = 0.6


class Strength(StrEnum):
    """How sure the evidence is."""

    NONE = "none"
    WEAK = "weak"
    STRONG = "strong"


@dataclass(frozen=True, slots=True)
class Selection:
    """The sentences to quote, the best passage first, each in reading order; empty when there is no evidence."""

    strength: Strength
    sentences: tuple[Candidate, ...] = ()


def ask(messages: Sequence[Message]) -> Question:
    """The question that the last message asks; a follow-up takes the terms of the one before along."""
    asked = [message.text for message in messages if message.role is Role.USER]
    question = Question.of(asked[-1])
    leans = len(question.weights) <= _FOLLOW_UP_TERMS_MAX or _FOLLOW_UP.search(asked[-1]) is not None
    if leans and len(asked) > 1:
        return Question.of(asked[-1], earlier=asked[-2])
    return question


def select(question: Question, passages: Sequence[Passage]) -> Selection:
    """Picks one to four sentences of `passages`, or none when they do not speak to the question."""
    found = candidates(question, passages)
    if not found or not question.weights:
        return Selection(Strength.NONE)
    ranked = sorted(found, key=lambda one: (-one.score, one.passage, one.position))
    strength = _strength(ranked[0])
    if strength is Strength.NONE:
        return Selection(strength)
    picked = _pick(ranked, _MARGIN_BROAD if _BROAD.search(question.text) else _MARGIN)
    whole = _with_context(picked, found)
    best = {one.passage: one.score for one in reversed(ranked)}
    return Selection(strength, tuple(sorted(whole, key=lambda one: (-best[one.passage], one.passage, one.position))))


def _evidence(best: Candidate) -> float:
    signals = best.signals
    return (
        _EVIDENCE_BASE
        + _EVIDENCE_LOOSE_COVERAGE * signals.loose_coverage
        + _EVIDENCE_NEIGHBOURHOOD * signals.neighbourhood
        + _EVIDENCE_PAIRS * signals.pairs
        + _EVIDENCE_PHRASES * signals.phrases
    )


def _strength(best: Candidate) -> Strength:
    evidence = _evidence(best)
    if evidence < _WEAK:
        return Strength.NONE
    return Strength.WEAK if evidence < _STRONG else Strength.STRONG


def _pick(ranked: Sequence[Candidate], margin: float) -> list[Candidate]:
    picked: list[Candidate] = []
    for candidate in ranked:
        if len(picked) == SENTENCES_MAX or candidate.score < ranked[0].score - margin:
            break
        if not any(_repeats(candidate, other) for other in picked):
            picked.append(candidate)
    return picked


def _with_context(picked: Sequence[Candidate], found: Sequence[Candidate]) -> list[Candidate]:
    """Adds the sentence before one that opens with "It" or the like, while there is room."""
    whole = list(picked)
    before = {(one.passage, one.position + 1): one for one in found}
    for candidate in picked:
        previous = before.get((candidate.passage, candidate.position))
        opening = words(candidate.text)[:1]
        if previous is None or previous.sentence.kind is not Kind.PROSE or len(whole) == SENTENCES_MAX:
            continue
        if _LEANING.issuperset(opening) and opening and not any(_repeats(previous, other) for other in whole):
            whole.append(previous)
    return whole


def _repeats(one: Candidate, other: Candidate) -> bool:
    if one.passage == other.passage:
        return one.sentence.start < other.sentence.end and other.sentence.start < one.sentence.end
    shared = len(one.bag.terms & other.bag.terms)
    smaller = min(len(one.bag.terms), len(other.bag.terms))
    return smaller > 0 and shared / smaller > _ALIKE and shared / max(len(one.bag.terms), len(other.bag.terms)) > _ALIKE
