"""The inside of the network on one sentence, as plain numbers for a page: embeddings, attention, choices step by step.

It translates nothing: the target is given. Numbers are rounded to four digits, and sizes are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import GenerationConfig, ModelConfig
from model.errors import InvalidOptionError, InvalidRequestError, InvalidTextError
from model.generation.forced import ForcedDecoding, force_decode
from model.generation.sampling import truncated_probabilities
from model.text.tokenizing import TextTokenizer
from model.transformer import Transformer

MAX_SOURCE_TOKENS = 64
"""Tokens of a source, its language and end tokens included; attention weights grow with their square."""
MAX_TARGET_TOKENS = 96
"""Tokens of a target, without start and end tokens."""
DIGITS = 4

Matrix = list[list[float]]
Heads = list[list[Matrix]]
"""Indexed by layer, head, query and key."""


@dataclass(frozen=True)
class ExplanationOptions:
    """What is shown, and how the distribution of the next token is reshaped.

    Raises:
        InvalidOptionError: an option is out of its range.
    """

    temperature: float = 1.0
    """Divides the logits, see :class:`~model.config.GenerationConfig`."""
    top_k: int = 0
    """Keep the k most probable tokens only; 0 means all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this sum."""
    num_candidates: int = 8
    """Candidates that are shown of each step; the chosen one is shown in any case."""
    num_dimensions: int = 16
    """First dimensions of vectors that are shown."""

    def __post_init__(self) -> None:
        GenerationConfig(
            beam_size=1, sampling=True, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )  # has the rules of these three
        for name, most in (("num_candidates", 50), ("num_dimensions", 64)):
            if not 1 <= getattr(self, name) <= most:
                raise InvalidOptionError(name, f"must be between 1 and {most}", getattr(self, name))


@dataclass(frozen=True)
class ExplainedToken:
    """One token and the text behind it."""

    id: int
    """Number in the vocabulary."""
    piece: str
    """Entry of the vocabulary."""
    start: int
    """Where its characters begin in the text."""
    end: int
    """Where they end; ``start`` for a token that stands for no text."""
    special: bool
    """Whether it stands for no text: a language, start or end token."""


@dataclass(frozen=True)
class Candidate:
    """A token that could have come next."""

    id: int
    piece: str
    text: str
    """The piece as text, with a space before it where a word begins; nothing for a special token."""
    logit: float
    """What the network computed."""
    probability: float
    """Softmax of the logits."""
    reshaped: float
    """Probability after temperature, top-k and top-p; 0 for a token that these leave out."""
    survives: bool
    """Whether it could still be drawn."""


@dataclass(frozen=True)
class Step:
    """One step of the decoder."""

    input: ExplainedToken
    """The newest token that it sees: at first the start token."""
    chosen: ExplainedToken
    """The token that follows in the target; at last the end token."""
    probability: float
    """Probability of the chosen token."""
    log_prob: float
    """Its natural logarithm."""
    entropy: float
    """Of the distribution, in bits: how unsure the network is."""
    num_survivors: int
    """Tokens that could be drawn after temperature, top-k and top-p."""
    candidates: list[Candidate]
    """The most probable tokens, best first."""
    cross_attention: list[Matrix]
    """(layers, H, S) weights over the source tokens."""
    self_attention: list[Matrix]
    """(layers, H, t + 1) weights over the decoder's inputs so far."""


@dataclass(frozen=True)
class Explanation:
    """One source and its given target, with what the network computes on the way."""

    source: str
    target: str
    """The target's text: what its tokens are put together to."""
    source_tokens: list[ExplainedToken]
    """S tokens: the language token, the pieces, the end token."""
    target_tokens: list[ExplainedToken]
    """Without start and end tokens."""
    embeddings: Matrix
    """(S, n) first dimensions of the source tokens' vectors, scaled as they enter the encoder."""
    embedding_norms: list[float]
    """(S) lengths of the whole vectors."""
    projection: Matrix
    """(S, 2) the vectors on their first two principal components."""
    positions: Matrix
    """(S, n) first dimensions of what is added for each position; empty for a network with relative positions."""
    encoder_attention: Heads
    """(layers, H, S, S): row i has the weights with which token i looks at all tokens."""
    steps: list[Step]
    """T + 1 steps."""


def explain(
    network: Transformer,
    tokenizer: TextTokenizer,
    source: str,
    target_language: str,
    target_ids: Sequence[int],
    options: ExplanationOptions | None = None,
    *,
    source_language: str | None = None,
) -> Explanation:
    """Run a source and a target through the network and return what happens inside.

    Args:
        network: in evaluation mode.
        tokenizer: its tokeniser.
        source: the source's text.
        target_language: code of the language to translate to.
        target_ids: the target's tokens, such as a hypothesis has them.
        options: what to show.
        source_language: code of the source's language, for models that are told.

    Raises:
        InvalidTextError: the source has too many tokens.
        InvalidRequestError: the target does.
        UnsupportedLanguageError: the model does not have the language.
    """
    options = options or ExplanationOptions()
    _, spans = tokenizer.encode_with_spans(source, side="source")
    source_ids = explainable_source(tokenizer, network.config, source, target_language, source_language)
    leading = tokenizer.num_leading(target_language, source_language)
    trailing = len(source_ids) - leading - len(spans)
    spans = [*[(0, 0)] * leading, *spans, *[(len(source), len(source))] * trailing]
    if len(target_ids) > min(MAX_TARGET_TOKENS, network.config.max_target_length - 1):
        raise InvalidRequestError("target", f"must have at most {MAX_TARGET_TOKENS} tokens", len(target_ids))
    [decoding] = force_decode(network, [(source_ids, target_ids)], self_attention=True, logits=True)
    assert decoding.encoder_attention is not None, "was asked for"
    vectors = network.source_embedding.weight[source_ids].detach().float().cpu().numpy() * network.config.token_scale
    target, target_spans = tokenizer.decode_with_spans(target_ids)
    target_tokens = _tokens(tokenizer, target_ids, target_spans)
    size = options.num_dimensions
    return Explanation(
        source=source,
        target=target,
        source_tokens=_tokens(tokenizer, source_ids, spans),
        target_tokens=target_tokens,
        embeddings=_rounded(vectors[:, :size]),
        embedding_norms=_rounded(np.linalg.norm(vectors, axis=1)),
        projection=_rounded(principal_components(vectors)),
        positions=_positions(network, len(source_ids), size),
        encoder_attention=_rounded(decoding.encoder_attention),
        steps=_steps(tokenizer, target_tokens, len(target), decoding, options, network.config.decoder_start_id),
    )


