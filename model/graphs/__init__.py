"""Decoding on CUDA: requests in slots of static memory, one CUDA graph a step; it loads no weights and reads no text.

On the CPU the same code runs without graphs, for tests. What it computes is defined by ``model.transformer`` and
``model.generation``, and tested against them.
"""

from __future__ import annotations

from model.graphs.batch import GraphBatch, graph_batch, graph_batches

__all__ = ["GraphBatch", "graph_batch", "graph_batches"]
