"""Initialization of a student from its teacher's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.layers import TransformerBlock
from kdkeras.students.student import Student
from kdkeras.students.transformer import TransformerStudent

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.teachers import Teacher

__all__ = [
    "Initialization",
    "choose_layers",
    "copy_block",
    "copy_embedding_layers",
    "initialize_from_teacher",
    "teacher_pieces",
    "token_vectors",
]


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """Result of `initialize_from_teacher`.

    Attributes:
        shared_tokens: Number of tokens that the teacher has as well.
        composed_tokens: Number of tokens whose vector is the mean of the vectors
            of the teacher's subwords.
        num_tokens: Number of all tokens of the student.
        layers: Indices of the teacher's layers that were copied into the
            student's blocks, from 0. Empty if the sizes differ.
    """

    shared_tokens: int
    composed_tokens: int
    num_tokens: int
    layers: tuple[int, ...]


def initialize_from_teacher(student: Student, teacher: Teacher, seed: int = 0) -> Initialization:
    """Initializes a student with the weights of its teacher.

    Sets the token vectors of any student. If a `TransformerStudent` has the same
    sizes as the teacher (`hidden_dim`, `num_heads`, `intermediate_dim`), positions
    and layers are copied as well, evenly spaced layers if it has fewer; its token
    vectors are then the teacher's without projection.

    A token that the teacher has too, with the same text and word boundary, takes
    the teacher's vector. Other tokens take the mean of the vectors of the subwords
    into which the teacher splits them. Tokens that the teacher does not know, or
    splits into single characters, stay random. If the widths differ, the vectors
    are projected to the student's width by PCA of the centered table, or by a
    random orthonormal matrix if the student is wider.

    Args:
        student: An untrained student with a vocabulary. It is changed.
        teacher: A BERT teacher (`kdkeras.teachers.load`).
        seed: Seed of the random rows. Default 0.

    Returns:
        The numbers of initialized tokens, and the copied layers.

    Raises:
        InputError: If the student has no vocabulary, or has the teacher's sizes
            but more layers.

    References:
        Tulkens, van Dongen (2024), Model2Vec; Mu, Viswanath (2018), All-but-
        the-Top, arXiv:1702.01417; Sanh et al. (2019), DistilBERT,
        arXiv:1910.01108.
    """
    if student.vocabulary is None:
        raise InputError(
            "Initialization from a teacher matches tokens by their text. "
            "Received: a student without a vocabulary. Create it with vocabulary=...."
        )
    layers = teacher.model.backbone.transformer_layers
    embedding = student.token_embedding
    chosen: list[int] = []
    if isinstance(student, TransformerStudent) and _sizes_of(student.blocks[0]) == _teacher_sizes(
        layers[0]
    ):
        chosen = choose_layers(len(layers), len(student.blocks))
        copy_embedding_layers(student, teacher)
        for block, layer in zip(student.blocks, chosen, strict=True):
            copy_block(layers[layer], block)
    scale = None if chosen else float(np.std(np.asarray(embedding.table)))
    vectors, shared, composed = token_vectors(
        student.vocabulary, teacher, embedding.dim, seed, scale
    )
    embedding.assign(vectors)
    return Initialization(
        shared_tokens=int(shared.sum()),
        composed_tokens=int(composed.sum()),
        num_tokens=len(vectors),
        layers=tuple(chosen),
    )


def token_vectors(
    vocabulary: Vocabulary,
    teacher: Teacher,
    dim: int,
    seed: int = 0,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes a student's token table from the teacher's.

    Args:
        vocabulary: The student's vocabulary.
        teacher: The teacher.
        dim: Width of the student's table.
        seed: Seed of the random rows and of the random projection.
        scale: Standard deviation of the table. None keeps the teacher's; if `dim`
            is the teacher's width as well, vectors are copied unchanged.

    Returns:
        The table, `(vocabulary.size, dim)` float32; and two `(vocabulary.size,)`
        bool arrays: tokens that the teacher has too, and tokens that are the mean
        of the teacher's subwords.
    """
    random = np.random.default_rng(seed)
    tokens, table = teacher.token_embeddings()
    table = _project(table, dim, scale, random)
    spread = float(table.std())
    vectors = random.normal(0.0, spread, (vocabulary.size, dim)).astype(np.float32)
    pieces, shared = teacher_pieces(vocabulary, teacher, tokens)
    for token_id, rows in enumerate(pieces):
        if rows:
            vectors[token_id] = table[rows].mean(axis=0)
    return vectors, shared, np.array([bool(rows) for rows in pieces]) & ~shared


def teacher_pieces(
    vocabulary: Vocabulary, teacher: Teacher, tokens: list[str]
) -> tuple[list[list[int]], np.ndarray]:
    """Finds the teacher's subwords for each token of a vocabulary.

    Args:
        vocabulary: The vocabulary.
        teacher: The teacher.
        tokens: The teacher's tokens, as returned by `teacher.token_embeddings()`.

    Returns:
        Per token, the rows of the teacher's table, empty if the teacher does not
        know the text or splits it into single characters; and
        `(vocabulary.size,)` bool, True for tokens that the teacher has too.
    """
    own = {_key(token, teacher.surface(token)): row for row, token in enumerate(tokens)}
    found, shared = [], np.zeros(vocabulary.size, bool)
    for token_id, token in enumerate(vocabulary.tokens):
        surface = vocabulary.surface(token)
        row = own.get(_key(token, surface))
        shared[token_id] = row is not None
        pieces = [row] if row is not None else _pieces(surface[0], teacher, tokens)
        found.append(pieces or [])
    return found, shared