def explainable_source(
    tokenizer: TextTokenizer, config: ModelConfig, source: str, target_language: str, source_language: str | None
) -> list[int]:
    """Return the tokens of a source that is short enough to be explained.

    Raises:
        InvalidTextError: it is not.
        UnsupportedLanguageError: the model does not have the language.
    """
    source_ids = tokenizer.encode_source(source, target_language, source_language)
    limit = min(MAX_SOURCE_TOKENS, config.max_source_length)
    if len(source_ids) > limit:
        raise InvalidTextError("text", f"must have at most {limit - 2} tokens to be explained", source)
    return source_ids


def principal_components(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return vectors (N, D) on their first two principal components, (N, 2), the larger one first.

    A component's sign is free; it is chosen so that the entry furthest from zero is positive.
    """
    centred = vectors - vectors.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.zeros((len(vectors), 2))
    found = min(2, len(lengths))
    components[:, :found] = left[:, :found] * lengths[:found]
    furthest = components[np.abs(components).argmax(axis=0), [0, 1]]
    return components * np.where(furthest < 0, -1.0, 1.0)


def _steps(
    tokenizer: TextTokenizer,
    target: Sequence[ExplainedToken],
    length: int,
    decoding: ForcedDecoding,
    options: ExplanationOptions,
    start_id: int,
) -> list[Step]:
    """Return the steps that lead to the target and its end token."""
    [start] = _tokens(tokenizer, [start_id], [(0, 0)])
    [end] = _tokens(tokenizer, [tokenizer.eos_id], [(length, length)])
    assert decoding.logits is not None, "was asked for"
    assert decoding.cross_attention is not None, "was asked for"
    assert decoding.decoder_attention is not None, "was asked for"
    steps = []
    for index, (newest, chosen) in enumerate(zip([start, *target], [*target, end], strict=True)):
        logits = torch.from_numpy(decoding.logits[index])
        reshaped = truncated_probabilities(logits, options.temperature, options.top_k, options.top_p)
        probabilities = logits.double().softmax(-1)
        log_prob = decoding.token_log_probs[index]
        steps.append(
            Step(
                input=newest,
                chosen=chosen,
                probability=round(math.exp(log_prob), DIGITS),
                log_prob=round(log_prob, DIGITS),
                entropy=round(float(torch.special.entr(probabilities).sum()) / math.log(2), DIGITS),
                num_survivors=int((reshaped > 0).sum()),
                candidates=_candidates(tokenizer, logits, probabilities, reshaped, chosen.id, options.num_candidates),
                cross_attention=_rounded(decoding.cross_attention[:, :, index]),
                self_attention=_rounded(decoding.decoder_attention[:, :, index, : index + 1]),
            )
        )
    return steps


def _candidates(
    tokenizer: TextTokenizer,
    logits: torch.Tensor,
    probabilities: torch.Tensor,
    reshaped: torch.Tensor,
    chosen: int,
    count: int,
) -> list[Candidate]:
    ids: list[int] = logits.topk(min(count, len(logits))).indices.tolist()
    if chosen not in ids:
        ids.append(chosen)
    return [
        Candidate(
            id=token_id,
            piece=piece,
            text="" if token_id in tokenizer.special_ids else piece.replace("\u2581", " "),
            logit=round(float(logits[token_id]), DIGITS),
            probability=round(float(probabilities[token_id]), DIGITS),
            reshaped=round(float(reshaped[token_id]), DIGITS),
            survives=bool(reshaped[token_id] > 0),
        )
        for token_id, piece in zip(ids, tokenizer.pieces(ids), strict=True)
    ]


def _positions(network: Transformer, length: int, size: int) -> Matrix:
    positions = network.encoder.embedding.positions
    if positions is None:
        return []
    with torch.inference_mode():
        device = next(network.parameters()).device
        table = positions(torch.arange(length, device=device))
        shown: Matrix = _rounded(table[:, :size].float().cpu().numpy())
        return shown


def _tokens(tokenizer: TextTokenizer, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[ExplainedToken]:
    return [
        ExplainedToken(token_id, piece, start, end, token_id in tokenizer.special_ids)
        for token_id, piece, (start, end) in zip(ids, tokenizer.pieces(ids), spans, strict=True)
    ]


def _rounded(numbers: NDArray[np.floating]) -> Any:
    """Return an array as nested lists; in float64, so that rounded numbers are short in JSON."""
    return np.round(numbers.astype(np.float64), DIGITS).tolist()
