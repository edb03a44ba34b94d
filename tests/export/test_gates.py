import math

import pytest

from kdkeras.errors import GateError, InputError
from kdkeras.export.gates import Gates, check_gates, failures


def _parity(artefact, **figures):
    figures = {
        "num_pairs": 1000,
        "cosine_mean": 1.0,
        "cosine_min": 1.0,
        "accuracy_change_points": 0.0,
        **figures,
    }
    return {"artefacts": {artefact: {"languages": {"de": figures}}}}


@pytest.mark.parametrize(
    ("num_pairs", "bound"),
    # 1.5 sentences of 40 are 3.75 points, of 100 1.5 points; from 150 the gate itself is wider.
    [(40, -3.75), (100, -1.5), (150, -1.0), (1000, -1.0)],
)
def test_accuracy_bound_is_never_tighter_than_one_and_a_half_sentences(num_pairs, bound):
    assert Gates().accuracy_bound(num_pairs) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("artefact", "figures", "expected"),
    [
        ("tflite_float32", {"cosine_min": 0.999991}, None),
        ("tflite_float32", {"cosine_min": 0.99998}, "least cosine to Keras 0.999980"),
        ("saved_model", {"cosine_min": 0.5}, "least cosine to Keras 0.500000 is below 0.99999"),
        ("tflite_int8", {"cosine_min": 0.5, "cosine_mean": 0.991}, None),
        ("tflite_int8", {"cosine_mean": 0.98}, "mean cosine to Keras 0.980000 is below 0.99"),
        ("tflite_int8", {"cosine_mean": math.nan}, "mean cosine to Keras NaN"),
        ("tflite_int8", {"accuracy_change_points": -1.0}, None),
        (
            "tflite_int8",
            {"accuracy_change_points": -1.1},
            "changed by -1.10 points, the bound is -1.00",
        ),
        ("tflite_int8", {"accuracy_change_points": -1.5, "num_pairs": 100}, None),
        (
            "tflite_int8",
            {"accuracy_change_points": -2.0, "num_pairs": 100},
            "changed by -2.00 points",
        ),
        ("tflite_int8", {"accuracy_change_points": 3.0}, None),
    ],
)
def test_gate_decides(artefact, figures, expected):
    found = failures(_parity(artefact, **figures), Gates())
    assert len(found) == (expected is not None)
    if expected:
        assert found[0].startswith(f"{artefact} in de: ")
        assert expected in found[0]


def test_failed_gate_names_artefact_language_and_figure():
    parity = _parity("tflite_int8", cosine_mean=0.5)
    with pytest.raises(GateError, match="tflite_int8 in de: mean cosine to Keras 0.500000"):
        check_gates({**parity, "failures": failures(parity, Gates())})


@pytest.mark.parametrize(
    "bounds",
    [
        {"int8_cosine_mean": 1.1},
        {"float32_cosine_min": math.nan},
        {"int8_accuracy_change_points": 0.5},
    ],
)
def test_impossible_bound_is_refused(bounds):
    with pytest.raises(InputError, match=f"`{next(iter(bounds))}` must be between"):
        Gates(**bounds)
