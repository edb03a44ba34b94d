"""Writing a distillation set, also after an interruption."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdkeras.data import CachedTeacher, DistillationSet, write_distillation_set
from kdkeras.errors import InputError
from kdkeras.progress import no_progress

GROUPS, PER_SHARD = 200, 64

# Writes a copy of a set, slowly enough to be killed within a shard.
SLOW_WRITER = f"""
import sys, time
from kdkeras.data import CachedTeacher, DistillationSet, write_distillation_set
original = DistillationSet(sys.argv[1])
groups = [group for group, _ in original.records()]
def progress(task, done, total):
    print(done, flush=True)
    time.sleep(0.3)
write_distillation_set(
    groups, CachedTeacher(original), sys.argv[2], groups_per_shard={PER_SHARD}, batch_size=16,
    progress=progress,
)
"""


@pytest.fixture(scope="module")
def groups(sample_groups):
    return sample_groups[:GROUPS]


@pytest.fixture(scope="module")
def small_set(groups, sample_teacher, tmp_path_factory):
    """A set that was written without an interruption."""
    return write(groups, sample_teacher, tmp_path_factory.mktemp("targets") / "set")


def write(groups, teacher, folder, **arguments):
    return write_distillation_set(groups, teacher, folder, groups_per_shard=PER_SHARD, **arguments)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class CountingTeacher(CachedTeacher):
    """Counts the sentences that it encodes."""

    encoded = 0

    def encode(self, texts, batch_size=64, progress=no_progress):
        self.encoded += len(texts)
        return super().encode(texts, batch_size, progress)


class OtherTeacher(CachedTeacher):
    """The same embeddings with the name and fingerprint of another teacher."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.name, self.fingerprint = "other", "0" * 64


def test_set_contains_the_groups_and_their_embeddings(groups, sample_teacher, small_set):
    records = dict(small_set.records())
    assert set(records) == set(groups)
    expected = sample_teacher.encode([group.source for group in groups])
    np.testing.assert_array_equal([records[group] for group in groups], expected)


def test_manifest_describes_teacher_corpus_and_shards(groups, sample_teacher, small_set):
    dataset = small_set
    assert dataset.teacher == {
        "name": "all-MiniLM-L6-v2",
        "fingerprint": sample_teacher.fingerprint,
    }
    assert (dataset.num_groups, dataset.embedding_dim, dataset.normalized) == (GROUPS, 384, True)
    assert dataset.num_pairs == sum(len(group.translations) for group in groups)
    assert dataset.num_pairs == sum(dataset.counts.values())
    assert [shard["records"] for shard in dataset.manifest["shards"]] == [64, 64, 64, 8]
    assert dataset.manifest["dtype"] == "float16"
    assert not (dataset.folder / "manifest.partial.json").exists()


def test_files_depend_on_the_sentences_only(groups, sample_teacher, small_set, tmp_path):
    ordered = sorted(groups, key=lambda group: group.source)
    write(ordered, sample_teacher, tmp_path / "set")
    assert [group for group, _ in small_set.records()] != ordered
    assert contents(tmp_path / "set") == contents(small_set.folder)


def test_files_are_read_with_their_report(sample_teacher, tmp_path, groups):
    rows = [f"{g.source}\t{g.translations[0]}\n" for g in groups if g.languages[0] == "de"]
    path = tmp_path / "en-de.tsv"
    path.write_text("".join([*rows, "\tGeh.\n"]), "utf-8")
    excluded = tmp_path / "test.tsv"
    excluded.write_text(rows[0], "utf-8")
    dataset = write_distillation_set([path], sample_teacher, tmp_path / "set", exclude=[excluded])
    assert dataset.counts == {"de": len(rows) - 1}
    assert dataset.manifest["report"]["dropped"]["excluded"] == 1
    assert dataset.manifest["report"]["dropped"]["empty"] == 1


def test_exclude_applies_to_groups_too(groups, sample_teacher, tmp_path):
    excluded = tmp_path / "test.tsv"
    excluded.write_text(f"{groups[0].source}\n{groups[1].translations[0]}\n", "utf-8")
    dataset = write(groups, sample_teacher, tmp_path / "set", exclude=[excluded])
    found = list(dataset.sentences())
    assert groups[0].source not in found
    assert groups[1].translations[0] not in found
    assert groups[2].source in found


