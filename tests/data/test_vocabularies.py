"""All kinds of vocabularies: training, tokenization, saving and loading."""

from __future__ import annotations

import json
import unicodedata

import keras
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
import tokenizers

from kdkeras.data import load_vocabulary, train_vocabulary, write_distillation_set
from kdkeras.data.vocabularies import sample_sentences
from kdkeras.errors import InputError

EDGE_CASES = ["", " ", "🦠🌡🧼🤧😷", "👍🏽", "e\u0301", "한국어", "\u200b", "ŒUVRE", "½ ﬁ ①"]


@pytest.fixture(params=["mixed", "unigram", "wordpiece"])
def either(request):
    return request.getfixturevalue(request.param)


def ids_of(vocabulary, texts):
    return vocabulary.tokenize(tf.constant(texts)).to_list()


def test_wordpiece_ids_equal_hugging_face(wordpiece, sentences):
    assert len(sentences) >= 2000
    texts = sentences + EDGE_CASES
    reference = tokenizers.Tokenizer.from_str(wordpiece.files["tokenizer.json"].decode())
    assert ids_of(wordpiece, texts) == [e.ids for e in reference.encode_batch(texts)]


@pytest.mark.parametrize("name", ["unigram", "mixed"])
def test_sentencepiece_ids_equal_sentencepiece(name, sentences, request):
    vocabulary = request.getfixturevalue(name)
    texts = sentences + EDGE_CASES
    reference = sentencepiece.SentencePieceProcessor(
        model_proto=vocabulary.files["sentencepiece.model"]
    )
    assert ids_of(vocabulary, texts) == reference.encode(texts)


def test_wordpiece_splits_at_the_same_characters_as_hugging_face(wordpiece):
    # The regular expressions of `tokenizers` know newer Unicode versions than RE2.
    codes = (*range(1, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200))
    words = [f"a{chr(code)}b" for code in codes]
    texts = [" ".join(words[start : start + 64]) for start in range(0, len(words), 64)]
    reference = tokenizers.Tokenizer.from_str(wordpiece.files["tokenizer.json"].decode())
    expected = [e.ids for e in reference.encode_batch_fast(texts)]
    assert ids_of(wordpiece, texts) == expected


def test_few_tokens_are_unknown_in_every_script(either, sentences_by_language):
    languages = ("en", "de", "ru", "ar", "hi", "ja", "zh", "ko", "tr", "vi")
    for language in languages:
        ids = np.concatenate(ids_of(either, sentences_by_language[language]))
        assert np.mean(ids == either.unknown_id) < 0.05, language


def test_word_over_a_hundred_bytes_is_unknown_everywhere(wordpiece, sentences_by_language):
    word = max(" ".join(sentences_by_language["th"]).split(), key=len)
    assert len(word.encode()) > 100 > len(word)
    reference = tokenizers.Tokenizer.from_str(wordpiece.files["tokenizer.json"].decode())
    assert ids_of(wordpiece, [word])[0][1:-1] == [wordpiece.unknown_id]
    assert reference.encode(word).ids[1:-1] == [wordpiece.unknown_id]


def test_graph_and_dataset_and_encode_agree(either, sentences):
    texts = sentences[::20] + EDGE_CASES
    eager = ids_of(either, texts)
    graph = tf.function(either.tokenize)(tf.constant(texts)).to_list()
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(len(texts)).map(either.tokenize)
    encoded = either.encode(texts, sequence_length=10_000)
    rows = [
        row[mask == 1].tolist()
        for row, mask in zip(encoded["token_ids"], encoded["padding_mask"], strict=True)
    ]
    assert eager == graph == next(iter(dataset)).to_list() == rows


def test_vocabulary_survives_set_random_seed(either, sentences):
    # `set_random_seed` destroys TensorFlow's eager kernels and their resources.
    dataset = tf.data.Dataset.from_tensor_slices(sentences[:8]).batch(8).map(either.tokenize)
    before = either.encode(sentences[:8])["token_ids"]
    keras.utils.set_random_seed(0)
    np.testing.assert_array_equal(either.encode(sentences[:8])["token_ids"], before)
    np.testing.assert_array_equal(next(iter(dataset)).to_tensor(0), before)


def test_reloaded_vocabulary_gives_the_same_ids(either, sentences, tmp_path):
    folder = either.save(tmp_path / "vocabulary")
    reloaded = load_vocabulary(folder)
    assert reloaded.fingerprint == either.fingerprint
    assert (reloaded.tokens, reloaded.kind) == (either.tokens, either.kind)
    assert ids_of(reloaded, sentences[::10]) == ids_of(either, sentences[::10])
    assert json.loads((folder / "vocabulary.json").read_text())["size"] == either.size


def test_wordpiece_lower_cases_ascii_only(wordpiece):
    assert ids_of(wordpiece, ["TOM"]) == ids_of(wordpiece, ["tom"])
    assert ids_of(wordpiece, ["É"]) != ids_of(wordpiece, ["é"])


def test_wordpiece_splits_ideographs_one_by_one(wordpiece):
    ids = ids_of(wordpiece, ["我們知道"])[0]
    assert [wordpiece.tokens[i] for i in ids] == ["[CLS]", *"我們知道", "[SEP]"]


def test_sentencepiece_shares_words_across_punctuation_and_case(unigram):
    tom = unigram.tokens.index("▁tom")
    for text in ("tom", "C'EST TOM'S", "(tom)", "« Tom! »"):
        assert tom in ids_of(unigram, [text])[0], text


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_sentencepiece_ids_do_not_depend_on_unicode_form(unigram, sentences, form):
    other = [unicodedata.normalize(form, text) for text in sentences]
    assert ids_of(unigram, other) == ids_of(unigram, sentences)


