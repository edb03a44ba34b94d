"""From corpus files to token batches."""

from kdkeras.data.cached_teacher import CachedTeacher
from kdkeras.data.corpus import CorpusReport, SentenceGroup, read_corpus
from kdkeras.data.distillation_set import DistillationSet
from kdkeras.data.held_out import read_retrieval_pairs
from kdkeras.data.sample import sample_folder
from kdkeras.data.targets import write_distillation_set
from kdkeras.data.vocabulary import Vocabulary, load_vocabulary, train_vocabulary

__all__ = [
    "CachedTeacher",
    "CorpusReport",
    "DistillationSet",
    "SentenceGroup",
    "Vocabulary",
    "load_vocabulary",
    "read_corpus",
    "read_retrieval_pairs",
    "sample_folder",
    "train_vocabulary",
    "write_distillation_set",
]
