"""Shared data: the bundled sample, sentences of 29 languages and vocabularies."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
from hypothesis import settings

from kdkeras import teachers
from kdkeras.data import (
    CachedTeacher,
    DistillationSet,
    load_vocabulary,
    read_translation_pairs,
    sample_folder,
    train_vocabulary,
)

# Tatoeba sentences, `language<TAB>sentence` (CC BY 2.0 FR, contributors of tatoeba.org).
SENTENCES = Path(__file__).parent / "data" / "sentences.tsv"


# The same examples in every run; HYPOTHESIS_PROFILE=search generates new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def seed():
    """Makes the random weights of a test independent of other tests."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def sentences_by_language():
    """About 70 real sentences in each of 29 languages, in eleven scripts."""
    found = {}
    for line in SENTENCES.read_text("utf-8").splitlines():
        language, sentence = line.split("\t")
        found.setdefault(language, []).append(sentence)
    return found


@pytest.fixture(scope="session")
def sentences(sentences_by_language):
    return [text for texts in sentences_by_language.values() for text in texts]


@pytest.fixture(scope="session")
def sample_set():
    return DistillationSet(sample_folder() / "distillation_set")


@pytest.fixture(scope="session")
def sample_groups(sample_set):
    return [group for group, _ in sample_set.records()]


@pytest.fixture(scope="session")
def sample_teacher(sample_set):
    """Returns the cached embeddings of the sample."""
    return CachedTeacher(sample_set)


@pytest.fixture(scope="session")
def tiny_teacher():
    """A small BERT teacher with random weights, in a sentence-transformers folder."""
    return teachers.load(Path(__file__).parent / "teachers" / "tiny_bert" / "mean")


@pytest.fixture(scope="session")
def vocabulary():
    """The bundled vocabulary, of kind "mixed"."""
    return load_vocabulary(sample_folder() / "vocabulary")


@pytest.fixture(scope="session")
def wordpiece(sentences, sample_groups):
    return train_vocabulary(_texts(sentences, sample_groups), 7000, "wordpiece")


@pytest.fixture(scope="session")
def unigram(sentences, sample_groups):
    return train_vocabulary(_texts(sentences, sample_groups), 7000, "sentencepiece")


@pytest.fixture(scope="session")
def mixed(sentences, sample_groups):
    return train_vocabulary(_texts(sentences, sample_groups), 7000, "mixed")


def _texts(sentences, groups):
    """Returns the sentences of all 29 languages, and some of the sample."""
    sample = [text for group in groups[:500] for text in (group.source, *group.translations)]
    return [*sentences, *sample]


@pytest.fixture(scope="session")
def held_out():
    return read_translation_pairs(sample_folder() / "held_out")
