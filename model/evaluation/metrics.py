"""Corpus scores of translations against references, by sacrebleu, with the signatures that make them comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import ConfigurationError, CorpusError


@dataclass(frozen=True)
class Score:
    """One corpus score.

    Attributes:
        name: such as ``"BLEU"``.
        value: 0 ... 100, higher is better.
        signature: sacrebleu's, which says all that the value depends on.
    """

    name: str
    value: float
    signature: str


@dataclass(frozen=True)
class PairedTest:
    """How one score of two systems on the same lines differs, by paired bootstrap resampling (Koehn 2004).

    Attributes:
        name: such as ``"BLEU"``.
        other: the other system's score.
        difference: this system's score less the other's.
        p_value: probability of a difference this large, either way, if the systems were equally good.
    """

    name: str
    other: float
    difference: float
    p_value: float


def paired_tests(
    hypotheses: Sequence[str], others: Sequence[str], references: Sequence[str], num_samples: int = 1000
) -> tuple[PairedTest, PairedTest]:
    """Compare two systems by BLEU and chrF2++ with sacrebleu's paired bootstrap test, whose seed is fixed.

    Raises:
        CorpusError: there is nothing to score, or the numbers of lines differ.
        ConfigurationError: sacrebleu is not installed.
    """
    if not hypotheses or not len(hypotheses) == len(others) == len(references):
        counts = f"{len(hypotheses)} and {len(others)} hypotheses must match {len(references)} references"
        raise CorpusError(f"{counts}, and be at least one")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.significance import PairedTest as Test
    except ImportError as error:
        raise ConfigurationError("sacrebleu", "must be installed (extra 'train')", None) from error
    wanted = [list(references)]
    metrics = {"BLEU": BLEU(references=wanted), "chrF2++": CHRF(word_order=2, references=wanted)}
    systems: list[tuple[str, Sequence[str]]] = [("other", list(others)), ("this", list(hypotheses))]
    _, found = Test(systems, metrics, None, test_type="bs", n_samples=num_samples)()
    tests = []
    for name in metrics:
        other, this = found[name]  # the baseline's comes first
        assert not isinstance(other, str | None)
        assert not isinstance(this, str | None)
        difference = float(this.score - other.score)
        # sacrebleu counts resamples that differ by more; where nothing differs there are none, and its p is about 0.
        p_value = float(this.p_value or 0.0) if difference else 1.0
        tests.append(PairedTest(name, float(other.score), difference, p_value))
    return tests[0], tests[1]


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[Score, Score]:
    """Return BLEU (Papineni et al. 2002; Post 2018) and chrF2++ (Popović 2017) of aligned texts.

    Raises:
        CorpusError: there is nothing to score, or the numbers of lines differ.
        ConfigurationError: sacrebleu is not installed.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise CorpusError(f"{len(hypotheses)} hypotheses must match {len(references)} references, and be at least one")
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise ConfigurationError("sacrebleu", "must be installed (extra 'train')", None) from error
    bleu, chrf = BLEU(), CHRF(word_order=2)
    scores = []
    for metric in (bleu, chrf):
        result = metric.corpus_score(list(hypotheses), [list(references)])
        scores.append(Score(result.name, float(result.score), str(metric.get_signature())))
    return scores[0], scores[1]
