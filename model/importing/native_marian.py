"""Checkpoints in Marian's own form, as OPUS-MT releases them: model.npz with its options inside, vocabulary, spm files.

A folder has ``*.npz`` (the one that decoder.yml names, if there is one), a vocabulary (``*.vocab.yml``: entry to id, or
a sentencepiece model) and ``source.spm`` and ``target.spm``. Differences from the Hugging Face layout of the same
networks: matrices are transposed, vectors have a leading dimension of one, the table has no row for padding (the
decoder starts from a vector of zeros, which is that row here), and norms add 1e-9 to the variance.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from model.checkpoints.inspection import parameter_shapes
from model.config import ModelConfig
from model.errors import CheckpointError
from model.importing.renaming import Rename, RenamingPlan, Shape, plan_renaming
from model.importing.settings import Settings
from model.importing.tokenizers import Wanted, language_codes, numbered_entries, read_model
from model.text.foreign_tokenizer import ForeignTokenizer, Framing, Specials, sentencepiece_entries

MAX_YAML_BYTES = 64 * 2**20
"""Longest vocabulary or list of options that is read."""
_OPTIONS = "special:model.yml"
_LENGTH = 512
_END, _UNKNOWN, _PADDING = "</s>", "<unk>", "<pad>"
_ACTIVATIONS = {"relu": "relu", "swish": "silu"}

_ATTENTION = {"self": "self_attention", "context": "cross_attention"}
TABLE = [
    *(
        Rename(rf"(encoder|decoder)_l(\d+)_{theirs}_{part}([qkvo])", rf"\1.layers.\2.{ours}.\3.{kind}")
        for theirs, ours in _ATTENTION.items()
        for part, kind in (("W", "weight"), ("b", "bias"))
    ),
    *(
        Rename(rf"(encoder|decoder)_l(\d+)_{theirs}_Wo_ln_{part}", rf"\1.layers.\2.{ours}_residual.norm.{kind}")
        for theirs, ours in _ATTENTION.items()
        for part, kind in (("scale", "weight"), ("bias", "bias"))
    ),
    *(
        Rename(rf"(encoder|decoder)_l(\d+)_ffn_{part}{number}", rf"\1.layers.\2.feed_forward.{ours}.{kind}")
        for number, ours in ((1, "in_proj"), (2, "out_proj"))
        for part, kind in (("W", "weight"), ("b", "bias"))
    ),
    *(
        Rename(rf"(encoder|decoder)_l(\d+)_ffn_ffn_ln_{part}", rf"\1.layers.\2.feed_forward_residual.norm.{kind}")
        for part, kind in (("scale", "weight"), ("bias", "bias"))
    ),
    Rename("decoder_ff_logit_out_b", "output_bias"),
    Rename("Wemb|encoder_Wemb", "source_embedding.weight"),
    Rename("decoder_Wemb", "target_embedding.weight", is_optional=True),
    Rename("special:.*", None, is_optional=True),
]
"""Marian numbers its layers from 1, and calls projections q, k, v, o; both are put right behind this table."""


def is_native(folder: Path) -> bool:
    """Whether a folder is in Marian's own form."""
    return not (folder / "config.json").exists() and any(folder.glob("*.npz"))


def read_native(
    folder: Path, wanted: Wanted
) -> tuple[ModelConfig, dict[str, Tensor], ForeignTokenizer, RenamingPlan, Settings]:
    """Read a folder in Marian's own form.

    Raises:
        CheckpointError: it is damaged, or has an option that is not supported; all of them are told at once.
    """
    listed = _read_yaml(folder / "decoder.yml") if (folder / "decoder.yml").exists() else {}
    file = _named(folder, listed.get("models"), "*.npz")
    arrays = _Arrays(file)
    settings = Settings(_options(arrays, file), f"{file.name}:{_OPTIONS}")
    tokenizer = _read_tokenizer(folder, listed, wanted)
    config = _network(settings, tokenizer)
    shapes = {_ours(name): _shape(name, shape) for name, shape in arrays.shapes.items()}
    plan = plan_renaming(shapes, _without_padding(config, len(shapes)), _TABLE_OF_OURS)
    settings.problems += plan.problems
    settings.refuse()
    weights = {ours: _tensor(arrays, _theirs(names[0])) for ours, names in plan.sources.items()}
    return config, _with_padding(weights, config), tokenizer, plan, settings


_PROJECTION = {letter: f"{'out' if letter == 'o' else letter}_proj" for letter in "qkvo"}


def _ours(name: str) -> str:
    """Return a tensor's name with Marian's numbers of layers counted from 0, so that the table can say the rest."""
    side, _, rest = name.partition("_l")
    number, _, rest = rest.partition("_")
    if side not in ("encoder", "decoder") or not number.isdecimal() or number == "0":
        return name
    return f"{side}_l{int(number) - 1}_{rest}"


