"""A two-layer network learns, in seconds, to copy and to reverse random tokens that it has not seen before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model.config import GenerationConfig, ModelConfig
from model.generation.generate import GenerationInput, generate
from model.training.optimizer import Optimizer, WeightAverage
from model.training.trainer import TrainingNetwork
from model.training_config import OptimizerConfig
from model.transformer import Transformer

PAD, BOS, EOS = 0, 2, 3
COPY, REVERSE = 4, 5
"""What the first token of a source asks for, as a target-language token does."""
FIRST_SYMBOL, NUM_SYMBOLS = 6, 10
MAX_LENGTH = 6
NUM_STEPS, BATCH_SIZE = 250, 64


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on a network this small more threads only wait for each other
    yield
    torch.set_num_threads(before)


def draw_examples(count: int, generator: torch.Generator) -> list[tuple[list[int], list[int]]]:
    """Return sources ``[task, symbols ..., end]`` and targets ``[symbols ..., end]``."""
    examples = []
    for _ in range(count):
        length, task = (
            int(torch.randint(*bounds, (), generator=generator)) for bounds in ((1, MAX_LENGTH + 1), (4, 6))
        )
        symbols = (FIRST_SYMBOL + torch.randint(NUM_SYMBOLS, (length,), generator=generator)).tolist()
        wanted = symbols if task == COPY else symbols[::-1]
        examples.append(([task, *symbols, EOS], [*wanted, EOS]))
    return examples


def pad_rows(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def train_network(seed: int) -> Transformer:
    """Train with our loss, optimiser, schedule and average, and return the network with the averaged weights."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=FIRST_SYMBOL + NUM_SYMBOLS,
        d_model=64,
        d_ff=128,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        max_source_length=16,
        max_target_length=16,
        dropout=0.0,
    )
    network = Transformer(config)
    module = TrainingNetwork(network, smoothing=0.0, compiled=False)
    schedule = OptimizerConfig(
        name="muon",
        learning_rate=3e-3,
        muon_learning_rate=0.04,
        schedule="linear",
        warmup_steps=10,
        total_steps=NUM_STEPS,
    )
    optimizer = Optimizer(network, schedule)
    average = WeightAverage(network, decay=0.9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(NUM_STEPS):
        examples = draw_examples(BATCH_SIZE, generator)
        sources, targets = pad_rows([source for source, _ in examples]), pad_rows([target for _, target in examples])
        inputs = pad_rows([[BOS, *target[:-1]] for _, target in examples])
        loss, _ = module(sources, sources != PAD, inputs, targets)
        (loss / (targets != PAD).sum()).backward()
        optimizer.step()
        average.update(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(average.weights[name])
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Transformer:
    return train_network(seed=1)


@pytest.mark.parametrize("task", [COPY, REVERSE], ids=["copy", "reverse"])
def test_unseen_sequences_are_decoded_exactly(network: Transformer, task: int) -> None:
    seen = {tuple(source) for source, _ in draw_examples(NUM_STEPS * BATCH_SIZE, torch.Generator().manual_seed(1))}
    drawn = draw_examples(600, torch.Generator().manual_seed(2))
    unseen = [(source, target) for source, target in drawn if source[0] == task and tuple(source) not in seen]
    assert len(unseen) > 100
    greedy = GenerationConfig(beam_size=1, max_new_tokens=MAX_LENGTH + 4)
    results = generate(network, [GenerationInput(source, greedy) for source, _ in unseen])
    exact = sum([*best.token_ids, EOS] == target for (best, *_), (_, target) in zip(results, unseen, strict=True))
    # Guessing the last symbol alone would be right for one in ten.
    assert exact >= 0.99 * len(unseen)


def test_beam_search_agrees_where_the_network_is_sure(network: Transformer) -> None:
    examples = draw_examples(40, torch.Generator().manual_seed(3))
    beam = GenerationConfig(beam_size=3, num_hypotheses=3, max_new_tokens=MAX_LENGTH + 4)
    results = generate(network, [GenerationInput(source, beam) for source, _ in examples])
    exact = sum(
        [*hypotheses[0].token_ids, EOS] == target for hypotheses, (_, target) in zip(results, examples, strict=True)
    )
    assert exact >= 0.95 * len(examples)
    assert all(h[0].score > h[1].score for h in results)
