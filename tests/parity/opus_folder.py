"""A folder as OPUS-MT's are in the Hugging Face layout, with random weights, and what hostile files are made of."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from tests.parity.families import transformers

SENTENCES = [
    f"{subject} {verb} {place}{end}"
    for subject in ("Le voisin", "Ma sœur", "The old lady", "Nobody")
    for verb in ("regarde", "voit", "looks at", "draws")
    for place in ("la gare", "le château", "the station", "an island")
    for end in (".", " ?", "!", " 1998.")
]


def train(folder: Path, name: str, **options: Any) -> list[str]:
    """Train a sentencepiece model into a folder, and return its entries."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=110,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / name).write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]


def randomized(network: Any, seed: int = 5) -> Any:
    """Draw weights large enough that different inputs have different outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if "embed_positions" not in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return network.eval()


SHAPE = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
}


def write_opus_folder(folder: Path) -> Path:
    """Write two sentencepiece models, one vocabulary, settings and weights of a model from French to English."""
    source, target = train(folder, "source.spm"), train(folder, "target.spm", model_type="bpe")
    pieces = dict.fromkeys(["</s>", "<unk>", *source[3:], *target[3:], "<pad>"])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    settings = {"source_lang": "fr", "target_lang": "en"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    pad_id = vocabulary["<pad>"]
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary),
        pad_token_id=pad_id,
        eos_token_id=0,
        decoder_start_token_id=pad_id,
        forced_eos_token_id=None,
        activation_function="swish",
        scale_embedding=True,
        **SHAPE,
    )
    network = randomized(transformers.MarianMTModel(config))
    network.final_logits_bias[0, 0] = 2.0  # so that some sentences end
    network.save_pretrained(folder)
    return folder


class Exploding:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("exploded").touch, ())
