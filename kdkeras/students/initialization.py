"""Starting a student from its teacher's weights."""

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
    "project_token_embeddings",
    "teacher_pieces",
]


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """What a student took from its teacher.

    Attributes:
        shared_tokens: Tokens that are the teacher's own.
        composed_tokens: Tokens that start at the mean of the teacher's pieces.
        num_tokens: All tokens of the student.
        layers: Which of the teacher's layers became the student's blocks, from
            0; empty if the widths differ.
    """

    shared_tokens: int
    composed_tokens: int
    num_tokens: int
    layers: tuple[int, ...]


def initialize_from_teacher(student: Student, teacher: Teacher, seed: int = 0) -> Initialization:
    """Copies into a student what its teacher can give.

    Every student gets token vectors. A `TransformerStudent` with the teacher's
    widths (hidden, heads, feed-forward) also gets positions and layers, evenly
    dropped when it has fewer; its token vectors are then the teacher's own,
    since its layers were trained for them.

    Args:
        student: An untrained student with a vocabulary.
        teacher: A BERT teacher.
        seed: Seed of the rows that stay random.

    Returns:
        What was taken.

    Raises:
        InputError: If the student has no vocabulary, or more layers of the
            teacher's width than the teacher has.
    """
    if student.vocabulary is None:
        raise InputError(
            "Initialisation from a teacher matches tokens by their text. "
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
    vectors, shared, composed = _token_vectors(
        student.vocabulary, teacher, embedding.dim, seed, scale
    )
    embedding.assign(vectors)
    return Initialization(
        shared_tokens=int(shared.sum()),
        composed_tokens=int(composed.sum()),
        num_tokens=len(vectors),
        layers=tuple(chosen),
    )


def project_token_embeddings(
    vocabulary: Vocabulary,
    teacher: Teacher,
    dim: int,
    seed: int = 0,
    scale: float | None = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Makes a student's token table out of the teacher's.

    A token whose surface (text, and whether it starts a word) or special name
    is one of the teacher's takes that vector. Another takes the mean of the
    pieces into which the teacher cuts its text, unless the teacher does not
    know it or spells it letter by letter, which says nothing. The rest is
    random.

    Vectors are projected by PCA of the teacher's table, *centred*: subword
    vectors share a large mean, which without centring would be the first
    component, and in an averaging student a constant that tells no sentence
    from another. Where `dim` exceeds the teacher's width they are embedded by
    random orthonormal rows, which keep every inner product. Where `dim` is the
    teacher's width and `scale` is None they are the teacher's, unchanged.

    Args:
        vocabulary: The student's vocabulary.
        teacher: The teacher.
        dim: Width of the student's table.
        seed: Seed of the random rows and projection.
        scale: Standard deviation of the table; None keeps the teacher's.

    Returns:
        The table, `(vocabulary.size, dim)` float32, and `(vocabulary.size,)`
        bool, true where the token is the teacher's own.

    References:
        Tulkens, van Dongen (2024), Model2Vec; Mu, Viswanath (2018), All-but-
        the-Top, arXiv:1702.01417.
    """
    vectors, shared, _ = _token_vectors(vocabulary, teacher, dim, seed, scale)
    return vectors, shared


def _token_vectors(
    vocabulary: Vocabulary, teacher: Teacher, dim: int, seed: int, scale: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    """Finds what a teacher reads in the place of each token.

    Args:
        vocabulary: The tokens.
        teacher: The teacher.
        tokens: Its own, as `teacher.token_embeddings()` gives them.

    Returns:
        Rows of the teacher's table by token, none where it does not know the
        text or spells it letter by letter, and `(vocabulary.size,)` bool, true
        where the token is the teacher's own.
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
    # Special tokens spell nothing and are known by their name.
    return surface if surface[0] else token


def _pieces(text: str, teacher: Teacher, tokens: list[str]) -> list[int] | None:
    pieces = teacher.pieces(text) if text.strip() else None
    if pieces is None:
        return None
    surfaces = [teacher.surface(tokens[piece]) for piece in pieces]
    letters = sum(len(spelt) == 1 and not starts for spelt, starts in surfaces)
    return None if 2 * letters > len(pieces) else pieces


def _project(
    table: np.ndarray, dim: int, scale: float | None, random: np.random.Generator
) -> np.ndarray:
    width = table.shape[1]
    if dim == width and scale is None:
        return table
    centred = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    if dim <= width:
        _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
        projected = centred @ axes[:, ::-1][:, :dim]
    else:
        orthonormal, _ = np.linalg.qr(random.normal(size=(dim, width)))
        projected = centred @ orthonormal.T
    spread = table.std() if scale is None else scale
    return (projected * (spread / projected.std())).astype(np.float32)


def choose_layers(num_teacher: int, num_student: int) -> list[int]:
    """Chooses evenly spaced layers, ending at the teacher's last.

    Args:
        num_teacher: Layers of the teacher.
        num_student: Layers wanted.

    Returns:
        Indices from 0, ascending: `choose_layers(6, 3)` is `[1, 3, 5]`.

    Raises:
        InputError: If the student has none or more than the teacher.

    References:
        Sanh et al. (2019), DistilBERT, arXiv:1910.01108.
    """
    if not 1 <= num_student <= num_teacher:
        raise InputError(
            "A student can take from one to all of its teacher's layers. "
            f"Received: {num_student} layers wanted of {num_teacher}. "
            f"Use at most {num_teacher}."
        )
    return [(i + 1) * num_teacher // num_student - 1 for i in range(num_student)]


def copy_embedding_layers(student: TransformerStudent, teacher: Teacher) -> None:
    """Copies positions and the norm after them.

    The teacher's first segment vector is added to every position: BERT adds
    it to every token of a single sentence, and a student has no segments.

    Raises:
        InputError: If the widths differ, or the student is longer.
    """
    backbone = teacher.model.backbone
    positions = np.asarray(backbone.position_embedding.position_embeddings)
    target = student.position_embedding.position_embeddings
    if positions.shape[1] != target.shape[1] or len(positions) < target.shape[0]:
        raise InputError(
            "To copy positions, the student needs the teacher's width and at most its length. "
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
        InputError: If widths or heads differ.
    """
    if _teacher_sizes(layer) != _sizes_of(block):
        raise InputError(
            "A layer can be copied between equal widths only (hidden, heads, feed-forward). "
            f"Received: teacher {_teacher_sizes(layer)}, student {_sizes_of(block)}. "
            "Give the student the teacher's sizes, or start it from token vectors alone."
        )
    attention = layer._self_attention_layer
    width = block.hidden_dim
    parts = (attention.query_dense, attention.key_dense, attention.value_dense)
    # (d, heads, key_dim) and (heads, key_dim) flatten heads first, as the block reads them.
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