def test_padding_id_is_zero_and_mask_marks_real_tokens(either):
    encoded = either.encode(["Tom", "Tom wants to know what we're doing here."])
    assert either.pad_id == 0
    lengths = encoded["padding_mask"].sum(axis=1)
    assert lengths[0] < lengths[1] == encoded["token_ids"].shape[1]
    assert (encoded["token_ids"][0, lengths[0] :] == 0).all()
    assert encoded["token_ids"].dtype == encoded["padding_mask"].dtype == np.int32


def test_truncation_keeps_the_beginning(unigram, sentences):
    longest = max(sentences, key=len)
    full = ids_of(unigram, [longest])[0]
    assert unigram.encode([longest], 7)["token_ids"].tolist() == [full[:7]]


def test_truncated_wordpiece_keeps_its_separator(wordpiece, sentences):
    longest = max(sentences, key=len)
    full = ids_of(wordpiece, [longest])[0]
    row = wordpiece.encode([longest], 7)["token_ids"][0].tolist()
    assert row == [*full[:6], full[-1]]


def test_no_texts_give_an_empty_batch(either):
    assert either.encode([])["token_ids"].shape[0] == 0


def test_single_string_is_rejected(unigram):
    with pytest.raises(InputError, match=r"must be a list of strings. Received: 'Tom'"):
        unigram.encode("Tom")


def test_surface_is_the_text_and_whether_it_starts_a_word(unigram, wordpiece):
    assert unigram.surface("▁tom") == ("tom", True)
    assert unigram.surface("ing") == ("ing", False)
    assert unigram.surface("<pad>") == unigram.surface("<unk>") == ("", False)
    assert wordpiece.surface("tom") == ("tom", True)
    assert wordpiece.surface("##ing") == ("ing", False)
    assert wordpiece.surface("[CLS]") == ("", False)


def test_training_is_deterministic(sentences):
    for kind, name in (("mixed", "sentencepiece"), ("wordpiece", "wordpiece")):
        first, second = (train_vocabulary(sentences, 4000, kind) for _ in range(2))
        assert first.files == second.files
        assert (first.size, first.kind) == (4000, name)


def test_distillation_set_is_weighted_by_language_and_progress_is_reported(
    sample_groups, sample_teacher, tmp_path
):
    dataset = write_distillation_set(sample_groups[:300], sample_teacher, tmp_path / "set")
    calls = []
    default = train_vocabulary(dataset, 2500, progress=lambda *call: calls.append(call))
    sentences = dataset.sentences(language_temperature=0.7)
    assert default.files == train_vocabulary(sentences, 2500, "mixed").files
    assert [call[1:] for call in calls] == [(0, 2), (1, 2), (2, 2)]
    assert {task.partition(",")[0] for task, _, _ in calls} == {"Training a vocabulary"}


def test_of_many_sentences_a_uniform_sample_is_drawn(sentences):
    sample = sample_sentences(iter(sentences), seed=1, max_sentences=500)
    places = {text: number for number, text in enumerate(sentences)}
    numbers = [places[text] for text in sample]
    assert len(sample) == 500 and numbers == sorted(numbers)
    assert 0.4 < np.mean(numbers) / len(sentences) < 0.6
    assert sample != sample_sentences(iter(sentences), seed=2, max_sentences=500)


@pytest.mark.parametrize("kind", ["mixed", "sentencepiece", "wordpiece"])
def test_size_above_the_maximum_becomes_the_largest_possible_with_a_warning(kind, sentences):
    with pytest.warns(UserWarning, match=r"too few .* 50,000 tokens: it has [\d,]+, the largest"):
        vocabulary = train_vocabulary(sentences[:200], 50_000, kind)
    assert 500 < vocabulary.size < 50_000
    again = train_vocabulary(sentences[:200], vocabulary.size, kind)
    assert again.fingerprint == vocabulary.fingerprint


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_size_below_the_alphabet_is_rejected(kind, sentences):
    with pytest.raises(InputError, match=r"Received: size=100, \d+ sentences\. The smallest"):
        train_vocabulary(sentences[:500], 100, kind)


def test_unknown_kind_invalid_size_and_blank_texts_are_rejected():
    with pytest.raises(InputError, match="kind='bpe'"):
        train_vocabulary(["Tom"], 100, "bpe")
    with pytest.raises(InputError, match="size=2"):
        train_vocabulary(["Tom"], 2)
    with pytest.raises(InputError, match="2 texts, all blank"):
        train_vocabulary(["", " "], 100)


def test_missing_file_is_named(either, tmp_path):
    folder = either.save(tmp_path / "vocabulary")
    (folder / either.required_files[0]).unlink()
    with pytest.raises(InputError, match=f"must contain `{either.required_files[0]}`"):
        load_vocabulary(folder)


def test_changed_file_is_named(either, tmp_path):
    folder = either.save(tmp_path / "vocabulary")
    path = folder / either.required_files[0]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match=f"{path.name} with SHA-256"):
        load_vocabulary(folder)


@pytest.mark.parametrize("index", ["", "{}", '{"kind": "bpe", "format": 1}', "[1]"])
def test_invalid_index_is_rejected(unigram, tmp_path, index):
    folder = unigram.save(tmp_path / "vocabulary")
    (folder / "vocabulary.json").write_text(index)
    with pytest.raises(InputError, match="must be the index of a kdkeras vocabulary"):
        load_vocabulary(folder)


def test_existing_folder_is_only_replaced_with_overwrite(unigram, tmp_path):
    unigram.save(tmp_path / "v")
    with pytest.raises(InputError, match="must not exist yet"):
        unigram.save(tmp_path / "v")
    unigram.save(tmp_path / "v", overwrite=True)
