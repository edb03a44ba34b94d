"""The bundled sample data."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import pytest

from kdkeras.data import sample_folder

SCRIPTS = {"LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI", "CJK", "HIRAGANA", "KATAKANA", "HANGUL"}


def test_sample_has_at_most_twelve_megabytes():
    files = [path for path in sample_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_sample_covers_languages_and_scripts(sample_set, sample_groups):
    assert len(sample_set.languages) >= 12
    assert min(sample_set.counts.values()) >= 1000
    text = "".join(text for group in sample_groups for text in group.translations)
    letters = {unicodedata.name(letter).split()[0] for letter in set(text) if letter.isalpha()}
    assert letters >= SCRIPTS


def test_sources_and_their_translations_are_distinct(sample_groups):
    assert len({group.source for group in sample_groups}) == len(sample_groups)
    for group in sample_groups:
        pairs = list(zip(group.languages, group.translations, strict=True))
        assert len(set(pairs)) == len(pairs)


def test_teacher_vectors_have_unit_norm(sample_set):
    vectors = np.stack([vector for _, vector in sample_set.records()])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert sample_set.normalized
    assert sample_set.embedding_dim == 384


def test_held_out_is_disjoint_from_training_on_both_sides(sample_set, held_out):
    trained = set(sample_set.sentences())
    for language, (foreign, english) in held_out.items():
        assert not trained.intersection(foreign), language
        assert not trained.intersection(english), language


def test_held_out_has_enough_pairs_in_every_language(sample_set, held_out):
    assert sorted(held_out) == sample_set.languages
    for foreign, english in held_out.values():
        assert 100 <= len(foreign) == len(set(foreign)) <= 150
        assert len(set(english)) == len(english)


def test_all_text_is_normalized(sample_set, held_out):
    texts = [*sample_set.sentences(), *(t for sides in held_out.values() for s in sides for t in s)]
    assert all(unicodedata.is_normalized("NFC", text) for text in texts)


def test_few_tokens_of_the_sample_are_unknown(sample_groups, vocabulary):
    texts = [text for group in sample_groups for text in group.translations]
    batch = vocabulary.encode(texts, 64)
    unknown = (batch["token_ids"] == vocabulary.unknown_id).sum() / batch["padding_mask"].sum()
    assert unknown < 0.005
    assert 12_000 <= vocabulary.size <= 16_000


def test_attribution_names_authors_license_and_teacher():
    text = (sample_folder() / "ATTRIBUTION.md").read_text("utf-8")
    for part in ("tatoeba.org", "CC BY 2.0 FR", "manythings.org/anki", "OPUS", "Apache-2.0"):
        assert part in text


@pytest.mark.parametrize("name", ["distillation_set/manifest.json", "vocabulary/vocabulary.json"])
def test_sample_files_are_listed_with_their_hashes(name):
    index = sample_folder() / name
    listed = index.read_text("utf-8")
    for path in index.parent.iterdir():
        if path != index:
            assert hashlib.sha256(path.read_bytes()).hexdigest() in listed
