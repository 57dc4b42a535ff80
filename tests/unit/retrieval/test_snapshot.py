import random
import threading

import numpy as np
import pytest

from services.retrieval.index import lexical
from services.retrieval.index.snapshot import CANDIDATES_PER_LEG, Snapshot
from services.retrieval.index.vectors import FlatVectors
from services.retrieval.model import Changes, ChunkKey, DocumentId, IndexRow
from tests.support.retrieval import index_rows, word_vector


def _changes(sequence: int, document: str, rows: list[IndexRow]) -> Changes:
    return Changes(sequence, (DocumentId(document),), tuple(rows))


def _found(snapshot: Snapshot, text: str) -> dict[ChunkKey, tuple[float, float]]:
    turn = snapshot.search([(word_vector(text), lexical.terms(text))])[0]
    keys = snapshot.keys_of(turn.rows)
    return dict(zip(keys, zip(turn.dense.tolist(), turn.lexical.tolist(), strict=True), strict=True))


def test_both_legs_find_their_rows() -> None:
    snapshot = Snapshot.of(1, index_rows(["cats sleep", "dogs bark", "birds sing"]))

    found = _found(snapshot, "barking dogs")

    assert max(found, key=lambda key: found[key][1]) == 2
    assert max(found, key=lambda key: found[key][0]) == 2


def test_empty_snapshot_finds_nothing() -> None:
    empty = Snapshot.of(0, [])

    assert _found(empty, "anything") == {}
    assert (empty.rows_live, empty.size_bytes) == (0, 0)


def test_snapshot_stays_as_it_was_when_a_newer_one_is_made() -> None:
    old = Snapshot.of(1, index_rows(["cats sleep", "dogs bark"]))
    before = _found(old, "cats")

    new = old.after(_changes(2, "doc_a", index_rows(["birds sing"], first_key=10)))

    assert _found(old, "cats") == before
    assert set(_found(new, "cats")) == {10}
    assert (old.sequence, new.sequence) == (1, 2)


def test_changes_can_be_applied_twice() -> None:
    change = _changes(2, "doc_b", index_rows(["dogs bark"], document="doc_b", first_key=10))

    once = Snapshot.of(1, index_rows(["cats sleep"])).after(change)

    assert _found(once.after(change), "dogs") == _found(once, "dogs")


def test_segments_stay_few() -> None:
    snapshot = Snapshot.of(0, [])
    for number in range(300):
        rows = index_rows([f"text number {number}"], document=f"doc_{number}", first_key=number)
        snapshot = snapshot.after(_changes(number, f"doc_{number}", rows))

    assert snapshot.rows_live == 300
    assert len(snapshot.parts) <= 6


def test_mostly_deleted_segments_are_rebuilt() -> None:
    rows = [row for number in range(10) for row in index_rows(["text"], document=f"doc_{number}", first_key=number)]
    snapshot = Snapshot.of(0, rows)
    for number in range(8):
        snapshot = snapshot.after(_changes(number + 1, f"doc_{number}", []))

    assert sum(len(part.live) for part in snapshot.parts) <= 3
    assert set(_found(snapshot, "text")) == {8, 9}


@pytest.mark.parametrize("seed", range(8))
def test_random_changes_leave_what_a_fresh_build_has(seed: int) -> None:
    draw = random.Random(seed)
    words = ["cats", "dogs", "birds", "sleep", "bark", "sing", "run", "swim", "fly", "eat"]
    snapshot, present, next_key = Snapshot.of(0, []), {}, 1
    for sequence in range(1, 60):
        document = f"doc_{draw.randrange(8)}"
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 8))) for _ in range(draw.choice([0, 1, 2, 5]))]
        rows = index_rows(texts, document=document, first_key=next_key)
        next_key += len(rows)
        present[document] = rows
        snapshot = snapshot.after(_changes(sequence, document, rows))

    fresh = Snapshot.of(59, [row for rows in present.values() for row in rows])
    for query in ("cats bark", "swim", "birds fly and dogs run"):
        expected, found = _found(fresh, query), _found(snapshot, query)
        assert found.keys() == expected.keys()
        for key, scores in expected.items():
            assert found[key] == pytest.approx(scores, rel=1e-4)


def test_candidates_hold_the_best_of_both_legs() -> None:
    texts = [f"filler{number} word" for number in range(3 * CANDIDATES_PER_LEG)]
    snapshot = Snapshot.of(1, index_rows([*texts, "needle haystack"]))

    found = _found(snapshot, "needle")

    assert len(found) <= 2 * CANDIDATES_PER_LEG
    assert max(found, key=lambda key: found[key][1]) == 3 * CANDIDATES_PER_LEG + 1


def test_dead_rows_are_never_found_however_many_there_are() -> None:
    matrix = np.stack([word_vector(f"word{number}") for number in range(50)])
    live = np.zeros(50, dtype=np.bool_)
    live[[3, 17, 40]] = True

    scores, rows = FlatVectors(matrix).search(word_vector("word1"), 10, live)

    assert sorted(rows.tolist()) == [3, 17, 40]
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_searches_go_on_while_newer_snapshots_are_made() -> None:
    snapshots = [Snapshot.of(0, index_rows([f"text {number}" for number in range(500)]))]
    errors: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                assert len(_found(snapshots[-1], "text 3")) >= CANDIDATES_PER_LEG
        except BaseException as error:  # noqa: BLE001 - it is handed to the test
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        rows = index_rows([f"new {number}"], document=f"doc_{number}", first_key=1_000 + number)
        snapshots.append(snapshots[-1].after(_changes(number, f"doc_{number}", rows)))
    done.set()
    for thread in threads:
        thread.join()

    assert errors == []
