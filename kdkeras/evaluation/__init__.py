"""Evaluation of encoders by language."""

from kdkeras.evaluation.encoders import Encoder, TruncatedEncoder
from kdkeras.evaluation.evaluator import Evaluator, evaluate_all
from kdkeras.evaluation.retrieval import AsymmetricRetrievalEvaluator, TranslationEvaluator
from kdkeras.evaluation.similarity import EmbeddingSimilarityEvaluator, TeacherMatchEvaluator

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
