"""Making weights: corpora, batches, the loss, the optimiser and the loop; nothing here is needed to translate."""
