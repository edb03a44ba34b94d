import math

import numpy as np
import pytest

from kdkeras.errors import GateError, InputError
from kdkeras.evaluation.metrics import spearman
from kdkeras.export.formats import ExportFormat
from kdkeras.export.gates import MIN_SIMILARITY_PAIRS, Gates, check_gates, failures


def _parity(artifact, **figures):
    figures = {
        "num_pairs": 1000,
        "cosine_mean": 1.0,
        "cosine_min": 1.0,
        "accuracy_change_points": 0.0,
        **figures,
    }
    return {"artifacts": {artifact: {"languages": {"de": figures}}}}


@pytest.mark.parametrize(
    ("artifact", "num_pairs", "bound"),
    # 1.5 sentences are 3.75 points of 40 pairs, 1.5 points of 100, and 0.5 points of 300.
    [
        ("tflite_int8", 40, -3.75),
        ("tflite_int8", 100, -1.5),
        ("tflite_int8", 300, -0.5),
        ("tflite_int8", 1000, -0.5),
        ("tflite_float16", 1000, -0.5),
        ("tflite_int8_weight_only", 1000, -0.5),
        ("tflite_int4", 40, -3.75),
        ("tflite_int4", 100, -1.5),
        ("tflite_int4", 1000, -1.5),
    ],
)
def test_accuracy_bound_is_never_tighter_than_one_and_a_half_sentences(artifact, num_pairs, bound):
    found = Gates().accuracy_bound(ExportFormat(artifact), num_pairs)
    assert found == pytest.approx(bound)


@pytest.mark.parametrize("num_pairs", [20, MIN_SIMILARITY_PAIRS])
def test_near_tie_changes_a_correlation_by_at_most_the_documented_amount(num_pairs):
    """Swaps neighbors in the order of cosines that are farthest apart in the order of scores."""
    cosines = np.arange(num_pairs, dtype=float)
    scores = cosines.copy()
    scores[[0, 1]] = num_pairs, -1.0
    swapped = cosines.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    moved = abs(spearman(swapped, scores) - spearman(cosines, scores))
    limit = 12 / (num_pairs * (num_pairs + 1))
    assert moved == pytest.approx(limit)
    if num_pairs == MIN_SIMILARITY_PAIRS:
        assert 100 * limit < -Gates().int8_spearman_change_points / 4


@pytest.mark.parametrize(
    ("artifact", "figures", "expected"),
    [
        ("tflite_float32", {"cosine_min": 0.999991}, None),
        ("tflite_float32", {"cosine_min": 0.99998}, "minimum cosine to Keras 0.999980"),
        ("saved_model", {"cosine_min": 0.5}, "minimum cosine to Keras 0.500000 is below 0.99999"),
        ("tflite_int8", {"cosine_min": 0.5, "cosine_mean": 0.991}, None),
        ("tflite_int8", {"cosine_mean": 0.98}, "mean cosine to Keras 0.980000 is below 0.99"),
        ("tflite_int8", {"cosine_mean": math.nan}, "mean cosine to Keras NaN"),
        ("tflite_int8", {"accuracy_change_points": -0.5}, None),
        (
            "tflite_int8",
            {"accuracy_change_points": -0.6},
            "changed by -0.60 points, the bound is -0.50",
        ),
        ("tflite_float16", {"cosine_min": 0.9998}, "minimum cosine to Keras 0.999800 is below"),
        ("tflite_float16", {"accuracy_change_points": -0.6}, "accuracy changed by -0.60 points"),
        ("tflite_int8_weight_only", {"accuracy_change_points": -0.6}, "changed by -0.60 points"),
        ("tflite_int4", {"cosine_mean": 0.96, "accuracy_change_points": -1.5}, None),
        ("tflite_int4", {"cosine_mean": 0.94}, "mean cosine to Keras 0.940000 is below 0.95"),
        ("tflite_int4", {"accuracy_change_points": -1.6}, "-1.60 points, the bound is -1.50"),
        ("tflite_int8", {"accuracy_change_points": -1.5, "num_pairs": 100}, None),
        (
            "tflite_int8",
            {"accuracy_change_points": -2.0, "num_pairs": 100},
            "changed by -2.00 points",
        ),
        ("tflite_int8", {"accuracy_change_points": 3.0}, None),
    ],
)
def test_gates_of_retrieval(artifact, figures, expected):
    found = failures(_parity(artifact, **figures), Gates())
    assert len(found) == (expected is not None)
    if expected:
        assert found[0].startswith(f"{artifact} in de: ")
        assert expected in found[0]


@pytest.mark.parametrize(
    ("artifact", "figures", "expected"),
    [
        ("tflite_int8", {"spearman_change_points": -0.5}, None),
        ("tflite_int8", {"spearman_change_points": -0.51}, "-0.51 points, the bound is -0.50"),
        ("tflite_int4", {"spearman_change_points": -1.4}, None),
        ("tflite_int4", {"spearman_change_points": -1.6}, "-1.60 points, the bound is -1.50"),
        ("tflite_int4", {"spearman_change_points": math.nan}, "changed by +nan points"),
        ("tflite_float16", {"spearman_change_points": -0.6}, "-0.60 points, the bound is -0.50"),
        ("tflite_int8", {"cosine_mean": 0.98}, "mean cosine to Keras 0.980000 is below 0.99"),
        ("saved_model", {"cosine_min": 0.98}, "minimum cosine to Keras 0.980000 is below"),
    ],
)
def test_gates_of_similarity(artifact, figures, expected):
    parity = _parity(artifact)
    pairs = {"num_pairs": 250, "cosine_mean": 1.0, "cosine_min": 1.0, "spearman_change_points": 0.0}
    parity["artifacts"][artifact]["similarity"] = {"en_de_test": {**pairs, **figures}}
    found = failures(parity, Gates())
    assert len(found) == (expected is not None)
    if expected:
        assert found[0].startswith(f"{artifact} in en_de_test: ") and expected in found[0]


def test_failed_gate_names_artifact_language_and_figure():
    parity = _parity("tflite_int8", cosine_mean=0.5)
    with pytest.raises(GateError, match="tflite_int8 in de: mean cosine to Keras 0.500000"):
        check_gates({**parity, "failures": failures(parity, Gates())})


@pytest.mark.parametrize(
    "bounds",
    [
        {"int8_cosine_mean": 1.1},
        {"float32_cosine_min": math.nan},
        {"int8_accuracy_change_points": 0.5},
        {"int4_spearman_change_points": -101.0},
        {"float16_cosine_min": -2.0},
    ],
)
def test_bound_out_of_range_is_refused(bounds):
    with pytest.raises(InputError, match=f"`{next(iter(bounds))}` must be between"):
        Gates(**bounds)
