"""Training batches: what is drawn, how often, and how it is padded."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from kdkeras.data import write_distillation_set
from kdkeras.data.pipeline import PipelineConfig, copies_by_language
from kdkeras.errors import InputError

B, GROUPS_PER_SHARD = 32, 60


@pytest.fixture(scope="module")
def groups(sample_groups):
    return sample_groups[: 4 * GROUPS_PER_SHARD]


@pytest.fixture(scope="module")
def dataset(groups, sample_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "set"
    return write_distillation_set(groups, sample_teacher, folder, groups_per_shard=GROUPS_PER_SHARD)


@pytest.fixture(scope="module")
def epoch(dataset, vocabulary):
    """The batches of one epoch with the default options."""
    return list(dataset.batches(B, vocabulary))


@pytest.fixture(params=["unigram", "wordpiece"], ids=["sentencepiece", "wordpiece"])
def either(request):
    return request.getfixturevalue(request.param)


def rows(batch, side):
    """Returns the ids of one side without padding, as tuples."""
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
    """Returns ((source ids, translation ids), language) of every pair."""
    sources = [group.source for group in groups for _ in group.languages]
    translations = [text for group in groups for text in group.translations]
    languages = [language for group in groups for language in group.languages]
    ids = zip(
        encoded(vocabulary, sources, sequence_length),
        encoded(vocabulary, translations, sequence_length),
        strict=True,
    )
    return list(zip(ids, languages, strict=True))


def test_batches_have_the_documented_shapes(epoch):
    x, y = epoch[0]
    length = x["source_token_ids"].shape[1]
    for side in ("source", "translation"):
        for name in ("token_ids", "padding_mask"):
            assert x[f"{side}_{name}"].shape == (B, length)
            assert x[f"{side}_{name}"].dtype.name == "int32"
    assert (x["source_id"].shape, x["source_id"].dtype.name) == ((B,), "int64")
    assert (y["embedding"].shape, y["embedding"].dtype.name) == ((B, 384), "float32")


def test_batch_size_is_static(dataset, vocabulary):
    x, y = dataset.batches(B, vocabulary).element_spec
    assert x["source_token_ids"].shape.as_list() == [B, None]
    assert y["embedding"].shape.as_list() == [B, 384]
    x, _ = dataset.batches(B, vocabulary, sequence_length=24, bucket_boundaries=[24]).element_spec
    assert x["translation_padding_mask"].shape.as_list() == [B, 24]


@pytest.mark.parametrize("sequence_length", [64, 6])
def test_temperature_one_draws_every_pair_once_as_the_vocabulary_encodes_it(
    dataset, groups, either, sequence_length
):
    options = {"language_temperature": 1.0, "sequence_length": sequence_length}
    (batch,) = dataset.batches(dataset.num_pairs, either, **options)
    expected = Counter(pair for pair, _ in all_pairs(groups, either, sequence_length))
    assert Counter(drawn([batch])) == expected
    if sequence_length == 6:
        assert batch[0]["source_token_ids"].shape[1] == 6


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_languages_are_drawn_by_temperature(dataset, groups, vocabulary, temperature):
    owners = defaultdict(set)
    for pair, language in all_pairs(groups, vocabulary):
        owners[pair].add(language)
    batches = dataset.batches(B, vocabulary, language_temperature=temperature)
    assert int(batches.cardinality()) == dataset.num_pairs // B
    found = Counter()
    for _ in range(10 if temperature == 0.5 else 4):
        pairs = drawn(batches)
        assert len(pairs) == B * (dataset.num_pairs // B)
        found.update(pairs)
    if temperature == 0.5:
        assert set(found) == set(owners)
    shares = Counter()
    for pair, count in found.items():
        # A translation with the same spelling in two languages counts half for each.
        for language in owners[pair]:
            shares[language] += count / len(owners[pair]) / found.total()
    weights = {language: n**temperature for language, n in dataset.counts.items()}
    for language, weight in weights.items():
        expected = weight / sum(weights.values())
        assert shares[language] == pytest.approx(expected, rel=0.08), language


def test_copies_follow_the_formula():
    # n = 100 and 4 at 0.5: weights 10 and 2, so of 104 draws 86.67 and 17.33.
    copies = copies_by_language({"de": 100, "th": 4}, 0.5)
    assert copies["de"] * 100 == pytest.approx(104 * 10 / 12)
    assert copies["th"] * 4 == pytest.approx(104 * 2 / 12)


def test_teacher_embedding_belongs_to_its_source(epoch, groups, vocabulary, sample_teacher):
    vectors = defaultdict(list)
    sources = [group.source for group in groups]
    for ids, vector in zip(
        encoded(vocabulary, sources), sample_teacher.encode(sources), strict=True
    ):
        vectors[ids].append(vector)
    for batch in epoch:
        for ids, vector in zip(rows(batch, "source"), batch[1]["embedding"].numpy(), strict=True):
            assert any(np.array_equal(vector, known) for known in vectors[ids])


def test_source_id_is_equal_for_equal_sources_only(epoch, groups):
    found = {
        (int(identity), vector.tobytes())
        for x, y in epoch
        for identity, vector in zip(x["source_id"].numpy(), y["embedding"].numpy(), strict=True)
    }
    identities, vectors = (set(part) for part in zip(*found, strict=True))
    assert len(found) == len(identities) == len(vectors)
    assert len(found) > 0.95 * len(groups)


def test_both_sides_share_the_smallest_bucket_that_fits(dataset, vocabulary):
    boundaries = [8, 11, 14, 40]
    lengths = set()
    for batch in dataset.batches(B, vocabulary, sequence_length=40, bucket_boundaries=boundaries):
        longest = max(len(row) for side in ("source", "translation") for row in rows(batch, side))
        length = batch[0]["source_token_ids"].shape[1]
        assert length == min(limit for limit in boundaries if limit >= longest)
        assert length == batch[0]["translation_token_ids"].shape[1]
        lengths.add(length)
    assert len(lengths) >= 3


def test_padding_is_the_pad_id_after_the_text(epoch):
    for batch in epoch:
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


def test_seed_determines_all_epochs_and_every_epoch_differs(dataset, vocabulary):
    def two_epochs(seed):
        batches = dataset.batches(B, vocabulary, seed=seed, shuffle_buffer_size=500)
        return [list(batches) for _ in range(2)]

    (one, two), (one_again, two_again) = two_epochs(3), two_epochs(3)
    for batch, again in zip([*one, *two], [*one_again, *two_again], strict=True):
        assert drawn([batch]) == drawn([again])
        np.testing.assert_array_equal(batch[1]["embedding"], again[1]["embedding"])
    assert drawn(one) != drawn(two)
    assert drawn(one) != drawn(two_epochs(4)[0])


def test_seed_determines_the_batches_of_a_worker(dataset, vocabulary):
    one, two = (dataset.batches(B, vocabulary, seed=3, worker=1, workers=2) for _ in range(2))
    for _ in range(2):
        assert drawn(one) == drawn(two)


def test_workers_read_disjoint_files(dataset, groups, vocabulary):
    shard_of = defaultdict(set)
    stored = [group for group, _ in dataset.records()]
    for number, ids in enumerate(encoded(vocabulary, [group.source for group in stored])):
        shard_of[ids].add(number // GROUPS_PER_SHARD)
    files = []
    for worker in range(2):
        options = {"language_temperature": 1.0, "shuffle_buffer_size": 1, "seed": 5}
        batches = dataset.batches(4, vocabulary, worker=worker, workers=2, **options)
        # Of the first epoch only, in which no worker has reached the next one.
        known = [shard_of[source] for source, _ in drawn(batches.take(100))]
        files.append(set.union(*(numbers for numbers in known if len(numbers) == 1)))
    assert files[0].isdisjoint(files[1]) and len(files[0]) == len(files[1]) == 2


def test_workers_read_other_files_in_later_epochs(dataset, groups, vocabulary):
    batches = dataset.batches(B, vocabulary, worker=0, workers=2, language_temperature=1.0)
    sources = {source for _ in range(4) for source, _ in drawn(batches)}
    assert len(sources) > 0.7 * len(groups)  # half of them are in the files of one epoch


def test_workers_together_draw_most_pairs_once(dataset, groups, vocabulary):
    found = Counter()
    for worker in range(2):
        arguments = {"language_temperature": 1.0, "worker": worker, "workers": 2}
        batches = dataset.batches(16, vocabulary, **arguments)
        assert int(batches.cardinality()) == dataset.num_pairs // 32
        found.update(drawn(batches))
    expected = Counter(pair for pair, _ in all_pairs(groups, vocabulary))
    # The shards have equal numbers of groups, but not of pairs.
    assert sum((expected & found).values()) > 0.9 * dataset.num_pairs


def test_batches_are_not_ordered_by_length(epoch):
    lengths = [batch[0]["source_token_ids"].shape[1] for batch in epoch]
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
def test_argument_out_of_range_is_rejected(dataset, vocabulary, arguments, name):
    with pytest.raises(InputError, match=name):
        dataset.batches(**{"batch_size": B, "vocabulary": vocabulary, **arguments})
