"""No revision takes away what the release before uses, nor holds up its statements."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

import services
from tests.support.migrations import RULES, SERVICES, broken_rules, revisions, statements

BEFORE_THE_FIRST_RELEASE: Final = "there is no installation that has the schema before it"
EXEMPT: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("conversation", "0003"): {"index of a table that is in use": BEFORE_THE_FIRST_RELEASE},
}
"""Revisions that may break a rule, and why; after the first release that takes a release in which nobody uses it."""

REFUSED: Final = {
    "ALTER TABLE s.notes ADD COLUMN word TEXT NOT NULL": "column that must be given",
    "ALTER TABLE s.notes ADD COLUMN id UUID DEFAULT gen_random_uuid()": "default that differs from row to row",
    "ALTER TABLE s.notes ALTER COLUMN word TYPE INTEGER": "change of type",
    "ALTER TABLE s.notes ALTER COLUMN word SET NOT NULL": "NOT NULL for a column that is there",
    "ALTER TABLE s.notes ALTER COLUMN word DROP DEFAULT": "default taken away",
    "ALTER TABLE s.notes DROP COLUMN word": "column or table that goes",
    "DROP TABLE s.notes": "column or table that goes",
    "ALTER TABLE s.notes RENAME word TO words": "another name",
    "DROP FUNCTION s.count_words(text)": "function that goes",
    "CREATE INDEX notes_by_word ON s.notes (word)": "index of a table that is in use",
    "CREATE UNIQUE INDEX CONCURRENTLY notes_by_word ON s.notes (word)": "index of a table that is in use",
    "DROP INDEX s.notes_by_word": "index of a table that is in use",
    "ALTER TABLE s.notes ADD CONSTRAINT of_book FOREIGN KEY(book) REFERENCES s.books (id)": (
        "constraint that reads the whole table"
    ),
    "ALTER TABLE s.notes ADD CONSTRAINT one_word UNIQUE (word)": "constraint that reads the whole table",
    "UPDATE s.notes SET word = ''": "rows that are changed",
    "LOCK TABLE s.notes": "lock that is asked for",
}
ACCEPTED: Final = (
    "ALTER TABLE s.notes ADD COLUMN word TEXT",
    "ALTER TABLE s.notes ADD COLUMN word TEXT DEFAULT '' NOT NULL",
    "ALTER TABLE s.notes ADD COLUMN at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    "ALTER TABLE s.notes ALTER COLUMN word DROP NOT NULL",
    "ALTER TABLE s.notes ALTER COLUMN word SET DEFAULT ''",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS notes_by_word ON s.notes (word)",
    "DROP INDEX CONCURRENTLY IF EXISTS s.notes_by_word",
    "ALTER TABLE s.notes ADD CONSTRAINT short CHECK (length(word) < 9) NOT VALID",
    "ALTER TABLE s.notes VALIDATE CONSTRAINT short",
    "CREATE OR REPLACE FUNCTION s.count_words(word text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$",
)


@pytest.mark.parametrize("service", SERVICES)
def test_revisions_leave_the_release_before_in_peace(service: str) -> None:
    for revision in revisions(Path(services.__path__[0]) / service / "migrations"):
        broken = broken_rules(statements(revision))
        exempt = EXEMPT.get((service, revision.revision), {})
        assert broken.keys() == exempt.keys(), f"{service} {revision.revision}: {broken}"


@pytest.mark.parametrize(("statement", "rule"), REFUSED.items())
def test_statement_that_would_hurt_is_refused(statement: str, rule: str) -> None:
    assert list(broken_rules([statement])) == [rule]


def test_every_rule_has_a_statement_that_it_refuses() -> None:
    assert set(REFUSED.values()) == {rule.name for rule in RULES}


@pytest.mark.parametrize("statement", ACCEPTED)
def test_statement_that_adds_is_accepted(statement: str) -> None:
    assert broken_rules([statement]) == {}


def test_table_of_the_same_revision_is_free() -> None:
    assert broken_rules(["CREATE TABLE s.notes (id INTEGER)", "CREATE INDEX notes_by_id ON s.notes (id)"]) == {}
