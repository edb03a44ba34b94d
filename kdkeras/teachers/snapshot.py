"""Reading and checking the files of a sentence-transformers snapshot.

This module does not import TensorFlow, so that bad folders fail fast.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdkeras.errors import InputError

__all__ = ["DenseStep", "NormalizeStep", "Snapshot", "read_snapshot"]

POOLING_MODES = ("mean", "cls", "max")
HIDDEN_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
DENSE_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.linear.Identity": "linear",
}
_SAFETENSORS = "model.safetensors"
_SAFETENSORS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class DenseStep:
    """A Dense module after the pooling: its weight file and configuration."""

    weights: Path
    output_dim: int
    use_bias: bool
    activation: str


@dataclass(frozen=True, kw_only=True)
class NormalizeStep:
    """A Normalize module after the pooling."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The configuration of the encoder in a sentence-transformers folder.

    Attributes:
        folder: The folder.
        config: Contents of the transformer's `config.json`.
        sequence_length: Maximum number of tokens, including special tokens.
        lowercase: Whether texts are lower-cased before tokenization.
        prompt: Text that precedes each sentence (usually empty).
        pooling: `"mean"`, `"cls"` or `"max"`.
        steps: The modules after the pooling, in order.
        fingerprint: SHA-256 (hex) of all files that determine the embeddings. It
            does not depend on the path of the folder.
    """

    folder: Path
    config: dict[str, Any]
    sequence_length: int
    lowercase: bool
    prompt: str
    pooling: str
    steps: tuple[DenseStep | NormalizeStep, ...]
    fingerprint: str

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings."""
        widths = [step.output_dim for step in self.steps if isinstance(step, DenseStep)]
        return widths[-1] if widths else int(self.config["hidden_size"])

    @property
    def normalized(self) -> bool:
        """Whether embeddings have length 1."""
        return bool(self.steps) and isinstance(self.steps[-1], NormalizeStep)


def read_snapshot(folder: Path) -> Snapshot:
    """Reads the configuration files of a snapshot and checks them.

    Raises:
        InputError: If the folder or one of its files is missing or damaged, the
            architecture or a module is not supported, or the weights exist only
            as a pickle.
    """
    if not folder.is_dir():
        raise InputError(
            f"A teacher must be an existing folder or hf://organization/name. Received: {folder}. "
            "Check the path, or download the snapshot first."
        )
    config = _read_json(folder, "config.json")
    _check_architecture(folder, config)
    modules = _read_modules(folder)
    weights = _weight_files(folder)
    sentence_config = _read_json(folder, "sentence_bert_config.json", optional=True)
    tokenizer_config = _read_json(folder, "tokenizer_config.json", optional=True)
    _require(folder, "tokenizer.json")
    pooling_file = f"{modules[1][1]}/config.json"
    prompt = _default_prompt(folder)
    steps, step_files = _read_steps(folder, modules[2:])
    sequence_length = _sequence_length(config, sentence_config, tokenizer_config)
    files = ["config.json", "modules.json", "tokenizer.json", pooling_file, *weights, *step_files]
    return Snapshot(
        folder=folder,
        config=config,
        sequence_length=sequence_length,
        lowercase=bool(sentence_config.get("do_lower_case")),
        prompt=prompt,
        pooling=_pooling_mode(folder, pooling_file, prompt),
        steps=steps,
        fingerprint=_fingerprint(folder, files, sequence_length, sentence_config, prompt),
    )


def _require(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"A teacher folder must contain `{name}`. Received: {folder} without it. "
            "Download the complete sentence-transformers snapshot."
        )
    return path


def _read_json(folder: Path, name: str, optional: bool = False) -> Any:
    if optional and not (folder / name).is_file():
        return {}
    path = _require(folder, name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"`{name}` of a teacher folder must be readable JSON. Received: {path} ({error}). "
            "Download the snapshot again."
        ) from error


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind != "bert":
        raise InputError(
            "A teacher must have the BERT architecture (model_type 'bert'). "
            f"Received: model_type={kind!r} in {folder}. Choose a BERT sentence encoder, "
            "such as sentence-transformers/all-MiniLM-L6-v2 or sentence-transformers/LaBSE."
        )
    position = config.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise InputError(
            "A BERT teacher must have absolute position embeddings. "
            f"Received: position_embedding_type={position!r}. Choose another teacher."
        )
    activation = config.get("hidden_act", "gelu")
    if activation not in HIDDEN_ACTIVATIONS:
        raise InputError(
            f"A BERT teacher's `hidden_act` must be one of {', '.join(HIDDEN_ACTIVATIONS)}. "
            f"Received: hidden_act={activation!r}. Choose another teacher."
        )


