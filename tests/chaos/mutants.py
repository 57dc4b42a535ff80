"""Ways to break the product on purpose. A suite that does not notice them proves nothing by passing.

Each is a search and replace in the sources; a unit test holds that every one of them still applies.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CONVERSATION: Final = "services/conversation"


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces a piece of a file that occurs in it exactly once."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One break.

    Attributes:
        breaks: invariants of which at least one is broken by it. That others are, too, may be so; that only others
            are would be luck.
    """

    name: str
    breaks: frozenset[str]
    edits: tuple[Edit, ...]

    @property
    def slug(self) -> str:
        """For the name of a folder."""
        return "".join(each if each.isalnum() else "-" for each in self.name)

    def problems(self, tree: Path) -> list[str]:
        """Why it does not apply to a checkout; empty when it does."""
        return [
            f"{edit.path}: {edit.old!r} occurs {found} times"
            for edit in self.edits
            if (found := (tree / edit.path).read_text(encoding="utf-8").count(edit.old)) != 1
        ]

    def apply(self, tree: Path) -> None:
        """Breaks the checkout."""
        assert not self.problems(tree), self.problems(tree)
        for edit in self.edits:
            path = tree / edit.path
            path.write_text(path.read_text(encoding="utf-8").replace(edit.old, edit.new), encoding="utf-8")


def _one(name: str, breaks: str, path: str, old: str, new: str) -> Mutant:
    return Mutant(name, frozenset(breaks.split()), (Edit(path, old, new),))


MUTANTS: Final = (
    _one(
        "no fence in the database",
        "I5",
        f"{_CONVERSATION}/store_postgres/statements.py",
        '_turns.fence == bindparam("of_fence")',
        '_turns.fence >= bindparam("of_fence")',
    ),
    _one(
        "acknowledged before the commit is durable",
        "I1",
        "services/mesh/postgres/database.py",
        '"application_name": application,',
        '"application_name": application, "synchronous_commit": "off",',
    ),
    _one(
        "a retried question is taken for a new one",
        "I2",
        f"{_CONVERSATION}/store_postgres/conversations.py",
        "    if key is None:\n        return None",
        '    if key is None or key.method == "CreateTurn":\n        return None',
    ),
    Mutant(
        "no outbox: a publish that fails is forgotten",
        frozenset({"I3", "I10"}),
        (
            Edit(
                f"{_CONVERSATION}/running/relay.py",
                "        await self._queue.publish(refs)\n",
                "        try:\n            await self._queue.publish(refs)\n        except MeshError:\n"
                "            pass\n",
            ),
            Edit(
                f"{_CONVERSATION}/running/reaper.py",
                "stale = await self._store.stale_queued(older_s=self._pace.republish_after_s, limit=BATCH_MAX)",
                "stale: list[TurnRef] = []",
            ),
            Edit(
                f"{_CONVERSATION}/running/worker.py",
                "return await self._store.stale_queued(older_s=self._pace.republish_after_s, limit=limit)",
                "return []",
            ),
        ),
    ),
    _one(
        "wrong partition: some that nobody reads",
        "I3 I10",
        f"{_CONVERSATION}/queue/port.py",
        "% PARTITIONS",
        "% (PARTITIONS + 16)",
    ),
    _one(
        "queue messages are never acknowledged",
        "I10",
        f"{_CONVERSATION}/running/worker.py",
        "        try:\n            await self._queue.acknowledge([delivery])",
        "        try:\n            pass",
    ),
    _one(
        "no reaper",
        "I3 I10",
        f"{_CONVERSATION}/running/reaper.py",
        '        """One round."""\n',
        '        """One round."""\n        return\n',
    ),
    _one(
        "the lease is never looked at",
        "I3 I10",
        f"{_CONVERSATION}/store_postgres/statements.py",
        "is_in(TurnState.RUNNING), _turns.lease_expire_time <= func.now())",
        "is_in(TurnState.RUNNING), _turns.lease_expire_time.is_not(None))",
    ),
    _one(
        "the journal is not read at a takeover",
        "I5",
        f"{_CONVERSATION}/running/recovery.py",
        "while events := await self._journal.read(turn_id, after=draft.last_sequence, limit=READ_MAX):",
        "while events := ():",
    ),
    _one(
        "numbers are used again when the journal is gone",
        "I5",
        f"{_CONVERSATION}/running/recovery.py",
        "            draft.last_sequence = claim.sequence_limit\n",
        "",
    ),
    _one(
        "the end is told before it is stored",
        "I5",
        f"{_CONVERSATION}/running/recovery.py",
        "        last = draft.last_sequence + 1\n",
        "        last = draft.last_sequence + 1\n        await self._announce(hold, last, attempt, ending)\n",
    ),
    _one(
        "offsets count bytes",
        "I3",
        f"{_CONVERSATION}/events.py",
        "        self.length += len(delta.text)",
        "        self.length += len(delta.text.encode())",
    ),
    _one(
        "the cached history is believed",
        "I4",
        f"{_CONVERSATION}/history/branches.py",
        "cached is not None and cached.leaf_id == leaf_id",
        "cached is not None",
    ),
    _one(
        "a hole in the journal is passed on",
        "I5",
        f"{_CONVERSATION}/asking/watching.py",
        "        if events and events[0].sequence != place.position + 1:\n            return None\n",
        "",
    ),
    _one(
        "Last-Event-ID is ignored",
        "I5",
        "edge/transcoding/requests.py",
        "    return int(text)",
        "    return None",
    ),
    _one(
        "an attempt writes on without looking at what is there",
        "I3 I5",
        f"{_CONVERSATION}/running/continuation.py",
        "        if not is_takeover:",
        "        if not is_takeover or self._old:",
    ),
    _one(
        "a turn is anybody's who knows its id",
        "I6",
        f"{_CONVERSATION}/store_postgres/turns.py",
        "        .where(_turns.organization_id == owner.organization_id, _turns.user_id == owner.user_id)\n    )",
        "    )",
    ),
    _one(
        "a model that goes on writes over what stands",
        "I5",
        f"{_CONVERSATION}/running/continuation.py",
        "        self._matched = self._end = offset",
        "        self._end = offset",
    ),
    # Neither edit breaks a promise alone: what is cached is two seconds old at most, and what is revoked is forgotten.
    Mutant(
        "a revoked key is forgotten neither when it is revoked nor by time",
        frozenset({"I9"}),
        (
            Edit(
                "services/auth/principals.py",
                "        await self._cache.forget([_secret_name(key.secret_hash)])",
                "        return",
            ),
            Edit("services/auth/shared_state.py", "LAYER_LIFE_S: Final = FRESH_S / 2", "LAYER_LIFE_S: Final = 60.0"),
        ),
    ),
    _one(
        "a fold counts an event that its text does not have",
        "I5",
        f"{_CONVERSATION}/store_postgres/statements.py",
        "FOLD: Final = update(tables.messages).where(_is_answer_of(_HELD)).values(**_FOLDED)",
        "FOLD: Final = update(tables.messages).where(_is_answer_of(_HELD)).values(\n"
        '    **_FOLDED | {"last_sequence": bindparam("fold_sequence") + 1}\n)',
    ),
)
