"""Evaluation: how good an encoder is, by language."""

from kdkeras.evaluation.evaluators import (
    AsymmetricRetrievalEvaluator,
    EmbeddingSimilarityEvaluator,
    Encoder,
    Evaluator,
    TeacherMatchEvaluator,
    TranslationEvaluator,
    evaluate_all,
)
from kdkeras.evaluation.metrics import (
    RetrievalAccuracy,
    retrieval_accuracy,
    spearman,
    teacher_match,
)
from kdkeras.evaluation.read import read_asymmetric_retrieval, read_retrieval, read_similarity
from kdkeras.evaluation.truncated_encoder import TruncatedEncoder

__all__ = [
    "AsymmetricRetrievalEvaluator",
    "Encoder",
    "Evaluator",
    "RetrievalAccuracy",
    "TranslationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "TeacherMatchEvaluator",
    "TruncatedEncoder",
    "evaluate_all",
    "read_asymmetric_retrieval",
    "read_retrieval",
    "read_similarity",
    "retrieval_accuracy",
    "spearman",
    "teacher_match",
]