def _theirs(name: str) -> str:
    side, _, rest = name.partition("_l")
    number, _, rest = rest.partition("_")
    if side not in ("encoder", "decoder") or not number.isdecimal():
        return name
    return f"{side}_l{int(number) + 1}_{rest}"


def _spelt(line: Rename) -> list[Rename]:
    """Return a line of the table with one for each projection, whose names differ by more than a letter."""
    if line.ours is None or r".\3." not in line.ours:
        return [line]
    return [
        Rename(line.theirs.replace("([qkvo])", letter), line.ours.replace(r"\3", name))
        for letter, name in _PROJECTION.items()
    ]


_TABLE_OF_OURS = [each for line in TABLE for each in _spelt(line)]


def _network(settings: Settings, tokenizer: ForeignTokenizer) -> ModelConfig:
    """Return the network that the options describe."""
    settings.require("type", "transformer", "other networks than transformers are not supported")
    settings.require("transformer-postprocess", "dan", "a norm after each sub-layer")
    for name, wanted, why in (
        ("transformer-preprocess", "", "nothing before a sub-layer"),
        ("transformer-postprocess-emb", "d", "nothing but dropout behind the embeddings"),
        ("transformer-postprocess-top", "", "no last norm"),
        ("transformer-decoder-autoreg", "self-attention", "other decoders are not supported"),
        ("transformer-train-position-embeddings", False, "positions are computed"),
        ("transformer-no-projection", False, "attention has an output projection"),
        ("transformer-tied-layers", [], "each layer has weights of its own"),
        ("transformer-depth-scaling", False, "an option of training that changes the weights' scale"),
        ("transformer-ffn-depth", 2, "a feed-forward layer has two matrices"),
        ("transformer-rnn-projection", False, "an option of other decoders"),
        ("transformer-guided-alignment-layer", "last", "only the last layer's weights are looked at"),
        ("lemma-dim-emb", 0, "factored vocabularies are not supported"),
        ("ulr", False, "an option of training that is not supported"),
        ("output-omit-bias", False, "the logits have a bias"),
        ("layer-normalization", False, "an option of recurrent networks"),
        ("right-left", False, "targets go from left to right"),
    ):
        settings.require(name, wanted, why)
    width, hidden = settings.get("dim-emb"), settings.get("transformer-dim-ffn")
    settings.require("transformer-decoder-dim-ffn", 0, "encoder and decoder must have the same")
    all_tied, tied = settings.get("tied-embeddings-all", False), settings.get("tied-embeddings", False)
    if not (all_tied or tied):
        settings.problems.append("tied-embeddings must be set: a separate output matrix is not supported")
    settings.get("tied-embeddings-src", False)
    sizes = settings.get("dim-vocabs", [0])
    if any(size not in (0, tokenizer.vocab_size - 1) for size in sizes):
        settings.problems.append(f"dim-vocabs must be {tokenizer.vocab_size - 1} as in the vocabulary, got {sizes}")
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=width,
        d_ff=hidden,
        num_heads=settings.get("transformer-heads"),
        num_encoder_layers=settings.get("enc-depth"),
        num_decoder_layers=settings.get("dec-depth"),
        max_source_length=_LENGTH,
        max_target_length=_LENGTH,
        norm_position="post",
        norm_epsilon=1e-9,
        final_norm=False,
        sinusoid_layout="halves",
        activation=settings.choice("transformer-ffn-activation", _ACTIVATIONS, "relu"),  # type: ignore[arg-type]
        output_bias=True,
        tie_source_target=all_tied,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.eos_id,
        eos_id=tokenizer.eos_id,
        decoder_start_id=tokenizer.pad_id,
    )


def _read_tokenizer(folder: Path, listed: Mapping[str, Any], wanted: Wanted) -> ForeignTokenizer:
    """Return the tokeniser: two sentencepiece models over one vocabulary, or one that is the vocabulary itself."""
    vocabularies = listed.get("vocabs") or [file.name for file in sorted(folder.glob("*.vocab.yml"))]
    if not isinstance(vocabularies, list) or len(set(map(str, vocabularies))) > 1:
        raise CheckpointError(f"source and target must have one vocabulary, got {vocabularies!s:.200}")
    source = _named(folder, ["source.spm"] if (folder / "source.spm").exists() else vocabularies, "*.spm")
    models = [read_model(file) for file in (source, folder / "target.spm") if file.exists()]
    file = _named(folder, vocabularies, "*.vocab.yml") if vocabularies else source
    vocabulary = sentencepiece_entries(models[0]) if file.suffix == ".spm" else numbered_entries(_read_yaml(file), file)
    for piece in (_END, _UNKNOWN):
        if piece not in vocabulary:
            raise CheckpointError(f"{file} must have the entry {piece}")
    if _PADDING in vocabulary:
        raise CheckpointError(f"{file} must not have the entry {_PADDING}: Marian's vocabularies have none")
    tokens = [piece for piece in vocabulary if piece.startswith(">>") and piece.endswith("<<")]
    sources = language_codes(wanted.source_language, "--source-language")
    if tokens:
        targets = {language_codes(token[2:-2], "")[0]: token for token in tokens}
    else:
        targets = dict.fromkeys(language_codes(wanted.target_language, "--target-language"), "")
    framing = Framing(dict.fromkeys(sources, ""), targets, source_begin=("{target}",) if tokens else ())
    specials = Specials(_PADDING, _UNKNOWN, _END, _END, tuple(tokens))
    second = models[1] if len(models) > 1 else None
    return ForeignTokenizer(models[0], second, [*vocabulary, _PADDING], specials, framing)


