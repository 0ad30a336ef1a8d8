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
