"""Teachers compute the embeddings of sentence-transformers.

The stored embeddings were computed with it (scripts/make_reference_vectors.py). The tiny
encoders are in this folder. Of all-MiniLM-L6-v2 it has the embeddings only, and
KDKERAS_TEACHER names its folder for the live comparison.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from kdkeras import data, teachers

REFERENCE = Path(__file__).parent / "reference_vectors.json"


def assert_parity(found, expected):
    expected = np.asarray(expected)
    cosines = np.sum(found * expected, axis=1) / (
        np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    )
    assert found.shape == expected.shape
    assert cosines.min() >= 0.9999
    assert np.abs(found - expected).max() <= 1e-5


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


@pytest.mark.parametrize(
    ("kind", "width"), [("mean", 32), ("cls", 24)], ids=["mean", "cls and dense, other epsilon"]
)
def test_tiny_teacher_computes_the_reference_embeddings(tiny_folder, tiny_reference, kind, width):
    teacher = teachers.load(tiny_folder / kind)
    assert (teacher.embedding_dim, teacher.normalized, teacher.sequence_length) == (width, True, 48)
    found = teacher.encode(tiny_reference["sentences"], batch_size=4)
    assert found.dtype == np.float32
    assert_parity(found, tiny_reference["vectors"][kind])


def test_max_pooling_without_norm_computes_the_reference_embeddings(snapshot, tiny_reference):
    edit(snapshot / "1_Pooling" / "config.json", pooling_mode="max")
    modules = json.loads((snapshot / "modules.json").read_text("utf-8"))
    (snapshot / "modules.json").write_text(json.dumps(modules[:2]))
    teacher = teachers.load(snapshot)
    assert not teacher.normalized
    assert_parity(teacher.encode(tiny_reference["sentences"]), tiny_reference["vectors"]["max"])


@pytest.mark.parametrize(
    ("flag", "kind"), [("mean_tokens", "mean"), ("max_tokens", "max")], ids=["mean", "max"]
)
def test_pooling_flags_of_older_snapshots_are_read(snapshot, tiny_reference, flag, kind):
    flags = {f"pooling_mode_{key}": False for key in ("cls_token", "max_tokens", "mean_tokens")}
    flags |= {"word_embedding_dimension": 32, f"pooling_mode_{flag}": True}
    (snapshot / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    found = teachers.load(snapshot).encode(tiny_reference["sentences"])
    expected = np.array(tiny_reference["vectors"][kind])
    assert_parity(found, expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_the_maximum_length_of_older_snapshots_is_read(snapshot, tiny_reference):
    teacher = teachers.load(snapshot)
    edit(snapshot / "sentence_bert_config.json", max_seq_length=16)
    shorter = teachers.load(snapshot)
    assert shorter.sequence_length == 16
    assert shorter.tokenize(tiny_reference["sentences"])["token_ids"].shape[1] == 16
    # Sentences of up to 16 tokens are not changed by it; the longest is.
    difference = np.abs(
        shorter.encode(tiny_reference["sentences"]) - teacher.encode(tiny_reference["sentences"])
    ).max(axis=1)
    assert difference[0] < 1e-6
    assert difference[-1] > 1e-3


def test_activation_of_the_config_is_used(snapshot, tiny_reference):
    edit(snapshot / "config.json", hidden_act="gelu_new")
    difference = teachers.load(snapshot).encode(tiny_reference["sentences"]) - np.array(
        tiny_reference["vectors"]["mean"]
    )
    assert np.abs(difference).max() > 2e-5


def test_default_prompt_is_put_before_every_sentence(snapshot, tiny_reference):
    sentences = tiny_reference["sentences"][:4]
    expected = teachers.load(snapshot).encode([f"There's {text}" for text in sentences])
    edit(
        snapshot / "config_sentence_transformers.json",
        prompts={"query": "There's "},
        default_prompt_name="query",
    )
    np.testing.assert_allclose(teachers.load(snapshot).encode(sentences), expected, atol=1e-6)


def sample_vectors(sentences):
    """The embeddings of some English sentences in the bundled sample."""
    dataset = data.DistillationSet(data.sample_folder() / "distillation_set")
    wanted = set(sentences)
    found = {group.source: v for group, v in dataset.records() if group.source in wanted}
    assert found.keys() == wanted, "make the reference vectors again, with --sample"
    return np.stack([found[text] for text in sentences])


def test_vectors_of_the_bundled_sample_are_those_of_sentence_transformers():
    reference = json.loads(REFERENCE.read_text("utf-8"))
    expected = np.array(reference["sample_vectors"])
    found = sample_vectors(reference["sample_sentences"])
    cosines = np.sum(found * expected, axis=1) / np.linalg.norm(found, axis=1)
    assert len(cosines) >= 32
    assert cosines.min() >= 0.9999
    assert np.abs(found - expected).max() <= 3e-4  # half a float16 step below 0.5


@pytest.mark.network
def test_minilm_computes_the_reference_embeddings():
    reference = json.loads(REFERENCE.read_text("utf-8"))
    address = os.environ.get("KDKERAS_TEACHER", f"hf://{reference['model']}")
    teacher = teachers.load(address)
    assert (teacher.embedding_dim, teacher.normalized, teacher.sequence_length) == (384, True, 256)
    assert_parity(teacher.encode(reference["sentences"]), reference["vectors"])
