"""Training batches: what is drawn, how often, and how it is padded."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from kdkeras.data import write_distillation_set
from kdkeras.data.pipeline import PipelineConfig, copies_by_language
from kdkeras.errors import InputError

B = 32


@pytest.fixture(scope="module")
def groups(sample_groups):
    return sample_groups[:400]


@pytest.fixture(scope="module")
def dataset(groups, sample_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "set"
    return write_distillation_set(groups, sample_teacher, folder, groups_per_shard=100)


@pytest.fixture(params=["unigram", "wordpiece"], ids=["sentencepiece", "wordpiece"])
def either(request):
    return request.getfixturevalue(request.param)


def rows(batch, side):
    """The unpadded ids of one side, as tuples."""
    ids = batch[0][f"{side}_token_ids"].numpy()
    mask = batch[0][f"{side}_padding_mask"].numpy()
    return [tuple(row[keep == 1].tolist()) for row, keep in zip(ids, mask, strict=True)]


def encoded(vocabulary, texts, sequence_length=64):
    batch = vocabulary.encode(texts, sequence_length)
    pairs = zip(batch["token_ids"], batch["padding_mask"], strict=True)
    return [tuple(row[keep == 1].tolist()) for row, keep in pairs]


def drawn(batches):
    return [
        pair
        for batch in batches
        for pair in zip(rows(batch, "source"), rows(batch, "translation"), strict=True)
    ]


def all_pairs(groups, vocabulary, sequence_length=64):
    """(source ids, translation ids) of every pair, with the language."""
    sources = [group.source for group in groups for _ in group.languages]
    translations = [text for group in groups for text in group.translations]
    languages = [language for group in groups for language in group.languages]
    ids = zip(
        encoded(vocabulary, sources, sequence_length),
        encoded(vocabulary, translations, sequence_length),
        strict=True,
    )
    return list(zip(ids, languages, strict=True))


def test_batches_have_the_documented_form(dataset, vocabulary):
    x, y = next(iter(dataset.batches(B, vocabulary)))
    length = x["source_token_ids"].shape[1]
    for side in ("source", "translation"):
        for name in ("token_ids", "padding_mask"):
            assert x[f"{side}_{name}"].shape == (B, length)
            assert x[f"{side}_{name}"].dtype.name == "int32"
    assert (x["source_id"].shape, x["source_id"].dtype.name) == ((B,), "int64")
    assert (y["embedding"].shape, y["embedding"].dtype.name) == ((B, 384), "float32")


def test_batch_dimension_is_static(dataset, vocabulary):
    x, y = dataset.batches(B, vocabulary).element_spec
    assert x["source_token_ids"].shape.as_list() == [B, None]
    assert y["embedding"].shape.as_list() == [B, 384]
    x, _ = dataset.batches(B, vocabulary, sequence_length=24, bucket_boundaries=[24]).element_spec
    assert x["translation_padding_mask"].shape.as_list() == [B, 24]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_pass_has_exactly_the_promised_batches(dataset, vocabulary, temperature):
    batches = dataset.batches(B, vocabulary, language_temperature=temperature)
    assert int(batches.cardinality()) == dataset.num_pairs // B
    for _ in range(2):
        assert sum(1 for _ in batches) == dataset.num_pairs // B


def test_ids_equal_the_vocabularys_encode(dataset, groups, either):
    known = {pair for pair, _ in all_pairs(groups, either)}
    assert set(drawn(dataset.batches(B, either))) <= known


def test_truncated_ids_equal_the_vocabularys_encode(dataset, groups, either):
    known = {pair for pair, _ in all_pairs(groups, either, 6)}
    batches = dataset.batches(B, either, sequence_length=6)
    assert set(drawn(batches)) <= known
    assert {batch[0]["source_token_ids"].shape[1] for batch in batches} == {6}


def test_full_temperature_draws_every_pair_once(dataset, groups, vocabulary):
    expected = Counter(pair for pair, _ in all_pairs(groups, vocabulary))
    found = Counter(drawn(dataset.batches(1, vocabulary, language_temperature=1.0)))
    assert found == expected


def test_every_pair_is_reached_at_low_temperature(dataset, groups, vocabulary):
    batches = dataset.batches(B, vocabulary, language_temperature=0.3)
    found = set()
    for _ in range(12):
        found.update(drawn(batches))
    assert found == {pair for pair, _ in all_pairs(groups, vocabulary)}


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_languages_are_drawn_by_temperature(dataset, groups, vocabulary, temperature):
    owners = defaultdict(set)
    for pair, language in all_pairs(groups, vocabulary):
        owners[pair].add(language)
    batches = dataset.batches(B, vocabulary, language_temperature=temperature)
    found = Counter()
    for _ in range(4):
        for pair in drawn(batches):
            # A translation that is spelled alike in two languages counts half for each.
            for language in owners[pair]:
                found[language] += 1 / len(owners[pair])
    weights = {language: n**temperature for language, n in dataset.counts.items()}
    for language, weight in weights.items():
        share = found[language] / sum(found.values())
        expected = weight / sum(weights.values())
        assert share == pytest.approx(expected, rel=0.08), language


def test_copies_follow_the_formula():
    # n = 100 and 4 at 0.5: weights 10 and 2, so of 104 draws 86.67 and 17.33.
    copies = copies_by_language({"de": 100, "th": 4}, 0.5)
    assert copies["de"] * 100 == pytest.approx(104 * 10 / 12)
    assert copies["th"] * 4 == pytest.approx(104 * 2 / 12)


def test_teacher_vector_belongs_to_its_source(dataset, groups, vocabulary, sample_teacher):
    vectors = defaultdict(list)
    sources = [group.source for group in groups]
    for ids, vector in zip(
        encoded(vocabulary, sources), sample_teacher.encode(sources), strict=True
    ):
        vectors[ids].append(vector)
    for batch in dataset.batches(B, vocabulary):
        for ids, vector in zip(rows(batch, "source"), batch[1]["embedding"].numpy(), strict=True):
            assert any(np.array_equal(vector, known) for known in vectors[ids])


def test_source_id_is_equal_for_equal_sources_only(dataset, groups, vocabulary):
    names = defaultdict(set)
    for batch in dataset.batches(B, vocabulary):
        vectors = batch[1]["embedding"].numpy()
        for identity, vector in zip(batch[0]["source_id"].numpy(), vectors, strict=True):
            names[int(identity)].add(vector.tobytes())
    assert {len(vectors) for vectors in names.values()} == {1}
    assert len(names) > 0.95 * len(groups)


def test_both_sides_share_the_smallest_bucket_that_holds_them(dataset, either):
    boundaries = [8, 11, 14, 40]
    lengths = Counter()
    for batch in dataset.batches(B, either, sequence_length=40, bucket_boundaries=boundaries):
        longest = max(len(row) for side in ("source", "translation") for row in rows(batch, side))
        length = batch[0]["source_token_ids"].shape[1]
        assert length == min(limit for limit in boundaries if limit >= longest)
        assert length == batch[0]["translation_token_ids"].shape[1]
        lengths[length] += 1
    assert len(lengths) >= 3


def test_padding_is_the_pad_id_behind_the_text(dataset, vocabulary):
    for batch in dataset.batches(B, vocabulary):
        for side in ("source", "translation"):
            ids = batch[0][f"{side}_token_ids"].numpy()
            mask = batch[0][f"{side}_padding_mask"].numpy()
            assert (ids[mask == 0] == 0).all()
            assert (ids[mask == 1] != 0).all()
            assert (np.diff(mask, axis=1) <= 0).all()


def test_default_buckets_double_up_to_the_sequence_length():
    assert PipelineConfig(batch_size=1).buckets == (8, 16, 32, 64)
    assert PipelineConfig(batch_size=1, sequence_length=24).buckets == (8, 16, 24)
    assert PipelineConfig(batch_size=1, bucket_boundaries=(100,)).buckets == (64,)


def signature(batches):
    return [(*map(tuple, batch[0]["source_id"].numpy().reshape(1, -1)),) for batch in batches]


def test_same_seed_gives_identical_batches(dataset, vocabulary):
    first, second = (
        dataset.batches(B, vocabulary, seed=3, shuffle_buffer_size=500) for _ in range(2)
    )
    # Two passes each, with everything in them.
    for _ in range(2):
        for one, other in zip(first, second, strict=True):
            assert drawn([one]) == drawn([other])
            np.testing.assert_array_equal(one[1]["embedding"], other[1]["embedding"])


def test_passes_and_seeds_differ(dataset, vocabulary):
    batches = dataset.batches(B, vocabulary, seed=3)
    one, two = signature(batches), signature(batches)
    assert one != two
    assert signature(dataset.batches(B, vocabulary, seed=4)) != one


def test_workers_read_files_of_their_own(dataset, groups, vocabulary):
    owner = {}
    for number, ids in enumerate(encoded(vocabulary, [group.source for group in groups])):
        owner.setdefault(ids, set()).add(number // 100)  # 100 groups a shard, in their order.
    files = []
    for worker in range(2):
        options = {"language_temperature": 1.0, "shuffle_buffer_size": 1, "seed": 5}
        batches = dataset.batches(4, vocabulary, worker=worker, workers=2, **options)
        # Of a pass of 263 batches: no worker is in its next one yet.
        some = drawn(batches.take(180))
        known = [owner[source] for source, _ in some]
        files.append(set.union(*(numbers for numbers in known if len(numbers) == 1)))
    assert files[0].isdisjoint(files[1]) and len(files[0]) == len(files[1]) == 2


def test_workers_together_draw_about_every_pair_once(dataset, groups, vocabulary):
    found = Counter()
    for worker in range(2):
        arguments = {"language_temperature": 1.0, "worker": worker, "workers": 2}
        batches = dataset.batches(16, vocabulary, **arguments)
        assert int(batches.cardinality()) == dataset.num_pairs // 32
        found.update(drawn(batches))
    expected = Counter(pair for pair, _ in all_pairs(groups, vocabulary))
    # The shards hold 100 groups each, but not the same number of pairs.
    assert sum((expected & found).values()) > 0.9 * dataset.num_pairs


def test_workers_order_follows_from_the_seed(dataset, vocabulary):
    for worker in range(2):
        one, two = (
            dataset.batches(B, vocabulary, seed=3, worker=worker, workers=2) for _ in range(2)
        )
        for _ in range(2):
            assert drawn(one) == drawn(two)


def test_order_does_not_follow_the_length(dataset, vocabulary):
    lengths = [batch[0]["source_token_ids"].shape[1] for batch in dataset.batches(B, vocabulary)]
    assert lengths != sorted(lengths)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 10**6}, "batch_size=1000000"),
        ({"sequence_length": 2}, "sequence_length=2"),
        ({"language_temperature": 1.5}, "language_temperature=1.5"),
        ({"shuffle_buffer_size": 0}, "shuffle_buffer_size=0"),
        ({"bucket_boundaries": [16, 8]}, r"bucket_boundaries=\(16, 8\)"),
        ({"bucket_boundaries": []}, r"bucket_boundaries=\(\)"),
        ({"worker": 2, "workers": 2}, "`worker` must be from 0 to 1. Received: worker=2"),
        ({"workers": 5}, "5 workers, 4 shards"),
    ],
)
def test_argument_out_of_range_is_refused(dataset, vocabulary, arguments, name):
    with pytest.raises(InputError, match=name):
        dataset.batches(**{"batch_size": B, "vocabulary": vocabulary, **arguments})