def test_killed_writer_resumes_to_the_same_bytes(groups, small_set, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(small_set.folder), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if int(line) > PER_SHARD:
            process.kill()
            break
    assert process.wait() == -9
    assert (folder / "shard-00000.tfrecord").exists()
    assert not (folder / "manifest.json").exists()
    with pytest.raises(InputError, match="interrupted. Run `kdkeras targets` or"):
        DistillationSet(folder)

    teacher = CountingTeacher(small_set)
    write(groups, teacher, folder)
    assert teacher.encoded == GROUPS - PER_SHARD
    assert contents(folder) == contents(small_set.folder)


def interrupted(groups, teacher, folder):
    """Writes a set until its second shard starts."""

    def stop(task, done, total):
        if done > PER_SHARD:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(groups, teacher, folder, progress=stop)
    assert (folder / "shard-00000.tfrecord").exists()


def test_damaged_shard_of_an_interrupted_run_is_written_again(groups, small_set, tmp_path):
    teacher = CountingTeacher(small_set)
    interrupted(groups, teacher, tmp_path / "set")
    shard = tmp_path / "set" / "shard-00000.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-100])
    teacher.encoded = 0
    write(groups, teacher, tmp_path / "set").verify()
    assert teacher.encoded == GROUPS


def test_complete_set_is_not_computed_again(groups, small_set):
    teacher = CountingTeacher(small_set)
    before = contents(small_set.folder)
    write(groups, teacher, small_set.folder)
    assert teacher.encoded == 0
    assert contents(small_set.folder) == before


@pytest.mark.parametrize("state", ["complete", "interrupted"])
def test_targets_of_another_teacher_are_rejected(groups, small_set, tmp_path, state):
    folder = tmp_path / "set"
    (write if state == "complete" else interrupted)(groups, CachedTeacher(small_set), folder)
    before = contents(folder)
    with pytest.raises(InputError) as error:
        write(groups, OtherTeacher(small_set), folder)
    assert small_set.teacher["fingerprint"][:12] in str(error.value)
    assert "other (000000000000…)" in str(error.value)
    assert contents(folder) == before
    replaced = write(groups, OtherTeacher(small_set), folder, overwrite=True)
    assert replaced.teacher["name"] == "other"


def test_another_corpus_is_rejected(groups, sample_teacher, small_set):
    with pytest.raises(InputError, match="must come from one corpus"):
        write(groups[:-1], sample_teacher, small_set.folder)


def test_resuming_with_another_shard_size_is_rejected(groups, sample_teacher, tmp_path):
    interrupted(groups, sample_teacher, tmp_path / "set")
    with pytest.raises(InputError, match="groups_per_shard=10, started with 64"):
        write_distillation_set(groups, sample_teacher, tmp_path / "set", groups_per_shard=10)


def test_folder_with_other_files_is_unchanged(groups, sample_teacher, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="must be new or empty"):
        write(groups, sample_teacher, tmp_path)
    write(groups, sample_teacher, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_full_disk_keeps_the_complete_shards(groups, small_set, tmp_path):
    folder = tmp_path / "set"
    teacher = CountingTeacher(small_set)
    interrupted(groups, teacher, folder)
    # Writing to /dev/full fails like writing to a full disk.
    os.symlink("/dev/full", folder / ".shard-00001.tfrecord.partial")
    with pytest.raises(InputError, match=r"shard-00001\.tfrecord \(No space left on device\)"):
        write(groups, teacher, folder)
    assert sorted(contents(folder)) == ["manifest.partial.json", "shard-00000.tfrecord"]
    teacher.encoded = 0
    write(groups, teacher, folder).verify()
    assert teacher.encoded == GROUPS - PER_SHARD


def test_progress_counts_up_to_all_sentences(groups, sample_teacher, tmp_path):
    calls = []
    write(
        groups,
        sample_teacher,
        tmp_path / "set",
        batch_size=16,
        progress=lambda *call: calls.append(call),
    )
    tasks, done, totals = zip(*calls, strict=True)
    assert (set(tasks), set(totals)) == ({"Embedding sentences with the teacher"}, {GROUPS})
    assert list(done) == sorted(done)
    assert (done[0], done[-1]) == (0, GROUPS) and 16 in done


class BrokenTeacher(CachedTeacher):
    """Overflows float16."""

    def encode(self, texts, batch_size=64, progress=no_progress):
        return 1e6 * super().encode(texts, batch_size, progress)


def test_embeddings_outside_float16_are_rejected(groups, small_set, tmp_path):
    with pytest.raises(InputError, match="not all finite in float16"):
        write(groups, BrokenTeacher(small_set), tmp_path / "set")


def test_cached_teacher_rejects_other_sentences(sample_teacher):
    with pytest.raises(InputError, match="Received: 'Der Himmel ist blau"):
        sample_teacher.encode(["Der Himmel ist blau."])
