import json
from pathlib import Path

import pytest

from services.inference.extraction import evaluation

TEXT = "The plain is 300 km long. It was formed by a rift."


def test_figures_are_those_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paragraphs = [
        {"_id": "a#0", "title": "Rhine", "text": TEXT, "doc_id": "a", "char_start": 100, "char_end": 151},
        {"_id": "b#0", "title": "Tea", "text": "Tea is drunk hot.", "doc_id": "b", "char_start": 0, "char_end": 17},
    ]
    common = {"doc_id": "a", "near_passage": "a#0", "split": "test"}
    gold = {"text": "300 km", "char_start": 113, "char_end": 119}
    queries = [
        {"text": "How long is the plain?", "kind": "answerable", "answers": [gold], **common},
        {"text": "How long is the plain?", "kind": "answerable", "answers": [{**gold, "char_end": 140}], **common},
        {"text": "Who painted the plain blue in 1850?", "kind": "adversarial", "answers": [], **common},
        {"text": "Write me a poem", "kind": "no_retrieval", "answers": [], **common, "near_passage": None},
        {"text": "Not of this half", "kind": "answerable", "answers": [gold], **common, "split": "calib"},
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, paragraphs)))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))

    evaluation.main(tmp_path)

    answerable, foreign, _, chat, _ = capsys.readouterr().out.splitlines()
    assert "questions     2  quotes the answer  50.0%" in answerable
    assert "refused 100.0%" in foreign
    assert "refused 100.0%" in chat
