from pathlib import Path

from tests.chaos.history import History, read


def test_records_come_back_in_order_with_their_facts(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add("post", key="k1")
    history.add("posted", key="k1", turn="turn_é\n🌊")
    history.close()

    first, second = read(tmp_path / "history.jsonl")

    assert (first["op"], first["key"]) == ("post", "k1")
    assert second["turn"] == "turn_é\n🌊"
    assert first["t"] <= second["t"]


def test_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"t": 1, "op": "post"}\n{"t": 2, "op": "po', encoding="utf-8")

    assert [record["t"] for record in read(path)] == [1]
