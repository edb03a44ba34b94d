"""Evaluation of encoders by language."""

from kdkeras.evaluation.encoders import Encoder, TruncatedEncoder
from kdkeras.evaluation.evaluators import (
    AsymmetricRetrievalEvaluator,
    EmbeddingSimilarityEvaluator,
    Evaluator,
    TeacherMatchEvaluator,
    TranslationEvaluator,
    evaluate_all,
)

__all__ = [
    "AsymmetricRetrievalEvaluator",
    "EmbeddingSimilarityEvaluator",
    "Encoder",
    "Evaluator",
    "TeacherMatchEvaluator",
    "TranslationEvaluator",
    "TruncatedEncoder",
    "evaluate_all",
]