def _read_modules(folder: Path) -> list[tuple[str, str]]:
    """Returns the class name and the folder of each module, after checking the first two."""
    entries = _read_json(folder, "modules.json")
    try:
        ordered = sorted(entries, key=lambda entry: entry["idx"])
        modules = [(entry["type"].rsplit(".", 1)[-1], entry["path"]) for entry in ordered]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "`modules.json` must list modules with idx, path and type. "
            f"Received: {folder / 'modules.json'}. Download the snapshot again."
        ) from error
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or modules[0][1] not in ("", "."):
        raise InputError(
            "A teacher's modules must start with a Transformer in the folder itself and a "
            f"Pooling. Received: {', '.join(kinds) or 'none'} in {folder}. Choose another teacher."
        )
    return modules


def _weight_files(folder: Path) -> list[str]:
    if (folder / _SAFETENSORS_INDEX).is_file():
        index = _read_json(folder, _SAFETENSORS_INDEX)
        shards = sorted(set(index.get("weight_map", {}).values()))
        for shard in shards:
            _require(folder, shard)
        return [_SAFETENSORS_INDEX, *shards]
    if (folder / _SAFETENSORS).is_file():
        return [_SAFETENSORS]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise InputError(
            f"A teacher's weights must be in `{_SAFETENSORS}`; pickle files are refused, because "
            f"loading them can run code. Received: {folder} with only {', '.join(pickles)}. "
            "Choose a snapshot with safetensors, or convert the file if you trust its origin."
        )
    _require(folder, _SAFETENSORS)
    return [_SAFETENSORS]


def _sequence_length(
    config: dict[str, Any], sentence_config: dict[str, Any], tokenizer_config: dict[str, Any]
) -> int:
    positions = int(config["max_position_embeddings"])
    length = sentence_config.get("max_seq_length") or tokenizer_config.get("model_max_length")
    return min(int(length), positions) if length else positions


def _pooling_mode(folder: Path, name: str, prompt: str) -> str:
    config = _read_json(folder, name)
    modes = config.get("pooling_mode")
    if modes is None:
        # Before sentence-transformers 6: one flag per mode.
        flags = {"pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
        modes = [
            flags.get(key, key.removeprefix("pooling_mode_").removesuffix("_tokens"))
            for key, value in config.items()
            if key.startswith("pooling_mode_") and value
        ] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise InputError(
            f"A teacher's pooling must be one of {', '.join(POOLING_MODES)}. "
            f"Received: {' + '.join(modes)} in {folder / name}. Choose another teacher."
        )
    if prompt and not config.get("include_prompt", True):
        raise InputError(
            "A teacher's pooling must include its prompt. Received: include_prompt=false with the "
            f"prompt {prompt!r} in {folder}. Choose another teacher."
        )
    return str(modes[0])


def _default_prompt(folder: Path) -> str:
    config = _read_json(folder, "config_sentence_transformers.json", optional=True)
    name = config.get("default_prompt_name")
    return str(config.get("prompts", {}).get(name, "")) if name else ""


def _read_steps(
    folder: Path, modules: list[tuple[str, str]]
) -> tuple[tuple[DenseStep | NormalizeStep, ...], list[str]]:
    steps: list[DenseStep | NormalizeStep] = []
    files: list[str] = []
    for kind, path in modules:
        if kind == "Normalize":
            steps.append(NormalizeStep())
        elif kind == "Dense":
            steps.append(_read_dense(folder, path))
            files += [f"{path}/config.json", f"{path}/{_SAFETENSORS}"]
        else:
            raise InputError(
                "After the pooling a teacher may have Dense and Normalize modules. "
                f"Received: a {kind} module in {folder}. Choose another teacher."
            )
    return tuple(steps), files


def _read_dense(folder: Path, path: str) -> DenseStep:
    config = _read_json(folder, f"{path}/config.json")
    if list((folder / path).glob("*.bin")) and not (folder / path / _SAFETENSORS).is_file():
        raise InputError(
            f"A teacher's weights must be in `{path}/{_SAFETENSORS}`; pickle files are refused. "
            f"Received: {folder} with only a pickle there. Choose a snapshot with safetensors."
        )
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in DENSE_ACTIVATIONS or config.get("use_residual"):
        raise InputError(
            f"A teacher's Dense module must be plain, with one of {', '.join(DENSE_ACTIVATIONS)}. "
            f"Received: activation_function={activation!r}, "
            f"use_residual={config.get('use_residual', False)} in {folder / path}. "
            "Choose another teacher."
        )
    return DenseStep(
        weights=_require(folder, f"{path}/{_SAFETENSORS}"),
        output_dim=int(config["out_features"]),
        use_bias=bool(config.get("bias", True)),
        activation=DENSE_ACTIVATIONS[activation],
    )


def _fingerprint(
    folder: Path,
    files: list[str],
    sequence_length: int,
    sentence_config: dict[str, Any],
    prompt: str,
) -> str:
    hashes: dict[str, Any] = {}
    for name in files:
        with _require(folder, name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    hashes["sequence_length"] = sequence_length
    hashes["lowercase"] = bool(sentence_config.get("do_lower_case"))
    hashes["prompt"] = prompt
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