def _key(token: str, surface: tuple[str, bool]) -> tuple[str, bool] | str:
    # Special tokens have no text and are matched by name.
    return surface if surface[0] else token


def _pieces(text: str, teacher: Teacher, tokens: list[str]) -> list[int] | None:
    """Returns the teacher's subwords of a text, or None if they are unknown or mostly letters."""
    pieces = teacher.pieces(text) if text.strip() else None
    if pieces is None:
        return None
    surfaces = [teacher.surface(tokens[piece]) for piece in pieces]
    letters = sum(len(text) == 1 and not starts for text, starts in surfaces)
    return None if 2 * letters > len(pieces) else pieces


def _project(
    table: np.ndarray, dim: int, scale: float | None, random: np.random.Generator
) -> np.ndarray:
    """Projects the teacher's table to a width and scale."""
    width = table.shape[1]
    if dim == width and scale is None:
        return table
    # Without centering, the large mean that subword vectors share would be the first
    # principal component, the same for all sentences of an averaging student.
    centered = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    if dim <= width:
        _, axes = np.linalg.eigh(centered.T @ centered)  # ascending
        projected = centered @ axes[:, ::-1][:, :dim]
    else:
        orthonormal, _ = np.linalg.qr(random.normal(size=(dim, width)))
        projected = centered @ orthonormal.T
    spread = table.std() if scale is None else scale
    return (projected * (spread / projected.std())).astype(np.float32)


def choose_layers(num_teacher: int, num_student: int) -> list[int]:
    """Chooses evenly spaced layers, including the teacher's last.

    Args:
        num_teacher: Number of layers of the teacher.
        num_student: Number of layers of the student.

    Returns:
        Ascending indices from 0: `choose_layers(6, 3)` is `[1, 3, 5]`.

    Raises:
        InputError: If the student has no layers or more than the teacher.

    References:
        Sanh et al. (2019), DistilBERT, arXiv:1910.01108.
    """
    if not 1 <= num_student <= num_teacher:
        raise InputError(
            f"`num_layers` must be from 1 to {num_teacher}, the teacher's layers, to copy them. "
            f"Received: num_layers={num_student}. Use at most {num_teacher}."
        )
    return [(i + 1) * num_teacher // num_student - 1 for i in range(num_student)]


def copy_embedding_layers(student: TransformerStudent, teacher: Teacher) -> None:
    """Copies the position embeddings and the normalization that follows.

    The teacher's first segment embedding is added to each position, because
    students have no segments and BERT adds it to each token of a single sentence.

    Raises:
        InputError: If the widths differ, or the student reads longer sentences.
    """
    backbone = teacher.model.backbone
    positions = np.asarray(backbone.position_embedding.position_embeddings)
    target = student.position_embedding.position_embeddings
    if positions.shape[1] != target.shape[1] or len(positions) < target.shape[0]:
        raise InputError(
            "To copy positions, the student must have the teacher's width and at most its length. "
            f"Received: student {tuple(target.shape)}, teacher {positions.shape}. "
            f"Use hidden_dim={positions.shape[1]}, sequence_length<={len(positions)}."
        )
    segment = np.asarray(backbone.segment_embedding.embeddings)[0]
    target.assign(positions[: target.shape[0]] + segment)
    _copy_norm(backbone.embeddings_layer_norm, student.embedding_norm)


def copy_block(layer: Any, block: TransformerBlock) -> None:
    """Copies a teacher's encoder layer into a student's block.

    Args:
        layer: A `keras_hub.layers.TransformerEncoder`, built.
        block: The block to overwrite.

    Raises:
        InputError: If the sizes differ.
    """
    if _teacher_sizes(layer) != _sizes_of(block):
        raise InputError(
            "Only a layer of the same hidden_dim, num_heads and intermediate_dim can be copied. "
            f"Received: teacher {_teacher_sizes(layer)}, student {_sizes_of(block)}. "
            "Use the teacher's sizes for the student."
        )
    attention = layer._self_attention_layer
    width = block.hidden_dim
    parts = (attention.query_dense, attention.key_dense, attention.value_dense)
    # (d, heads, key_dim) and (heads, key_dim), flattened with heads first as in the block.
    kernels = [np.reshape(part.kernel, (width, width)) for part in parts]
    biases = [np.reshape(part.bias, (width,)) for part in parts]
    block.qkv_dense.assign(np.concatenate(kernels, axis=1), np.concatenate(biases))
    output = attention.output_dense
    block.output_dense.assign(np.reshape(output.kernel, (width, width)), np.asarray(output.bias))
    block.intermediate_dense.assign(*layer._feedforward_intermediate_dense.get_weights())
    block.feedforward_dense.assign(*layer._feedforward_output_dense.get_weights())
    _copy_norm(layer._self_attention_layer_norm, block.attention_norm)
    _copy_norm(layer._feedforward_layer_norm, block.output_norm)


def _copy_norm(source: Any, target: Any) -> None:
    target.gamma.assign(source.gamma)
    target.beta.assign(source.beta)


def _teacher_sizes(layer: Any) -> tuple[int, int, int]:
    intermediate, hidden = layer._feedforward_output_dense.kernel.shape
    return int(hidden), int(layer.num_heads), int(intermediate)


def _sizes_of(block: TransformerBlock) -> tuple[int, int, int]:
    return block.hidden_dim, block.num_heads, block.intermediate_dim
