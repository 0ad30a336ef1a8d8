"""The encoder-decoder network of *Attention Is All You Need* (Vaswani et al. 2017), and nothing else.

Shape letters, used in every file of this room: B rows, S source length, T target length, D model width, H heads,
F feed-forward width, V vocabulary. Every mask is boolean, and True means "may attend".
"""

from __future__ import annotations

from model.transformer.kv_cache import KVCache
from model.transformer.transformer import AttentionWeights, Transformer

__all__ = ["AttentionWeights", "KVCache", "Transformer"]
