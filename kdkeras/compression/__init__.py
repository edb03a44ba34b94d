"""Compression: making a trained student smaller without training it again."""

from kdkeras.compression.factorization import factorize, factorize_table, merge
from kdkeras.compression.pruning import prune_vocabulary, token_counts
from kdkeras.compression.truncation import truncate

__all__ = [
    "factorize",
    "factorize_table",
    "merge",
    "prune_vocabulary",
    "token_counts",
    "truncate",
]
