"""Reading a distillation set, and rejecting damaged shards."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from kdkeras.data import DistillationSet
from kdkeras.data.shards import read_shard
from kdkeras.errors import InputError


@pytest.fixture
def copy(sample_set, tmp_path):
    return shutil.copytree(sample_set.folder, tmp_path / "set")


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_sentences_are_all_strings_of_both_sides(sample_set, sample_groups):
    sentences = list(sample_set.sentences())
    assert len(sentences) == sample_set.num_groups + sample_set.num_pairs
    first = sample_groups[0]
    assert sentences[: 1 + len(first.translations)] == [first.source, *first.translations]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_balanced_sentences_repeat_small_languages(sample_set, sample_groups, temperature):
    translations = [
        (translation, language)
        for group in sample_groups
        for language, translation in zip(group.languages, group.translations, strict=True)
    ]
    # Some translations occur in several languages: only distinct ones identify a language.
    times = Counter([group.source for group in sample_groups] + [t for t, _ in translations])
    language_of = {t: language for t, language in translations if times[t] == 1}
    sentences = sample_set.sentences(language_temperature=temperature)
    drawn = Counter(language_of[s] for s in sentences if s in language_of)
    once = Counter(language_of.values())
    largest = max(sample_set.counts.values())
    for language, count in sample_set.counts.items():
        copies = (largest / count) ** (1 - temperature)
        assert drawn[language] == pytest.approx(copies * once[language], rel=0.02)


def test_unchanged_set_verifies(sample_set):
    sample_set.verify()


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer"])
def test_shard_of_wrong_size_is_named_at_opening(copy, damage):
    shard = copy / "shard-00001.tfrecord"
    data = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(data[:-1] if damage == "truncated" else data + b"x")
    with pytest.raises(InputError, match=r"shard-00001\.tfrecord \("):
        DistillationSet(copy)


def test_corrupted_shard_is_named_before_training(copy, vocabulary):
    flip_a_byte(copy / "shard-00002.tfrecord")
    dataset = DistillationSet(copy)
    with pytest.raises(InputError, match=r"shard-00002\.tfrecord with SHA-256"):
        dataset.verify()
    with pytest.raises(InputError, match=r"shard-00002\.tfrecord with SHA-256"):
        dataset.batches(64, vocabulary)


def test_corrupted_shard_is_named_while_reading(copy):
    flip_a_byte(copy / "shard-00000.tfrecord")
    with pytest.raises(InputError, match=r"must be complete\. Received: .*shard-00000") as error:
        list(DistillationSet(copy).sentences())
    assert "\n" not in str(error.value)


def test_truncated_shard_is_named_while_reading(copy):
    shard = copy / "shard-00000.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard-00000\.tfrecord"):
        list(read_shard(shard))


def test_folder_without_manifest_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"a folder with `manifest.json`"):
        DistillationSet(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', "[]", '{"format": 1}'])
def test_invalid_manifest_is_rejected(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="must be the manifest of a distillation set"):
        DistillationSet(copy)
