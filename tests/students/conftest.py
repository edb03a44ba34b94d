"""Students and sentences that the tests of this folder share."""

from __future__ import annotations

import pytest
from small_students import SIZES, make_student


@pytest.fixture(params=SIZES, ids=lambda c: c.__name__)
def student_class(request):
    return request.param


@pytest.fixture
def student(student_class):
    return make_student(student_class)


@pytest.fixture
def reading_student(student_class, vocabulary):
    """A student that reads strings with the bundled sample's vocabulary."""
    return make_student(
        student_class, vocabulary.size, vocabulary=vocabulary, sequence_length=20, output_dim=4
    )


@pytest.fixture
def texts(held_out):
    """Real sentences of many lengths and scripts."""
    return [text for language in ("de", "ja", "ar", "hi") for text in held_out[language][0][:6]]
