"""A pruned student gives the same embeddings for texts whose tokens were kept."""

from __future__ import annotations

import numpy as np
import pytest
import sentencepiece
import tokenizers
from contracts import assert_one_line

import kdkeras
from kdkeras.compression import prune_vocabulary
from kdkeras.compression.pruning import choose_tokens
from kdkeras.data.mixed import script
from kdkeras.errors import InputError
from kdkeras.students import StaticStudent, TransformerStudent
from tests.compression.conftest import LANGUAGES

KINDS = ["wordpiece", "unigram", "mixed"]
SIZES = {
    StaticStudent: {"embedding_dim": 24},
    TransformerStudent: {
        "num_layers": 1,
        "hidden_dim": 16,
        "num_heads": 2,
        "intermediate_dim": 24,
        "table_rank": 8,
    },
}


def pieces(vocabulary, texts):
    return [[vocabulary.tokens[i] for i in row] for row in vocabulary.tokenize(texts).to_list()]


@pytest.fixture(scope="module")
def own_sentences(sample_set):
    return list(sample_set.sentences(languages=LANGUAGES))


@pytest.fixture(scope="module", params=KINDS)
def pruned(request, own_sentences):
    """Vocabulary, a student of each class, and both after pruning."""
    vocabulary = request.getfixturevalue(request.param)
    students = [
        kind(vocabulary.size, 12, vocabulary=vocabulary, sequence_length=64, **sizes)
        for kind, sizes in SIZES.items()
    ]
    return [(student, prune_vocabulary(student, own_sentences)) for student in students]


def test_held_out_sentences_of_kept_tokens_are_bit_identical(pruned, held_out):
    for student, small in pruned:
        old, new = student.vocabulary, small.vocabulary
        kept = set(new.tokens) - {old.tokens[old.unknown_id]}
        assert new.size < 0.75 * old.size
        for language in LANGUAGES:
            texts = held_out[language][0]
            before, after = pieces(old, texts), pieces(new, texts)
            whole = [i for i, row in enumerate(before) if kept.issuperset(row)]
            assert [after[i] for i in whole] == [before[i] for i in whole]
            same = [texts[i] for i, row in enumerate(before) if row == after[i]]
            assert len(same) >= 0.9 * len(texts), language
            np.testing.assert_array_equal(small.encode(same), student.encode(same))


def test_the_given_sentences_are_tokenized_as_before(pruned, own_sentences):
    student, small = pruned[0]
    old, new = student.vocabulary, small.vocabulary
    sample = own_sentences[::7]
    pairs = zip(pieces(old, sample), pieces(new, sample), strict=True)
    unknown = old.tokens[old.unknown_id]
    assert all(before == after for before, after in pairs if unknown not in before)


def test_kept_tokens_have_the_same_vectors(pruned):
    for student, small in pruned:
        rows = [student.vocabulary.tokens.index(token) for token in small.vocabulary.tokens]
        np.testing.assert_array_equal(
            small.token_embedding.table, np.asarray(student.token_embedding.table)[rows]
        )


def test_all_letters_of_the_scripts_in_use_are_kept_and_other_scripts_removed(pruned):
    student, small = pruned[0]
    old, kept = student.vocabulary, set(small.vocabulary.tokens)
    for token in old.tokens:
        text = old.surface(token)[0]
        if len(text) == 1 and script(text) in ("LATIN", "HAN"):
            assert token in kept
        elif script(text) in ("HANGUL", "THAI", "HEBREW"):
            assert token not in kept


def test_other_runtimes_tokenize_with_the_pruned_vocabulary_alike(pruned, sentences):
    vocabulary = pruned[0][1].vocabulary
    if vocabulary.kind == "wordpiece":
        reader = tokenizers.Tokenizer.from_str(vocabulary.files["tokenizer.json"].decode())
        expected = [encoding.ids for encoding in reader.encode_batch(sentences)]
    else:
        model = vocabulary.files["sentencepiece.model"]
        expected = sentencepiece.SentencePieceProcessor(model_proto=model).encode(sentences)
    assert vocabulary.tokenize(sentences).to_list() == expected