def _named(folder: Path, names: Any, pattern: str) -> Path:
    """Return the file that a list names first, or the only one of a pattern; never one outside the folder."""
    if isinstance(names, list) and names:
        name = str(names[0])
        if Path(name).name != name:
            raise CheckpointError(f"a file of {folder} must have a plain name, got {name!r:.100}")
        found = [folder / name]
    else:
        found = sorted(folder.glob(pattern))
    if len(found) != 1 or not found[0].is_file():
        raise CheckpointError(f"{folder} must have one {pattern}, got {[file.name for file in found]}")
    return found[0]


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file() or file.stat().st_size > MAX_YAML_BYTES:
        raise CheckpointError(f"{file} must be a regular file of at most {MAX_YAML_BYTES} bytes")
    return _parse_yaml(file.read_bytes(), file)


def _parse_yaml(content: bytes, file: Path) -> dict[str, Any]:
    try:
        value = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file} is not YAML: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold names and values")
    return value


class _Arrays:
    """The arrays of one file: their shapes come from their headers, and each is read when it is asked for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.shapes: dict[str, Shape] = {}
        formats = np.lib.format
        with _refusing(f"{file} is no file of arrays"), zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    is_first = formats.read_magic(stream) == (1, 0)
                    read = formats.read_array_header_1_0 if is_first else formats.read_array_header_2_0
                    shape, _, dtype = read(stream)
                if dtype.hasobject:
                    raise CheckpointError(f"{file}: {name} must hold numbers, got Python objects")
                self.shapes[name.removesuffix(".npy")] = shape

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one array; none holds Python objects."""
        with (
            _refusing(f"{name} of {self._file} cannot be read"),
            zipfile.ZipFile(self._file) as archive,
            archive.open(f"{name}.npy") as stream,
        ):
            found: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return found


@contextmanager
def _refusing(message: str) -> Iterator[None]:
    """Turn what a damaged file raises into our error."""
    try:
        yield
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{message}: {error!s:.200}") from error


def _options(arrays: _Arrays, file: Path) -> dict[str, Any]:
    if _OPTIONS not in arrays.shapes:
        raise CheckpointError(f"{file} must have its options in {_OPTIONS}")
    content = arrays.read(_OPTIONS).tobytes().rstrip(b"\0")
    if len(content) > MAX_YAML_BYTES:
        raise CheckpointError(f"{file}: {_OPTIONS} must have at most {MAX_YAML_BYTES} bytes")
    return _parse_yaml(content, file)


def _is_matrix(name: str) -> bool:
    return "_W" in name and not name.endswith("Wemb") and "_ln_" not in name


def _shape(name: str, shape: Shape) -> Shape:
    """Return a tensor's shape as ours is: transposed, or without its leading dimension of one."""
    if len(shape) == 2 and _is_matrix(name):
        return shape[1], shape[0]
    return shape[1:] if len(shape) == 2 and shape[0] == 1 else shape


def _tensor(arrays: _Arrays, name: str) -> Tensor:
    array = arrays.read(name)
    if array.dtype.kind != "f":
        raise CheckpointError(f"{name} must hold floating-point numbers, got {array.dtype}")
    array = array.T if _is_matrix(name) and array.ndim == 2 else array.reshape(_shape(name, array.shape))
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _without_padding(config: ModelConfig, num_tensors: int) -> dict[str, Shape]:
    """Return the shapes of our parameters as Marian has them, without a row for padding."""
    rows = config.vocab_size - 1
    return {
        name: (rows, *shape[1:]) if shape[0] == config.vocab_size and name in _PADDED else shape
        for name, shape in parameter_shapes(config, num_tensors).items()
    }


_PADDED = ("source_embedding.weight", "target_embedding.weight", "output_bias")


def _with_padding(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Add padding's row of zeros to the tables, and its bias; padding itself is never generated."""
    rows = config.vocab_size
    return {
        name: torch.cat([tensor, torch.zeros_like(tensor[:1])]) if name in _PADDED and len(tensor) < rows else tensor
        for name, tensor in weights.items()
    }
