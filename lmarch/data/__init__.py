"""Text to batches: corpora -> documents -> tokens -> fixed rows, packed once -> seeded batches."""
