"""Small students in which all weights are random."""

from __future__ import annotations

import numpy as np

from kdkeras.students import StaticStudent, TransformerStudent

SIZES = {
    StaticStudent: {"embedding_dim": 6},
    TransformerStudent: {
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "intermediate_dim": 12,
    },
}


def make_student(student_class, vocabulary_size=20, output_dim=5, **arguments):
    """Creates a student with random weights, including biases and normalizations."""
    student = student_class(vocabulary_size, output_dim, **{**SIZES[student_class], **arguments})
    generator = np.random.default_rng(0)
    student.set_weights([w + generator.normal(0, 0.3, w.shape) for w in student.get_weights()])
    return student
