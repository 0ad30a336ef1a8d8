"""Checkpoints in Marian's own form, written here from a network of `transformers`: weights, words, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from model.checkpoints.checkpoint import save_checkpoint
from model.config import EngineConfig
from model.errors import CheckpointError
from model.importing.importing import import_checkpoint
from model.translator import Translator
from tests.parity.families import transformers
from tests.parity.opus_folder import SENTENCES, Exploding, write_opus_folder


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in the Hugging Face layout."""
    return write_opus_folder(tmp_path_factory.mktemp("opus"))


def tensors_of(network: Any) -> dict[str, Any]:
    """Return the tensors of a network under Marian's own names: transposed, vectors as rows, no row for padding."""
    found: dict[str, Any] = {}
    attention = {"self_attn": "self", "encoder_attn": "context"}
    projections = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
    for side, part in (("encoder", network.model.encoder), ("decoder", network.model.decoder)):
        for number, layer in enumerate(part.layers, start=1):
            prefix = f"{side}_l{number}"
            for theirs, marian in attention.items():
                if not hasattr(layer, theirs):
                    continue
                for letter, name in projections.items():
                    linear = getattr(getattr(layer, theirs), name)
                    found[f"{prefix}_{marian}_W{letter}"] = linear.weight.T
                    found[f"{prefix}_{marian}_b{letter}"] = linear.bias[None]
                norm = getattr(layer, f"{theirs}_layer_norm")
                found[f"{prefix}_{marian}_Wo_ln_scale"] = norm.weight[None]
                found[f"{prefix}_{marian}_Wo_ln_bias"] = norm.bias[None]
            for which, linear in ((1, layer.fc1), (2, layer.fc2)):
                found[f"{prefix}_ffn_W{which}"] = linear.weight.T
                found[f"{prefix}_ffn_b{which}"] = linear.bias[None]
            found[f"{prefix}_ffn_ffn_ln_scale"] = layer.final_layer_norm.weight[None]
            found[f"{prefix}_ffn_ffn_ln_bias"] = layer.final_layer_norm.bias[None]
    rows = network.config.vocab_size - 1
    found["Wemb"] = network.model.shared.weight[:rows]
    found["decoder_ff_logit_out_b"] = network.final_logits_bias[:, :rows]
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def native_folder(opus: Path, folder: Path, **changed: Any) -> Path:
    """Write a folder as OPUS-MT's releases are, with options in the file of weights."""
    network = transformers.MarianMTModel.from_pretrained(opus)
    config = network.config
    options = {
        "type": "transformer",
        "dim-emb": config.d_model,
        "transformer-dim-ffn": config.encoder_ffn_dim,
        "transformer-heads": config.encoder_attention_heads,
        "enc-depth": config.encoder_layers,
        "dec-depth": config.decoder_layers,
        "transformer-postprocess": "dan",
        "transformer-preprocess": "",
        "transformer-ffn-activation": "swish",
        "tied-embeddings-all": True,
        "dim-vocabs": [config.vocab_size - 1] * 2,
        "mini-batch-fit": True,
        **changed,
    }
    arrays = tensors_of(network)
    arrays["special:model.yml"] = np.frombuffer(yaml.safe_dump(options).encode() + b"\0", dtype=np.int8)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "model.npz", **arrays)
    vocabulary = json.loads((opus / "vocab.json").read_text("utf-8"))
    del vocabulary["<pad>"]
    (folder / "opus.vocab.yml").write_text(yaml.safe_dump(vocabulary, allow_unicode=True), encoding="utf-8")
    listed = {"models": ["model.npz"], "vocabs": ["opus.vocab.yml"] * 2}
    (folder / "decoder.yml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    for name in ("source.spm", "target.spm"):
        shutil.copy(opus / name, folder / name)
    return folder


def test_it_is_the_same_network(opus: Path, tmp_path: Path) -> None:
    folder = native_folder(opus, tmp_path / "native")
    imported = import_checkpoint(folder, source_language="fr", target_language="en")
    assert imported.ignored_settings == ("mini-batch-fit",)
    checkpoint, twin = imported.checkpoint, import_checkpoint(opus).checkpoint
    length = checkpoint.config.max_source_length
    assert checkpoint.config == dataclasses.replace(
        twin.config,
        norm_epsilon=1e-9,  # Marian's own
        max_source_length=length,
        max_target_length=length,
        bos_id=checkpoint.config.bos_id,
    )
    pad_id = checkpoint.config.pad_id
    for name, weight in twin.weights.items():
        rows = pad_id if len(weight) == checkpoint.config.vocab_size else len(weight)
        assert torch.equal(checkpoint.weights[name][:rows], weight[:rows]), name
    assert not checkpoint.weights["source_embedding.weight"][pad_id].any()
    texts = [*SENTENCES[::9], "漢字 😀"]
    expected = [twin.tokenizer.encode_source(text, "en") for text in texts]
    assert [checkpoint.tokenizer.encode_source(text, "en") for text in texts] == expected
    save_checkpoint(tmp_path / "out", checkpoint)
    with Translator.load(tmp_path / "out", EngineConfig(num_threads=1)) as translator:
        translation = translator.translate("Le voisin regarde la gare.")
        assert (translation.source, translation.target) == ("fr", "en")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("type", "s2s"),
        ("transformer-preprocess", "n"),
        ("transformer-train-position-embeddings", True),
        ("transformer-ffn-activation", "gelu"),
        ("tied-embeddings-all", False),
        ("dim-vocabs", [9, 9]),
        ("enc-depth", 1),
        ("dim-emb", 12),
    ],
)
def test_options_that_are_not_supported_are_refused(opus: Path, tmp_path: Path, option: str, value: Any) -> None:
    folder = native_folder(opus, tmp_path / "native", **{option: value})
    with pytest.raises(CheckpointError, match="cannot be imported"):
        import_checkpoint(folder, source_language="fr", target_language="en")


def test_files_must_be_whole_and_hold_numbers(opus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = native_folder(opus, tmp_path / "native")
    with pytest.raises(CheckpointError, match="give --source-language"):
        import_checkpoint(folder)

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            import_checkpoint(folder, source_language="fr", target_language="en")

    content = (folder / "model.npz").read_bytes()
    (folder / "model.npz").write_bytes(content[: len(content) // 2])
    refused("no file of arrays")
    hostile: dict[str, Any] = {"special:model.yml": np.array([Exploding()])}
    np.savez(folder / "model.npz", **hostile)
    refused("Python objects")
    (folder / "model.npz").write_bytes(content)
    (folder / "decoder.yml").write_text("models: [../model.npz]", encoding="utf-8")
    refused("plain name")
    (folder / "decoder.yml").write_text("!!python/object/apply:pathlib.Path.touch [exploded]", encoding="utf-8")
    refused("is not YAML")
    assert not Path("exploded").exists()
