"""A foreign configuration file, read field by field: what is asked for is checked, and what is not is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.errors import CheckpointError

_MISSING: Any = object()
_GENERIC = frozenset(
    # About a training run, a decoding or the program that wrote the file; none of them changes what a network computes.
    (
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "activation_dropout",
        "bad_words_ids",
        "classif_dropout",
        "classifier_dropout",
        "decoder_layerdrop",
        "dropout",
        "dropout_rate",
        "dtype",
        "early_stopping",
        "encoder_layerdrop",
        "encoder_no_repeat_ngram_size",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "init_std",
        "initializer_factor",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beams",
        "num_hidden_layers",
        "num_labels",
        "output_past",
        "prefix",
        "problem_type",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "early_stop",
        "save_step",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "sep_token_id",
        "bos_token_id",
        "finetuning_task",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "do_sample",
        "num_beam_groups",
        "num_return_sequences",
        "remove_invalid_values",
        "output_scores",
        "return_dict_in_generate",
        "pruned_heads",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "is_decoder",
        "tie_encoder_decoder",
        "tf_legacy_loss",
        "use_bfloat16",
        "torchscript",
        "begin_suppress_tokens",
        "suppress_tokens",
        "exponential_decay_length_penalty",
        "decoder_start_token",
        "model_type",
        "n_positions",
    )
)


class Settings:
    """The fields of one file.

    All problems are collected, so that a user hears of them at once.

    Attributes:
        problems: what does not fit, for people.
    """

    def __init__(self, values: Mapping[str, Any], file: str) -> None:
        self._values = values
        self._file = file
        self._asked: set[str] = set()
        self.problems: list[str] = []

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """Return a field of the default's type; a missing or wrong one is a problem, and gives a stand-in."""
        self._asked.add(name)
        value = self._values.get(name)
        kind = int if default is _MISSING else type(default)
        if value is None:
            if default is not _MISSING:
                return default
            self.problems.append(f"{self._file} lacks {name}")
            return 1  # the problem stops the import before it matters
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.problems.append(f"{self._file}: {name} must be of type {kind.__name__}, got {value!r:.80}")
            return 1 if default is _MISSING else default
        return value

    def number(self, name: str) -> int | None:
        """Return a whole number, None where the file has none."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        self.problems.append(f"{self._file}: {name} must be a whole number, got {value!r:.80}")
        return None

    def require(self, name: str, wanted: Any, why: str) -> None:
        """Make a problem of a field that has another value than the only one that we support; it may be missing."""
        self._asked.add(name)
        value = self._values.get(name, wanted)
        if value != wanted:
            self.problems.append(f"{self._file}: {name} must be {wanted!r} ({why}), got {value!r:.80}")

    def choice(self, name: str, choices: Mapping[str, str], default: str) -> str:
        """Return what a word of theirs means to us."""
        value = self.get(name, default)
        if value not in choices:
            self.problems.append(f"{self._file}: {name} must be one of {', '.join(choices)}, got {value!r}")
            return choices[default]
        return choices[value]

    def ignored(self) -> list[str]:
        """Return the fields that nobody asked for and that are not known to be harmless."""
        return sorted(set(self._values) - self._asked - _GENERIC)

    def refuse(self) -> None:
        """Raise CheckpointError with all problems, if there are any."""
        if self.problems:
            raise CheckpointError("the checkpoint cannot be imported: " + "; ".join(self.problems))
