import numpy as np
import pytest

from services.retrieval.evaluation import gating, ranking
from services.retrieval.evaluation.gating import Case
from services.retrieval.fusion import DENSE_WEIGHT, fuse
from services.retrieval.gate import Gate, Signals
from services.retrieval.index import lexical
from services.retrieval.index.snapshot import Candidates, Snapshot
from services.retrieval.model import Decision
from tests.support.retrieval import index_rows, word_vector


def _candidates(dense: list[float], lexical_scores: list[float]) -> Candidates:
    return Candidates(
        rows=np.arange(len(dense)),
        dense=np.array(dense, np.float32),
        lexical=np.array(lexical_scores, np.float32),
        coverage=np.zeros(len(dense), np.float32),
        dense_top=np.sort(np.array(dense, np.float32))[::-1],
        known=1.0,
        shared=0.0,
    )


def test_fused_score_is_the_weighted_mean_of_both_scaled_legs() -> None:
    fused = fuse([_candidates([0.2, 0.4, 0.6], [9.0, 0.0, 3.0])])

    assert fused.tolist() == pytest.approx([1 - DENSE_WEIGHT, DENSE_WEIGHT / 2, DENSE_WEIGHT + (1 - DENSE_WEIGHT) / 3])


def test_follow_up_is_the_mean_of_its_readings() -> None:
    one, two = _candidates([0.1, 0.9], [1, 0]), _candidates([0.8, 0.2], [0, 2])

    assert fuse([one, two]).tolist() == pytest.approx(((fuse([one]) + fuse([two])) / 2).tolist())


@pytest.mark.parametrize(("dense", "lexical_score", "expected"), [(0.5, 2.0, 1.0), (0.5, 0.0, 0.6), (-0.5, 0.0, 0.0)])
def test_a_single_candidate_scores_by_the_legs_that_like_it(
    dense: float, lexical_score: float, expected: float
) -> None:
    assert fuse([_candidates([dense], [lexical_score])]).tolist() == pytest.approx([expected])


def test_no_candidates_have_no_scores() -> None:
    assert fuse([_candidates([], [])]).tolist() == []


def _signals(text: str, snapshot: Snapshot) -> Signals:
    turn = snapshot.search([(word_vector(text), lexical.terms(text))])[0]
    return Signals.of(turn, fuse([turn]))


def test_shipped_gate_tells_questions_about_the_documents_from_others() -> None:
    gate = Gate.shipped()
    snapshot = Snapshot.of(
        1, index_rows(["vacation takes thirty days", "invoices are paid monthly", "doors lock at ten"])
    )

    about = gate.probability([_signals("how many days does a vacation take", snapshot)])
    foreign = gate.probability([_signals("write a poem in french", snapshot)])

    assert gate.decide(about) is Decision.RETRIEVED
    assert gate.decide(foreign) is Decision.SKIPPED
    assert "squad2-wiki" in gate.source


def test_decisions_change_exactly_at_the_thresholds() -> None:
    gate = Gate((0.0,) * 5, 0.0, retrieve_at=0.7, weak_at=0.3, source="")

    decided = [gate.decide(chance) for chance in (0.0, 0.299, 0.3, 0.699, 0.7, 1.0)]

    assert decided == [
        Decision.SKIPPED, Decision.SKIPPED, Decision.WEAK, Decision.WEAK, Decision.RETRIEVED, Decision.RETRIEVED,
    ]  # fmt: skip


def test_probability_of_a_follow_up_lies_between_its_readings() -> None:
    gate = Gate.shipped()
    weak, strong = Signals(0.1, 0.1, 0.1, 0.0, 3.0), Signals(0.8, 0.9, 0.9, 0.7, 3.0)

    chances = [gate.probability([weak]), gate.probability([weak, strong]), gate.probability([strong])]

    assert chances == sorted(chances)


def _cases() -> list[Case]:
    draw = np.random.default_rng(7)
    made = []
    for kind, centre in (("answerable", 0.7), ("foreign", 0.3), ("no_retrieval", 0.2)):
        for _ in range(200):
            cosine, coverage = draw.normal(centre, 0.12, 2)
            made.append(Case("whole", kind, Signals(cosine, coverage, coverage, 0.5, 4.0)))
    return made


def test_fit_finds_a_gate_that_passes_what_it_promises() -> None:
    gate = gating.fit(_cases(), source="made up")

    rows = {row.kind: row for row in gating.measure(_cases(), gate)}

    assert rows["answerable"].retrieved == pytest.approx(0.95, abs=0.01)
    assert rows["answerable"].retrieved + rows["answerable"].weak == pytest.approx(0.98, abs=0.01)
    assert rows["foreign"].auroc > 0.95
    assert rows["no_retrieval"].retrieved < 0.05


def test_auroc_counts_ties_half() -> None:
    assert gating.auroc([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert gating.auroc([0.1], [0.9]) == 0.0
    assert gating.auroc([0.5, 0.5], [0.5]) == 0.5


def test_ranking_figures_follow_their_definitions() -> None:
    found = ranking.figures([1, 2, 0, 6, 11])

    assert found.questions == 5
    assert found.recall_at_5 == pytest.approx(2 / 5)
    assert found.mrr_at_10 == pytest.approx((1 + 1 / 2 + 1 / 6) / 5)
    assert found.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(7)) / 5)
