"""Corpora, vocabularies, distillation sets and training batches."""

from kdkeras.data.cached_teacher import CachedTeacher
from kdkeras.data.corpus import CorpusReport, SentenceGroup, read_corpus
from kdkeras.data.distillation_set import DistillationSet
from kdkeras.data.sample import sample_folder
from kdkeras.data.targets import write_distillation_set
from kdkeras.data.text_files import read_translation_pairs
from kdkeras.data.vocabularies import load_vocabulary, train_vocabulary
from kdkeras.data.vocabulary import Vocabulary

__all__ = [
    "CachedTeacher",
    "CorpusReport",
    "DistillationSet",
    "SentenceGroup",
    "Vocabulary",
    "load_vocabulary",
    "read_corpus",
    "read_translation_pairs",
    "sample_folder",
    "train_vocabulary",
    "write_distillation_set",
]
