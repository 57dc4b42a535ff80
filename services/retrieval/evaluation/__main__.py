"""`python -m services.retrieval.evaluation --data DIR`: figures of search and gate on the test split.

With `--fit-gate FILE` it fits the gate on the calibration split instead and writes it there.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from services.retrieval.embedding.onnx import ModelFiles, OnnxEncoder
from services.retrieval.evaluation import gating, ranking
from services.retrieval.evaluation.dataset import load
from services.retrieval.gate import Gate

NDCG_FLOOR: Final = 0.90
_ADVERSARIAL_MAX: Final = 300
_SEED: Final = 20260101
_EXIT_BELOW_FLOOR: Final = 1
_EXIT_NO_DATA: Final = 2


def main() -> int:
    """Exit code: 0 when the floor holds, 1 when it does not, 2 when there is no data."""
    options = _options()
    if not (options.data / "corpus.jsonl").is_file():
        _say(f"{options.data}: no such set; it holds corpus.jsonl and queries.jsonl")
        return _EXIT_NO_DATA
    encoder = OnnxEncoder(ModelFiles.packaged(), threads=options.threads)
    if options.fit_gate is not None:
        return _fit(options.data, options.fit_gate, encoder)
    return _measure(options.data, options.floor, encoder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.retrieval.evaluation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled set")
    parser.add_argument("--floor", type=float, default=NDCG_FLOOR, help="nDCG@10 below which the exit code is 1")
    parser.add_argument("--threads", type=int, default=2, help="cores for the encoder")
    parser.add_argument("--fit-gate", type=Path, metavar="FILE", help="fit the gate and write it to FILE")
    return parser.parse_args()


def _measure(data: Path, floor: float, encoder: OnnxEncoder) -> int:
    gate = Gate.shipped()
    dataset = load(data, split="test", encoder=encoder, adversarial_max=_ADVERSARIAL_MAX, seed=_SEED)
    figures = ranking.measure(dataset, gate)
    _say(f"set        {data.name}, split test, {len(dataset.rows)} passages, {figures.questions} answerable questions")
    _say(f"encoder    {encoder.revision}")
    _say(f"nDCG@10    {figures.ndcg_at_10:.4f}")
    _say(f"recall@5   {figures.recall_at_5:.4f}")
    _say(f"MRR@10     {figures.mrr_at_10:.4f}")
    _say(f"gate       retrieves from {gate.retrieve_at}, weakly from {gate.weak_at}; shares of questions:")
    for row in gating.measure(gating.cases(dataset, seed=_SEED), gate):
        _say(
            f"  {row.shelf:<11} {row.kind:<13} {row.cases:>5} retrieved {row.retrieved:.3f} weak {row.weak:.3f}"
            f" skipped {1 - row.retrieved - row.weak:.3f}  AUROC {row.auroc:.3f}"
        )
    if figures.ndcg_at_10 < floor:
        _say(f"nDCG@10 is below the floor of {floor}")
        return _EXIT_BELOW_FLOOR
    return 0


def _fit(data: Path, target: Path, encoder: OnnxEncoder) -> int:
    dataset = load(data, split="calib", encoder=encoder, adversarial_max=0, seed=_SEED)
    source = (
        f"fitted by `python -m services.retrieval.evaluation --fit-gate` on {data.name}, split calib, with"
        f" {encoder.revision}; thresholds pass 95 % and 98 % of its answerable questions"
    )
    gate = gating.fit(gating.cases(dataset, seed=_SEED), source=source)
    target.write_text(json.dumps(asdict(gate), indent=2) + "\n", encoding="utf-8")
    _say(f"{target}: {gate.weights} {gate.bias}, retrieve at {gate.retrieve_at}, weak at {gate.weak_at}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
