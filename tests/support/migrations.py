"""What a revision must not do while the release before runs on, and is hardly ever seen in a review.

The statements of a revision are taken from alembic as it would send them; no database is needed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

SERVICES: Final = ("auth", "conversation", "inference", "retrieval")


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of statement that is refused.

    Attributes:
        name: for people, and for exemptions.
        pattern: found in the statement, which is on one line.
        unless: makes it harmless.
        why: what would go wrong.
    """

    name: str
    pattern: str
    why: str
    unless: str = "$^"

    def breaks(self, statement: str) -> bool:
        """Whether the statement is of this kind."""
        return bool(
            re.search(self.pattern, statement, re.IGNORECASE) and not re.search(self.unless, statement, re.IGNORECASE)
        )


RULES: Final = (
    Rule(
        "column that must be given",
        r"ADD COLUMN .* NOT NULL",
        "the release before does not give it; let it have a default",
        unless=r"\bDEFAULT\b",
    ),
    Rule(
        "default that differs from row to row",
        r"ADD COLUMN .* DEFAULT .*(random|clock_timestamp|gen_random_uuid|uuidv7|nextval)\s*\(",
        "the whole table is written anew, locked",
    ),
    Rule("change of type", r"ALTER COLUMN \S+ (SET DATA )?TYPE", "the whole table is written anew, locked"),
    Rule(
        "NOT NULL for a column that is there",
        r"ALTER COLUMN \S+ SET NOT NULL",
        "the whole table is read, locked, and the release before may write NULL; add a CHECK … NOT VALID first",
    ),
    Rule("default taken away", r"ALTER COLUMN \S+ DROP DEFAULT", "the release before leans on it"),
    Rule("column or table that goes", r"\bDROP (COLUMN|TABLE)\b", "the release before reads and writes it"),
    Rule("another name", r"\bRENAME\b", "the release before knows the old one only"),
    Rule("function that goes", r"\bDROP FUNCTION\b", "the release before calls it"),
    Rule(
        "index of a table that is in use",
        r"\b(CREATE (UNIQUE )?INDEX|DROP INDEX|REINDEX)\b",
        "nobody writes until it is done; use services.mesh.postgres.migrate.concurrent",
        unless=r"\bCONCURRENTLY IF (NOT )?EXISTS\b",
    ),
    Rule(
        "constraint that reads the whole table",
        r"\bADD (CONSTRAINT \S+ )?(FOREIGN KEY|CHECK|UNIQUE|PRIMARY KEY|EXCLUDE)\b",
        "nobody writes until it is checked; add it NOT VALID and validate it, or build its index first",
        unless=r"\bNOT VALID\b|\bUSING INDEX\b",
    ),
    Rule(
        "rows that are changed",
        r"^\s*(UPDATE|DELETE|INSERT|MERGE|TRUNCATE|WITH)\b",
        "one transaction over a large table holds its rows and what is to be vacuumed; let a loop of the service do it",
    ),
    Rule("lock that is asked for", r"\b(LOCK TABLE|CLUSTER|VACUUM)\b", "everybody waits for it"),
)
_OWN: Final = re.compile(r"CREATE TABLE (\S+)", re.IGNORECASE)
_ABOUT: Final = re.compile(r"(?:ALTER TABLE|ON|DROP TABLE|INTO|UPDATE|DELETE FROM|TRUNCATE) (?:ONLY )?(\w+\.\w+)")


class _Written(list[str]):
    """Takes what alembic would send, one statement at a time."""

    def write(self, statement: str) -> None:
        self.append(" ".join(statement.split()))

    def flush(self) -> None:
        """As of a file."""


def revisions(folder: Path) -> list[Script]:
    """Those in the folder's `versions`, the oldest first."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return list(reversed(list(ScriptDirectory.from_config(config).walk_revisions())))


def statements(revision: Script) -> list[str]:
    """What the revision sends, each on one line."""
    written = _Written()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written, "transaction_per_migration": True}
    )
    with Operations.context(context):
        revision.module.upgrade()
    return [statement for statement in written if statement]


def broken_rules(sent: Sequence[str]) -> dict[str, str]:
    """Rules that statements of one revision break, each with why; what they do to a table of their own is free."""
    own = {name for statement in sent for name in _OWN.findall(statement)}
    return {
        rule.name: f"{rule.why}: {statement[:200]}"
        for statement in sent
        for rule in RULES
        if rule.breaks(statement) and not _is_about(statement, own)
    }


def _is_about(statement: str, own: set[str]) -> bool:
    about = _ABOUT.search(statement)
    return about is not None and about[1] in own
