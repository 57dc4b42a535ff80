import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from services.mesh.errors import ModelUnknown
from services.retrieval.embedding import onnx
from services.retrieval.embedding.cache import LocalVectors
from services.retrieval.embedding.encoder import EncoderError, Vectors, checked
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.embedding.service import open_embedder
from services.retrieval.model import Vector
from tests.support import waiting
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


async def test_passages_of_callers_at_once_share_batches() -> None:
    encoder = WordEncoder()
    async with open_embedder(encoder, LocalVectors(1, None)) as embedder:
        made = await asyncio.gather(*(embedder.embed_passages([f"passage {number}"]) for number in range(64)))

    assert len(encoder.calls) <= 5
    assert sum(len(call) for call in encoder.calls) == 64
    for number, vectors in enumerate(made):
        np.testing.assert_array_equal(vectors[0], word_vector(f"passage {number}"))


async def test_texts_of_one_caller_share_batches_too() -> None:
    encoder = WordEncoder()
    texts = [f"passage {number}" for number in range(40)]
    async with open_embedder(encoder, LocalVectors(1, None)) as embedder:
        vectors = await embedder.embed_passages(texts)

    assert [len(call) for call in encoder.calls] == [16, 16, 8]
    np.testing.assert_array_equal(vectors, np.stack([word_vector(text) for text in texts]))


async def test_batch_of_long_texts_is_as_large_as_one_run() -> None:
    encoder = WordEncoder()
    async with open_embedder(encoder, LocalVectors(1, None)) as embedder:
        await embedder.embed_passages(["long words " * 200] * 10)

    assert [len(call) for call in encoder.calls] == [4, 4, 2]


async def test_large_job_starves_neither_a_question_nor_another_job() -> None:
    encoder = _Held()
    async with open_embedder(encoder, LocalVectors(10, None)) as embedder:
        job = asyncio.ensure_future(embedder.embed_passages([f"passage {number}" for number in range(256)]))
        await waiting.until(lambda: bool(encoder.calls))
        others = asyncio.gather(embedder.embed_questions(["a question"]), embedder.embed_passages(["another job"]))
        await asyncio.sleep(0)
        encoder.gate.set()
        await asyncio.gather(others, job)

    places = [next(place for place, call in enumerate(encoder.calls) if text in call) for text in _PATIENT]
    assert len(encoder.calls) > 16
    assert max(places) <= 3


_PATIENT = ("a question", "another job")


async def test_caller_that_leaves_takes_its_texts_back() -> None:
    encoder = _Held()
    async with open_embedder(encoder, LocalVectors(1, None)) as embedder:
        first = asyncio.ensure_future(embedder.embed_passages(["first"]))
        await waiting.until(lambda: bool(encoder.calls))
        leaving = asyncio.ensure_future(embedder.embed_passages(["unwanted"] * 40))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        encoder.gate.set()
        await asyncio.gather(first, embedder.embed_passages(["last"]))

    assert encoder.calls == [["first"], ["last"]]


class _Held(WordEncoder):
    """An encoder that waits for leave."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = super().encode(texts)
        assert self.gate.wait(60)
        return vectors


@pytest.mark.parametrize("model", ["", "words", "words@1"])
async def test_encoder_is_known_by_its_names(model: str) -> None:
    async with open_embedder(WordEncoder(), LocalVectors(1, None)) as embedder:
        embedder.require(model)


@pytest.mark.parametrize("model", ["words@2", "word", "text-embedding-3-small"])
async def test_another_encoder_is_not_there(model: str) -> None:
    async with open_embedder(WordEncoder(), LocalVectors(1, None)) as embedder:
        with pytest.raises(ModelUnknown) as refused:
            embedder.require(model)

    assert refused.value.metadata == {"model": model}


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


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([], []),
        ([256] * 5, [[0, 1, 2, 3], [4]]),
        ([8, 16, 8, 16], [[0, 2, 1, 3]]),
        ([8, 17, 8], [[0, 2], [1]]),
        ([200, 5], [[1], [0]]),
    ],
)
def test_texts_of_like_length_share_a_run(lengths: list[int], runs: list[list[int]]) -> None:
    assert list(onnx._runs(lengths)) == runs
