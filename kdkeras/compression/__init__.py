"""Compression: a finished student made smaller, without training it again."""

from kdkeras.compression.factorization import factorize_table
from kdkeras.compression.pruning import prune_vocabulary
from kdkeras.compression.token_counts import token_counts
from kdkeras.compression.truncation import truncate

__all__ = ["factorize_table", "prune_vocabulary", "token_counts", "truncate"]
