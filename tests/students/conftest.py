"""Students and sentences shared by the tests of students."""

from __future__ import annotations

import pytest
from small_students import SIZES, make_student


@pytest.fixture(scope="module", params=SIZES, ids=lambda c: c.__name__)
def student_class(request):
    return request.param


@pytest.fixture(scope="module")
def student(student_class):
    """A small student. Tests must not change it."""
    return make_student(student_class)


@pytest.fixture(scope="module")
def reading_student(student_class, vocabulary):
    """A student with the vocabulary of the bundled sample. Tests must not change it."""
    return make_student(
        student_class, vocabulary.size, vocabulary=vocabulary, sequence_length=20, output_dim=4
    )


@pytest.fixture(scope="module")
def texts(held_out):
    """Real sentences of different lengths and scripts."""
    return [text for language in ("de", "ja", "ar", "hi") for text in held_out[language][0][:6]]
