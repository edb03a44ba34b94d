"""Refused snapshots, and the fingerprint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from kdkeras import InputError, teachers
from kdkeras.teachers.snapshot import read_snapshot


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))


def rewrite_modules(folder, change):
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    (folder / "modules.json").write_text(json.dumps(change(modules)))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"existing folder or hf://.*Received: .*/absent"):
        teachers.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "modules.json",
        "tokenizer.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ],
)
def test_a_missing_file_is_named(snapshot, name):
    (snapshot / name).unlink()
    with pytest.raises(InputError, match=f"must contain `{name}`.*{snapshot} without it"):
        teachers.load(snapshot)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json"])
def test_a_broken_json_file_is_named(snapshot, name):
    text = (snapshot / name).read_text("utf-8")
    (snapshot / name).write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=f"`{name}`.* readable JSON"):
        teachers.load(snapshot)


def test_a_broken_tokenizer_is_refused(snapshot):
    (snapshot / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"`tokenizer\.json` must be"):
        teachers.load(snapshot)


@pytest.mark.parametrize("kept", [0, 100, 100_000])
def test_truncated_weights_are_refused(snapshot, kept):
    weights = snapshot / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"safetensors must contain all weights.*{snapshot}"):
        teachers.load(snapshot)


def test_weights_without_a_layer_are_refused(snapshot):
    edit(snapshot / "config.json", num_hidden_layers=3)
    with pytest.raises(InputError, match="all weights that its config.json describes"):
        teachers.load(snapshot)


def test_a_pickle_is_refused(snapshot):
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickle files are refused.*only pytorch_model\.bin"):
        teachers.load(snapshot)


def test_a_pickle_of_a_dense_module_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "snapshot"
    shutil.copytree(tiny_folder / "cls", folder)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(InputError, match="2_Dense/model.safetensors`; pickle files are refused"):
        teachers.load(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"model_type": "t5"}, "BERT architecture.*model_type='t5'"),
        ("config.json", {"position_embedding_type": "relative_key"}, "absolute position"),
        ("config.json", {"hidden_act": "swish"}, "hidden_act='swish'"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, r"Received: mean \+ max"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "Received: lasttoken"),
    ],
    ids=["architecture", "positions", "activation", "two poolings", "pooling"],
)
def test_an_unsupported_model_is_refused(snapshot, name, changes, message):
    edit(snapshot / name, **changes)
    with pytest.raises(InputError, match=message):
        teachers.load(snapshot)


def test_two_pooling_flags_of_an_older_snapshot_are_refused(snapshot):
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (snapshot / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    with pytest.raises(InputError, match=r"Received: cls \+ mean"):
        teachers.load(snapshot)


def test_an_unknown_module_is_refused(snapshot):
    rewrite_modules(
        snapshot,
        lambda modules: [
            *modules,
            {"idx": 3, "path": "3_CNN", "type": "sentence_transformers.CNN"},
        ],
    )
    with pytest.raises(InputError, match="Received: a CNN module"):
        teachers.load(snapshot)


def test_modules_without_a_pooling_are_refused(snapshot):
    rewrite_modules(snapshot, lambda modules: [modules[0], modules[2]])
    with pytest.raises(InputError, match="Received: Transformer, Normalize"):
        teachers.load(snapshot)


def test_an_unknown_dense_activation_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "snapshot"
    shutil.copytree(tiny_folder / "cls", folder)
    edit(folder / "2_Dense" / "config.json", activation_function="torch.nn.SELU")
    with pytest.raises(InputError, match="activation_function='torch.nn.SELU'"):
        teachers.load(folder)


def test_fingerprint_does_not_depend_on_the_path(snapshot, tiny_teacher):
    moved = snapshot.rename(snapshot.parent / "elsewhere")
    (moved / "README.md").write_text("A card.")
    assert read_snapshot(moved).fingerprint == tiny_teacher.fingerprint
    assert len(tiny_teacher.fingerprint) == 64


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"hidden_act": "relu"}),
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
        ("sentence_bert_config.json", {"max_seq_length": 32}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("tokenizer_config.json", {"model_max_length": 40}),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
        ),
    ],
    ids=["activation", "pooling", "length", "lower case", "tokenizer length", "prompt"],
)
def test_fingerprint_follows_every_setting(snapshot, tiny_teacher, name, changes):
    edit(snapshot / name, **changes)
    assert read_snapshot(snapshot).fingerprint != tiny_teacher.fingerprint


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_fingerprint_follows_every_byte(snapshot, tiny_teacher, name):
    content = bytearray((snapshot / name).read_bytes())
    content[-3] ^= 1
    (snapshot / name).write_bytes(content)
    assert read_snapshot(snapshot).fingerprint != tiny_teacher.fingerprint


def test_fingerprint_follows_the_norm(snapshot, tiny_teacher):
    rewrite_modules(snapshot, lambda modules: modules[:2])
    assert read_snapshot(snapshot).fingerprint != tiny_teacher.fingerprint


@pytest.mark.parametrize("address", ["hf://", "hf://all-MiniLM-L6-v2", "hf://a/b/c", "hf://a/b c"])
def test_a_malformed_hub_address_is_refused(address):
    with pytest.raises(InputError, match="must be hf://organization/name"):
        teachers.load(address)


OFFLINE = """
import sys
from kdkeras import InputError, teachers
try:
    teachers.load("hf://sentence-transformers/all-MiniLM-L6-v2")
except InputError as error:
    print(error)
assert "tensorflow" not in sys.modules
"""


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    pytest.importorskip("huggingface_hub")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True
    )
    assert "Received: hf://sentence-transformers/all-MiniLM-L6-v2" in found.stdout
    assert "Check the name and the network connection, or pass a folder." in found.stdout
    assert found.stdout.count("\n") == 1
