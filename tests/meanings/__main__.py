"""`python -m tests.meanings [--data DIR]`: how often the cache takes two questions for one, by threshold.

Without `--data` the pairs of this project alone; with the folder of the labelled set, its near misses as well.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.inference.routes.schema import SIMILARITY_MIN
from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from tests.meanings.measuring import Encode, Pair, judged, near_misses, shipped, table

_BATCH: Final = 64
_EXIT_FALSE_HITS: Final = 1
_EXIT_NO_DATA: Final = 2
_HEAD: Final = f"{'cosine':>8}  {'vectors: hits':>14} {'false':>7}  {'cache: hits':>12} {'false':>7}"


def main() -> int:
    """Exit code: 0 without a false hit at the default threshold, 1 with one, 2 when there is no data."""
    parser = argparse.ArgumentParser(prog="python -m tests.meanings", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the labelled set")
    parser.add_argument("--threads", type=int, default=2, help="cores for the encoder")
    options = parser.parse_args()
    if options.data is not None and not (options.data / "queries.jsonl").is_file():
        _say(f"{options.data}: no such set; it holds queries.jsonl")
        return _EXIT_NO_DATA
    encoder = OnnxEncoder(ModelFiles.packaged(), threads=options.threads)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.vstack([encoder.encode(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)])

    _say(f"encoder  {encoder.revision}")
    false_hits = _print("pairs of this project", shipped(), encode)
    if options.data is not None:
        false_hits += _print(
            f"{options.data.name}, questions over the same paragraph", near_misses(options.data), encode
        )
    return _EXIT_FALSE_HITS if false_hits else 0


def _print(name: str, pairs: Sequence[Pair], encode: Encode) -> int:
    """Prints the table; gives the false hits at the default threshold."""
    same = sum(pair.is_same for pair in pairs)
    _say(f"\n{name}: {same} pairs of the same meaning, {len(pairs) - same} of another\n{_HEAD}")
    false_hits = 0
    for row in table(judged(pairs, encode)):
        is_default = row.threshold == SIMILARITY_MIN
        false_hits += row.false_hits if is_default else 0
        by_vectors = f"{row.hits_by_vectors:>14} {row.false_by_vectors:>7}"
        by_cache = f"{row.hits:>12} {row.false_hits:>7}"
        _say(f"{row.threshold:>8.2f}  {by_vectors}  {by_cache}" + ("  default" if is_default else ""))
    return false_hits


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
