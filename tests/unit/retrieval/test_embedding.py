import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from services.retrieval.embedding.cache import LocalVectors
from services.retrieval.embedding.encoder import EncoderError, Vectors, checked
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.embedding.service import open_embedder
from services.retrieval.model import Vector
from tests.support.retrieval import DIMENSION, ENCODER, WordEncoder, word_vector


class _Shared:
    """A cache that remembers what it was asked."""

    def __init__(self) -> None:
        self.kept: dict[str, Vector] = {}
        self.asked: list[list[str]] = []

    async def get(self, keys: Sequence[str]) -> dict[str, Vector]:
        self.asked.append(list(keys))
        return {key: self.kept[key] for key in keys if key in self.kept}

    async def put(self, vectors: Mapping[str, Vector]) -> None:
        self.kept |= vectors


async def test_questions_are_encoded_once() -> None:
    encoder = WordEncoder()
    async with open_embedder(encoder, LocalVectors(10, None)) as embedder:
        first = await embedder.embed_questions(["one two", "three", "one two"])
        again = await embedder.embed_questions(["three", "one two"])

    np.testing.assert_array_equal(first[[1, 0]], again)
    assert sum(len(call) for call in encoder.calls) == 2
    assert first[0] @ word_vector("one two") == pytest.approx(1.0)


async def test_spelling_variants_of_unicode_are_one_question() -> None:
    encoder = WordEncoder()
    async with open_embedder(encoder, LocalVectors(10, None)) as embedder:
        await embedder.embed_questions(["caf\u00e9", "cafe\u0301"])

    assert encoder.calls == [["caf\u00e9"]]


async def test_questions_at_once_share_batches() -> None:
    encoder = WordEncoder()
    async with open_embedder(encoder, LocalVectors(100, None)) as embedder:
        await asyncio.gather(*(embedder.embed_questions([f"question {number}"]) for number in range(40)))

    assert sum(len(call) for call in encoder.calls) == 40
    assert max(len(call) for call in encoder.calls) == 16
    assert len(encoder.calls) < 10


async def test_shared_cache_is_asked_only_for_what_is_not_here() -> None:
    shared = _Shared()
    cache = LocalVectors(10, shared)
    async with open_embedder(WordEncoder(), cache) as embedder:
        await embedder.embed_questions(["one"])
        await embedder.embed_questions(["one", "two"])

    assert [len(keys) for keys in shared.asked] == [1, 1]
    assert len(shared.kept) == 2
    assert all(key.startswith(f"{ENCODER}:") for key in shared.kept)


async def test_another_process_finds_the_vector_in_the_shared_cache() -> None:
    shared, encoder = _Shared(), WordEncoder()
    async with open_embedder(WordEncoder(), LocalVectors(10, shared)) as embedder:
        vector = await embedder.embed_questions(["one"])
    async with open_embedder(encoder, LocalVectors(10, shared)) as embedder:
        np.testing.assert_array_equal(await embedder.embed_questions(["one"]), vector)

    assert encoder.calls == []


@pytest.mark.parametrize(("entries", "expected"), [(0, 0), (1, 1), (2, 2), (3, 2)])
async def test_local_cache_is_bounded_and_forgets_the_oldest(entries: int, expected: int) -> None:
    cache = LocalVectors(entries, None)
    await cache.put({"a": word_vector("a")})
    await cache.put({"b": word_vector("b")})

    assert len(await cache.get(["a", "b"])) == expected
    assert ("b" in await cache.get(["b"])) is (entries > 0)


async def test_tokens_are_counted_as_the_encoder_reads_them() -> None:
    async with open_embedder(WordEncoder(), LocalVectors(1, None)) as embedder:
        assert await embedder.count_tokens(["one two three", "word " * 300]) == 5 + 256


def _unit(rows: int) -> Vectors:
    return np.stack([word_vector(str(row)) for row in range(rows)])


def test_sound_vectors_pass() -> None:
    checked(_unit(3), rows=3, dimension=DIMENSION)
    checked(np.empty((0, DIMENSION), np.float32), rows=0, dimension=DIMENSION)


@pytest.mark.parametrize("broken", [_unit(2), _unit(3)[:, :4], _unit(3) * 2, _unit(3) * np.nan, _unit(3) * np.inf])
def test_vectors_that_are_none_are_refused(broken: Vectors) -> None:
    with pytest.raises(EncoderError):
        checked(broken, rows=3, dimension=DIMENSION)


def test_model_file_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    packaged = ModelFiles.packaged()
    forged = tmp_path / "model.onnx"
    forged.write_bytes(packaged.weights.read_bytes()[:-1] + b"\x00")

    with pytest.raises(EncoderError, match="sha256 differs"):
        OnnxEncoder(
            ModelFiles(forged, packaged.tokenizer, "forged", packaged.weights_sha256, packaged.tokenizer_sha256),
            threads=1,
        )


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"model\.onnx"):
        OnnxEncoder(ModelFiles.in_folder(tmp_path), threads=1)


def test_model_of_the_operators_own_is_named_after_its_folder(tmp_path: Path, encoder: OnnxEncoder) -> None:
    packaged = ModelFiles.packaged()
    folder = tmp_path / "our-model"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(packaged.weights)
    (folder / "tokenizer.json").symlink_to(packaged.tokenizer)

    own = OnnxEncoder(ModelFiles.in_folder(folder), threads=1)

    assert own.revision.startswith("our-model@")
    np.testing.assert_allclose(own.encode(["text"]), encoder.encode(["text"]), atol=1e-6)


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder(ModelFiles.packaged(), threads=1)


def test_real_encoder_puts_meaning_above_words(encoder: OnnxEncoder) -> None:
    question, near, far = encoder.encode(
        ["How do I reset my password?", "To change your credentials, open the account page.", "How do I bake a cake?"]
    )

    assert question @ near > question @ far


def test_vector_does_not_depend_on_the_batch_it_was_in(encoder: OnnxEncoder) -> None:
    texts = [f"text number {number} " * (number % 7 + 1) for number in range(50)]

    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])

    assert float((together * alone).sum(axis=1).min()) > 0.99


def test_tokens_are_counted_whole_and_read_up_to_the_limit(encoder: OnnxEncoder) -> None:
    long = "word " * 1_000

    assert encoder.count_tokens([long, "one word", ""]) == [1_000, 2, 0]
    np.testing.assert_allclose(encoder.encode([long]), encoder.encode(["word " * 254]), atol=1e-6)


def test_empty_text_still_has_a_vector(encoder: OnnxEncoder) -> None:
    assert encoder.encode([""]).shape == (1, 384)
    assert encoder.encode([]).shape == (0, 384)
