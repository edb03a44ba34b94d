"""Writes folders that sentence-transformers loads with its standard modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import processors

import kdkeras
from kdkeras.errors import InputError
from kdkeras.export.fast_tokenizer import fast_tokenizer, write_tokenizer
from kdkeras.export.manifest import write_json
from kdkeras.students import StaticStudent, TransformerStudent

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = ["write_sentence_transformers"]

_MODULES = "sentence_transformers.models"
_ROWS = 1024

Weights = dict[str, np.ndarray]


def write_sentence_transformers(student: Student, vocabulary: Vocabulary, folder: Path) -> None:
    """Writes a student as standard modules of sentence-transformers.

    | student | modules |
    |---|---|
    | static, SentencePiece | `StaticEmbedding` |
    | static, WordPiece | `WordEmbeddings` (with `[CLS]` and `[SEP]`), `Pooling` |
    | transformer | `Transformer` of DistilBERT's architecture, `Pooling` |

    `Dense` and `Normalize` follow if the student has a projection or normalizes
    its embeddings. The token weights of a static student are multiplied into its
    table.

    Args:
        student: The student, computing in float32.
        vocabulary: Its vocabulary.
        folder: The folder to create.

    Raises:
        InputError: If the student is neither static nor a transformer, or is a
            transformer with token weights.
    """
    folder.mkdir()
    modules: list[tuple[str, str]] = []

    def add(kind: str, at_root: bool = False) -> Path:
        path = "" if at_root else f"{len(modules)}_{kind}"
        modules.append((kind, path))
        (folder / path).mkdir(exist_ok=True)
        return folder / path

    if isinstance(student, TransformerStudent):
        _write_transformer(student, vocabulary, add("Transformer", at_root=True))
        _write_pooling(student.pooled_dim, add("Pooling"))
    elif not isinstance(student, StaticStudent):
        raise InputError(
            "sentence-transformers has modules only for static and transformer students. "
            f"Received: {type(student).__name__}. Export the student to other formats."
        )
    elif vocabulary.kind == "wordpiece":
        _write_word_embeddings(student, vocabulary, add("WordEmbeddings"))
        _write_pooling(student.pooled_dim, add("Pooling"))
    else:
        _write_static_embedding(student, vocabulary, add("StaticEmbedding"))
    if student.projection is not None:
        _write_dense(student, add("Dense"))
    if student.normalize:
        write_json(add("Normalize") / "config.json", {})
    _write_index(folder, modules)


def _write_index(folder: Path, modules: list[tuple[str, str]]) -> None:
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"{_MODULES}.{kind}"}
            for index, (kind, path) in enumerate(modules)
        ],
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "__version__": {"kdkeras": kdkeras.__version__},
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _save(weights: Mapping[str, Any], folder: Path) -> None:
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def _token_vectors(student: StaticStudent, size: int) -> np.ndarray:
    """Returns the pooled vector of each single token: table times token weights."""
    ids = np.arange(size, dtype=np.int32)[:, None]
    parts = [ids[start : start + _ROWS] for start in range(0, len(ids), _ROWS)]
    return np.concatenate(
        [student.pooled({"token_ids": p, "padding_mask": np.ones_like(p)}) for p in parts]
    )


def _write_static_embedding(student: StaticStudent, vocabulary: Vocabulary, folder: Path) -> None:
    tokenizer = fast_tokenizer(vocabulary)
    tokenizer.enable_truncation(student.sequence_length)
    tokenizer.save(str(folder / "tokenizer.json"))
    _save({"embedding.weight": _token_vectors(student, vocabulary.size)}, folder)


def _write_word_embeddings(student: StaticStudent, vocabulary: Vocabulary, folder: Path) -> None:
    tokenizer = fast_tokenizer(vocabulary)
    special = [(token, vocabulary.tokens.index(token)) for token in ("[CLS]", "[SEP]")]
    # Both come first: a mean ignores order, and truncation removes the end.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [SEP] $A", special_tokens=special
    )
    write_tokenizer(vocabulary, tokenizer, folder, student.sequence_length)
    write_json(
        folder / "wordembedding_config.json",
        {
            "tokenizer_class": f"{_MODULES}.tokenizer.TransformersTokenizerWrapper",
            "update_embeddings": False,
            "max_seq_length": student.sequence_length,
        },
    )
    _save({"emb_layer.weight": _token_vectors(student, vocabulary.size)}, folder)


def _write_pooling(dim: int, folder: Path) -> None:
    settings = {"word_embedding_dimension": dim, "pooling_mode_mean_tokens": True}
    off = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    settings.update({f"pooling_mode_{mode}": False for mode in off})
    write_json(folder / "config.json", settings)


def _write_dense(student: Student, folder: Path) -> None:
    kernel, bias = student.projection.get_weights()
    write_json(
        folder / "config.json",
        {
            "in_features": kernel.shape[0],
            "out_features": kernel.shape[1],
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    _save({"linear.weight": kernel.T, "linear.bias": bias}, folder)


def _write_transformer(student: TransformerStudent, vocabulary: Vocabulary, folder: Path) -> None:
    if student.token_weights:
        # WordWeights divides by the sum of the weights, but a student by the number of tokens.
        raise InputError(
            "sentence-transformers has no module for a transformer's token weights. "
            "Received: token_weights=True. Export the student to other formats."
        )
    # A student has BERT's blocks, but no segments and no pooler: the architecture
    # of DistilBERT.
    write_json(
        folder / "config.json",
        {
            "model_type": "distilbert",
            "architectures": ["DistilBertModel"],
            "vocab_size": vocabulary.size,
            "max_position_embeddings": student.sequence_length,
            "n_layers": student.num_layers,
            "n_heads": student.num_heads,
            "dim": student.hidden_dim,
            "hidden_dim": student.intermediate_dim,
            "activation": "gelu",
            "dropout": student.dropout,
            "attention_dropout": 0.0,
            "sinusoidal_pos_embds": False,
            "pad_token_id": vocabulary.pad_id,
            "torch_dtype": "float32",
        },
    )
    settings: dict[str, Any] = {"max_seq_length": student.sequence_length, "do_lower_case": False}
    if vocabulary.kind == "sentencepiece":
        # DistilBERT cannot reshape a batch with zero columns, which a batch of
        # empty texts would have. Every batch is padded to the student's length.
        settings["processing_kwargs"] = {"text": {"padding": "max_length"}}
    write_json(folder / "sentence_bert_config.json", settings)
    write_tokenizer(vocabulary, fast_tokenizer(vocabulary), folder, student.sequence_length)
    _save(dict(_distilbert_weights(student, vocabulary.size)), folder)


def _distilbert_weights(student: TransformerStudent, size: int) -> Iterator[tuple[str, Any]]:
    ids = np.arange(size, dtype=np.int32)[None]
    yield "embeddings.word_embeddings.weight", np.asarray(student.token_embedding(ids))[0]
    yield "embeddings.position_embeddings.weight", student.position_embedding.get_weights()[0]
    yield from _named("embeddings.LayerNorm", student.embedding_norm.get_weights())
    for number, block in enumerate(student.blocks):
        layer = f"transformer.layer.{number}"
        kernel, bias = block.qkv_dense.get_weights()
        parts = zip(np.split(kernel, 3, axis=1), np.split(bias, 3), strict=True)
        for name, part in zip(("q_lin", "k_lin", "v_lin"), parts, strict=True):
            yield from _named(f"{layer}.attention.{name}", part)
        yield from _named(f"{layer}.attention.out_lin", block.output_dense.get_weights())
        yield from _named(f"{layer}.sa_layer_norm", block.attention_norm.get_weights())
        yield from _named(f"{layer}.ffn.lin1", block.intermediate_dense.get_weights())
        yield from _named(f"{layer}.ffn.lin2", block.feedforward_dense.get_weights())
        yield from _named(f"{layer}.output_layer_norm", block.output_norm.get_weights())


def _named(name: str, weights: Any) -> Iterator[tuple[str, np.ndarray]]:
    kernel, bias = weights
    yield f"{name}.weight", kernel.T  # PyTorch's kernels have shape (out, in).
    yield f"{name}.bias", bias