def test_the_piece_with_the_lowest_score_is_essential(mixed):
    # It determines the cost of an unknown character. Otherwise "unknown + piece" could become
    # cheaper than a longer piece with that character.
    model = sentencepiece.SentencePieceProcessor(model_proto=mixed.files["sentencepiece.model"])
    scores = [model.get_score(i) for i in range(mixed.size)]
    least = min(range(2, mixed.size), key=scores.__getitem__)
    assert least in mixed.essential_ids and {0, 1} <= set(mixed.essential_ids)


def test_min_count_and_size_keep_the_most_frequent_tokens(vocabulary, counts):
    often = choose_tokens(vocabulary, counts, min_count=5)
    gone = sorted(set(range(vocabulary.size)).difference(often))
    assert counts[gone].max() == 4
    small = choose_tokens(vocabulary, counts, size=4500)
    assert len(small) == 4500
    longer = {i for i, t in enumerate(vocabulary.tokens) if len(vocabulary.surface(t)[0]) > 1}
    longer -= set(vocabulary.essential_ids)
    assert counts[sorted(longer & set(small))].min() >= counts[sorted(longer - set(small))].max()


def test_a_pruned_student_is_saved(fitted, sample_set, texts, tmp_path):
    small = prune_vocabulary(fitted, sample_set.sentences(languages=LANGUAGES))
    small.save(tmp_path / "small.keras")
    copy = kdkeras.load(tmp_path / "small.keras")
    np.testing.assert_array_equal(copy.encode(texts), small.encode(texts))


def test_no_sentence_a_string_and_no_vocabulary_are_refused(fitted):
    with pytest.raises(InputError) as error:
        prune_vocabulary(fitted, [])
    assert_one_line(str(error.value), "Received: none")
    with pytest.raises(InputError) as error:
        prune_vocabulary(fitted, "Guten Morgen")
    assert_one_line(str(error.value), "list of strings", "[text]")
    with pytest.raises(InputError) as error:
        prune_vocabulary(StaticStudent(20, 5, 4), ["Guten Morgen"])
    assert_one_line(str(error.value), "without one", "vocabulary=")


@pytest.mark.parametrize(
    ("arguments", "said"), [({"min_count": 0}, "min_count=0"), ({"size": 10}, "size=10")]
)
def test_numbers_out_of_range_are_refused(fitted, held_out, arguments, said):
    with pytest.raises(InputError) as error:
        prune_vocabulary(fitted, held_out["de"][0], **arguments)
    assert_one_line(str(error.value), said)


@pytest.mark.parametrize(("ids", "said"), [([0, 1, 99_999], "99999"), ([5, 6], "without [0, 1")])
def test_a_subset_without_the_essential_or_with_unknown_ids_is_refused(vocabulary, ids, said):
    with pytest.raises(InputError) as error:
        vocabulary.subset(ids)
    assert_one_line(str(error.value), said, "essential_ids")


def test_a_bpe_model_is_refused(sentences):
    import io

    from kdkeras.data.sentencepiece import SentencePieceVocabulary

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, vocab_size=3000,
        model_type="bpe", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, minloglevel=3,
    )  # fmt: skip
    merges = SentencePieceVocabulary({"sentencepiece.model": written.getvalue()})
    with pytest.raises(InputError) as error:
        merges.subset(range(merges.size))
    assert_one_line(str(error.value), "BPE", "train_vocabulary()")


def test_sentences_of_languages_are_their_translations_and_all_sources(sample_groups, sample_set):
    found = list(sample_set.sentences(languages=["de"]))
    german = [
        t
        for g in sample_groups
        for t, c in zip(g.translations, g.languages, strict=True)
        if c == "de"
    ]
    assert sorted(found) == sorted([*german, *(group.source for group in sample_groups)])
    with pytest.raises(InputError) as error:
        list(sample_set.sentences(languages=["de", "xx"]))
    assert_one_line(str(error.value), "['xx']", "'de'", "'ja'")
