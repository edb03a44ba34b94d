"""From corpus files to token batches."""

from kdkeras.data.vocabulary import Vocabulary, load_vocabulary, train_vocabulary

__all__ = ["Vocabulary", "load_vocabulary", "train_vocabulary"]
