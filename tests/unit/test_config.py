"""Configurations: each rule is broken once on each side, and plain mappings lead there and back."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import config as config_module
from model import training_config as training_config_module
from model.config import EngineConfig, GenerationConfig, ModelConfig, config_from_mapping, config_to_mapping
from model.errors import ConfigurationError, InvalidOptionError
from model.training_config import (
    AugmentationConfig,
    DataConfig,
    EvaluationConfig,
    FilterConfig,
    OptimizerConfig,
    SourceConfig,
    TrainingConfig,
)

SOURCES = (SourceConfig("a.tsv"), SourceConfig("b.tsv.xz", weight=0.5))
SMALLEST: dict[type, dict[str, Any]] = {
    ModelConfig: {"vocab_size": 100},
    GenerationConfig: {},
    EngineConfig: {},
    SourceConfig: {"path": "a.tsv"},
    DataConfig: {"directory": "data", "sources": SOURCES},
    AugmentationConfig: {},
    FilterConfig: {},
    OptimizerConfig: {},
    EvaluationConfig: {"directory": "dev", "sets": ("tatoeba",)},
    TrainingConfig: {
        "run_directory": "run",
        "tokenizer": "tokenizer.model",
        "model": ModelConfig(vocab_size=100),
        "data": DataConfig("data", SOURCES),
    },
}
"""The fields that must be given."""

NAN = math.nan

BROKEN: list[tuple[type, dict[str, Any], str, str]] = [
    *(
        (ModelConfig, {name: 0}, name, "must be at least 1")
        for name in ("vocab_size", "d_model", "d_ff", "num_heads", "num_encoder_layers", "num_decoder_layers")
    ),
    *((ModelConfig, {name: 3}, name, "must be at least 4") for name in ("max_source_length", "max_target_length")),
    *(
        (ModelConfig, {name: value}, name, "must be a token id below vocab_size")
        for name in ("pad_id", "bos_id", "eos_id", "decoder_start_id")
        for value in (-1, 100)
    ),
    *(
        (ModelConfig, {name: value}, name, "must be at least 0 and below 1")
        for name in ("dropout", "attention_dropout")
        for value in (-0.1, 1.0, NAN)
    ),
    (ModelConfig, {"norm_position": "middle"}, "norm_position", "must be one of pre, post"),
    (ModelConfig, {"norm_type": "batch"}, "norm_type", "must be one of layer, rms"),
    (ModelConfig, {"position_type": "rotary"}, "position_type", "must be one of sinusoidal, learned, relative"),
    (ModelConfig, {"sinusoid_layout": "x"}, "sinusoid_layout", "must be one of interleaved, halves, halves_fairseq"),
    (ModelConfig, {"activation": "swish"}, "activation", "must be one of relu, gelu, gelu_tanh, silu"),
    (ModelConfig, {"norm_epsilon": 0.0}, "norm_epsilon", "must be positive"),
    (ModelConfig, {"position_offset": -1}, "position_offset", "must not be negative"),
    (ModelConfig, {"num_heads": 7}, "num_heads", "must divide d_model (512)"),
    (ModelConfig, {"head_dim": 0}, "head_dim", "must be at least 1"),
    (ModelConfig, {"d_model": 9, "num_heads": 3}, "d_model", "must be even with sinusoidal positions"),
    (ModelConfig, {"relative_num_buckets": 30}, "relative_num_buckets", "must be a multiple of 4"),
    (ModelConfig, {"relative_num_buckets": 0}, "relative_num_buckets", "must be a multiple of 4"),
    (ModelConfig, {"relative_max_distance": 16}, "relative_max_distance", "must exceed half the buckets"),
    (EngineConfig, {"dtype": "int4"}, "dtype", "must be one of auto, float32, bfloat16, float16, int8"),
    (EngineConfig, {"dtype": "int8", "decoder": "plain"}, "dtype", "must not be int8 with the plain decoder"),
    (EngineConfig, {"decoder": "fast"}, "decoder", "must be one of compiled, plain"),
    (EngineConfig, {"num_threads": 0}, "num_threads", "must be at least 1"),
    (EngineConfig, {"num_workers": -1}, "num_workers", "must not be negative"),
    (EngineConfig, {"max_batch_tokens": -1}, "max_batch_tokens", "must not be negative"),
    (EngineConfig, {"max_queued_requests": 0}, "max_queued_requests", "must be at least 1"),
    (SourceConfig, {"path": ""}, "path", "must not be empty"),
    (SourceConfig, {"weight": 0.0}, "weight", "must be above 0 and at most 100"),
    (SourceConfig, {"weight": 101.0}, "weight", "must be above 0 and at most 100"),
    (DataConfig, {"sources": ()}, "sources", "must name at least one file"),
    (DataConfig, {"languages": ("fr", "fr")}, "languages", "must be two different codes"),
    (DataConfig, {"max_tokens": 3}, "max_tokens", "must be at least 4"),
    (DataConfig, {"max_ratio": 1.0}, "max_ratio", "must be above 1"),
    *(
        (AugmentationConfig, {name: value}, name, "must be between 0 and 1")
        for name in ("upper_case", "title_case", "lower_case", "no_final_punctuation", "typos", "joined")
        for value in (-0.01, 1.01, NAN)
    ),
    *((AugmentationConfig, {name: 1.5}, name, "must be between 0 and 1") for name in ("placeholders", "terms")),
    *(
        (FilterConfig, {name: value}, name, "must be between 0 and 1")
        for name in ("min_letters", "language_confidence")
        for value in (-0.1, 1.1, NAN)
    ),
    (FilterConfig, {"max_family": -1}, "max_family", "must not be negative"),
    (AugmentationConfig, {"upper_case": 0.5, "lower_case": 0.6}, "upper_case", "must be at most 1 with title_case"),
    (OptimizerConfig, {"name": "sgd"}, "name", "must be one of adamw, muon"),
    (OptimizerConfig, {"schedule": "step"}, "schedule", "must be one of cosine, inverse_sqrt, linear"),
    *(
        (OptimizerConfig, {name: 0.0}, name, "must be positive")
        for name in ("learning_rate", "muon_learning_rate", "clip_norm")
    ),
    *(
        (OptimizerConfig, {name: value}, name, "must be at least 0 and below 1")
        for name in ("beta1", "beta2", "weight_decay", "final_fraction")
        for value in (-0.1, 1.0)
    ),
    (OptimizerConfig, {"total_steps": 0}, "total_steps", "must be at least 1"),
    (OptimizerConfig, {"warmup_steps": -1}, "warmup_steps", "must be between 0 and total_steps"),
    (OptimizerConfig, {"warmup_steps": 11, "total_steps": 10}, "warmup_steps", "must be between 0 and total_steps"),
    (EvaluationConfig, {"every_steps": 0}, "every_steps", "must be at least 1"),
    (EvaluationConfig, {"max_sentences": 0}, "max_sentences", "must be at least 1"),
    (TrainingConfig, {"precision": "float16"}, "precision", "must be one of float32, bfloat16"),
    *(
        (TrainingConfig, {name: 0}, name, "must be at least 1")
        for name in ("batch_tokens", "accumulation_steps", "log_every_steps", "checkpoint_every_steps")
    ),
    (TrainingConfig, {"keep_checkpoints": 0}, "keep_checkpoints", "must be at least 1"),
    (TrainingConfig, {"label_smoothing": 1.0}, "label_smoothing", "must be at least 0 and below 1"),
    (TrainingConfig, {"ema_decay": -0.1}, "ema_decay", "must be at least 0 and below 1"),
    (TrainingConfig, {"data": DataConfig("d", SOURCES, max_tokens=255)}, "max_tokens", "must be at most 254"),
]

BROKEN_OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    *(
        ({name: value}, name, "must be between 1 and 64")
        for name in ("beam_size", "num_hypotheses")
        for value in (0, 65)
    ),
    *(({"patience": value}, "patience", "must be above 0 and at most 10") for value in (0.0, 10.1, NAN)),
    *(({"length_penalty": value}, "length_penalty", "must be between -5 and 5") for value in (-5.1, 5.1, NAN)),
    *(({"temperature": value}, "temperature", "must be above 0 and at most 100") for value in (0.0, 101.0, NAN)),
    ({"top_k": -1}, "top_k", "must not be negative"),
    *(({"top_p": value}, "top_p", "must be above 0 and at most 1") for value in (0.0, 1.01, NAN)),
    *(({"seed": value}, "seed", "must be between 0 and 2**63 - 1") for value in (-1, 2**63)),
    *(
        ({"repetition_penalty": value}, "repetition_penalty", "must be above 0 and at most 100")
        for value in (0.0, 100.5, math.inf)
    ),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size", "must not be negative"),
    *(({"min_new_tokens": value}, "min_new_tokens", "must be between 0 and 4096") for value in (-1, 4097)),
    *(({"max_new_tokens": value}, "max_new_tokens", "must be between 1 and 4096") for value in (0, 4097)),
    *(({"max_length_ratio": value}, "max_length_ratio", "must be above 0 and at most 100") for value in (0.0, 101.0)),
    ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens", "must not exceed max_new_tokens (8)"),
    ({"sampling": True, "beam_size": 2}, "beam_size", "must be 1 with sampling"),
    ({"num_hypotheses": 3, "beam_size": 2}, "num_hypotheses", "must not exceed beam_size (2) without sampling"),
]

ALLOWED: list[tuple[type, dict[str, Any]]] = [
    (ModelConfig, {"d_model": 1, "num_heads": 1, "position_type": "learned"}),
    (ModelConfig, {"head_dim": 7, "num_heads": 3}),
    (ModelConfig, {"pad_id": 99, "bos_id": 99, "eos_id": 0, "decoder_start_id": 99}),
    (ModelConfig, {"relative_num_buckets": 4, "relative_max_distance": 3}),
    (ModelConfig, {"dropout": 0.0, "max_source_length": 4, "max_target_length": 4}),
    (GenerationConfig, {"beam_size": 64, "num_hypotheses": 64, "patience": 10.0, "length_penalty": -5.0}),
    (GenerationConfig, {"sampling": True, "beam_size": 1, "num_hypotheses": 5, "seed": 2**63 - 1, "top_p": 1e-9}),
    (GenerationConfig, {"min_new_tokens": 8, "max_new_tokens": 8, "temperature": 100.0}),
    (SourceConfig, {"weight": 100.0}),
    (OptimizerConfig, {"warmup_steps": 10, "total_steps": 10, "weight_decay": 0.0}),
    (TrainingConfig, {"data": DataConfig("d", SOURCES, max_tokens=254), "ema_decay": 0.0}),
]


@pytest.mark.parametrize(("kind", "fields", "name", "rule"), BROKEN)
def test_every_rule_names_itself(kind: type, fields: dict[str, Any], name: str, rule: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**SMALLEST[kind] | fields)
    assert caught.value.name == name
    assert rule in caught.value.rule
    value = fields[name] if name in fields else fields["data"].max_tokens
    assert caught.value.value == repr(value)


@pytest.mark.parametrize(("fields", "name", "rule"), BROKEN_OPTIONS)
def test_every_rule_of_generation_names_itself(fields: dict[str, Any], name: str, rule: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        GenerationConfig(**fields)
    assert (caught.value.name, caught.value.rule, caught.value.value) == (name, rule, repr(fields[name]))


@pytest.mark.parametrize(("kind", "fields"), ALLOWED)
def test_the_ends_of_the_ranges_are_allowed(kind: type, fields: dict[str, Any]) -> None:
    built = kind(**SMALLEST[kind] | fields)
    assert all(getattr(built, name) == value for name, value in fields.items())


@pytest.mark.parametrize("kind", SMALLEST)
def test_configurations_are_frozen(kind: type) -> None:
    built = kind(**SMALLEST[kind])
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(built, name, getattr(built, name))


def test_derived_widths_and_scales() -> None:
    plain = ModelConfig(vocab_size=10, d_model=64, num_heads=4)
    assert (plain.width_per_head, plain.query_scale, plain.token_scale) == (16, 0.25, 8.0)
    stated = ModelConfig(vocab_size=10, d_model=64, num_heads=4, head_dim=25, attention_scale=1.0, embedding_scale=2.0)
    assert (stated.width_per_head, stated.query_scale, stated.token_scale) == (25, 1.0, 2.0)
    assert ModelConfig(vocab_size=10, d_model=64, num_heads=4, head_dim=25).query_scale == 0.2


@pytest.mark.parametrize(
    ("fields", "source_length", "expected"),
    [
        ({}, 10, 35),
        ({}, 11, 38),  # 27.5 rounds up, plus 10
        ({}, 1000, 384),
        ({"max_length_ratio": 1.0}, 7, 17),
        ({"max_new_tokens": 5}, 100, 5),
        ({"max_new_tokens": 4000}, 1, 384),
        ({"min_new_tokens": 100}, 10, 100),
        ({"min_new_tokens": 4000}, 10, 384),
    ],
)
def test_token_limit(fields: dict[str, Any], source_length: int, expected: int) -> None:
    assert GenerationConfig(**fields).token_limit(source_length, 384) == expected


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *ALLOWED,
        *((kind, {}) for kind in SMALLEST),
        (TrainingConfig, {"evaluation": EvaluationConfig("dev", ("a", "b"), samples=("Ça va ?",)), "seed": 9}),
        (GenerationConfig, {"target_prefix": (4, 5), "banned_tokens": (9,), "max_new_tokens": 3}),
    ],
)
def test_mapping_there_and_back_also_through_json(kind: type, fields: dict[str, Any]) -> None:
    built = kind(**SMALLEST[kind] | fields)
    mapping = config_to_mapping(built)
    assert config_from_mapping(kind, mapping) == built
    assert config_from_mapping(kind, json.loads(json.dumps(mapping))) == built


@given(
    st.builds(
        ModelConfig,
        vocab_size=st.integers(50, 10**6),
        d_model=st.integers(1, 64).map(lambda n: 8 * n),
        num_heads=st.sampled_from([1, 2, 4, 8]),
        head_dim=st.none() | st.integers(1, 128),
        norm_position=st.sampled_from(["pre", "post"]),
        norm_epsilon=st.floats(1e-12, 1),
        attention_scale=st.none() | st.floats(-2, 2),
        gated=st.booleans(),
        pad_id=st.integers(0, 49),
    )
)
def test_any_model_configuration_survives_json(built: ModelConfig) -> None:
    assert config_from_mapping(ModelConfig, json.loads(json.dumps(config_to_mapping(built)))) == built


def test_whole_numbers_count_as_floats_and_stay_apart_from_booleans() -> None:
    built = config_from_mapping(OptimizerConfig, {"learning_rate": 1})
    assert built.learning_rate == 1.0
    assert isinstance(built.learning_rate, float)


@pytest.mark.parametrize(
    ("values", "name", "rule"),
    [
        ({"vocab_size": 100, "nhead": 8}, "nhead", "must be one of vocab_size, d_model"),
        ({}, "vocab_size", "must be given"),
        ({"vocab_size": "100"}, "vocab_size", "must be of type int"),
        ({"vocab_size": 100.0}, "vocab_size", "must be of type int"),
        ({"vocab_size": True}, "vocab_size", "must be of type int"),
        ({"vocab_size": None}, "vocab_size", "must be of type int"),
        ({"vocab_size": 100, "gated": 1}, "gated", "must be of type bool"),
        ({"vocab_size": 100, "dropout": "0.1"}, "dropout", "must be of type float"),
        ({"vocab_size": 100, "dropout": False}, "dropout", "must be of type float"),
        ({"vocab_size": 100, "head_dim": "8"}, "head_dim", "must be of type int"),
        ({"vocab_size": 100, "norm_type": 3}, "norm_type", "must be one of layer, rms"),
        ({"vocab_size": 100, "norm_type": ["rms"]}, "norm_type", "must be one of layer, rms"),
    ],
)
def test_mappings_that_do_not_fit(values: dict[str, Any], name: str, rule: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_from_mapping(ModelConfig, values)
    assert caught.value.name == name
    assert caught.value.rule.startswith(rule)
    assert caught.value.value == repr(values.get(name))


@pytest.mark.parametrize(
    ("change", "name", "rule"),
    [
        (
            {"data": {"directory": "d", "sources": [{"path": "a", "wight": 2}]}},
            "data.sources[0].wight",
            "must be one of",
        ),
        ({"data": {"directory": "d", "sources": "a.tsv"}}, "data.sources", "must be a list"),
        ({"data": {"directory": "d", "sources": ["a.tsv"]}}, "data.sources[0]", "must be of type SourceConfig"),
        ({"data": {"directory": "d", "sources": [{}]}}, "data.sources[0].path", "must be given"),
        ({"data": {"directory": 7, "sources": []}}, "data.directory", "must be of type str"),
        ({"data": "d"}, "data", "must be of type DataConfig"),
        (
            {"data": {"directory": "d", "sources": [{"path": "a"}], "languages": ["fr"]}},
            "data.languages",
            "must have 2 entries",
        ),
        ({"evaluation": {"directory": "dev", "sets": [1]}}, "evaluation.sets[0]", "must be of type str"),
        ({"model": {"vocab_size": 100, "num_head": 1}}, "model.num_head", "must be one of"),
    ],
)
def test_nested_errors_say_where(change: dict[str, Any], name: str, rule: str) -> None:
    values = config_to_mapping(TrainingConfig(**SMALLEST[TrainingConfig])) | change
    with pytest.raises(ConfigurationError) as caught:
        config_from_mapping(TrainingConfig, values)
    assert caught.value.name == name
    assert caught.value.rule.startswith(rule)


def test_every_setting_has_a_sentence_under_it() -> None:
    classes: list[ast.ClassDef] = []
    for module in (config_module, training_config_module):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        classes += [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(classes) == len(SMALLEST)
    for node in classes:
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                assert documented, f"{node.name}.{ast.unparse(field.target)}"
