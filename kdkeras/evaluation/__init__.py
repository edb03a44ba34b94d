"""Evaluation: how good an encoder is, by language."""

from kdkeras.evaluation.callback import EvaluationCallback
from kdkeras.evaluation.evaluators import (
    AsymmetricRetrievalEvaluator,
    Encoder,
    Evaluator,
    RetrievalEvaluator,
    SimilarityEvaluator,
    TeacherMatchEvaluator,
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
    "EvaluationCallback",
    "Evaluator",
    "RetrievalAccuracy",
    "RetrievalEvaluator",
    "SimilarityEvaluator",
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
