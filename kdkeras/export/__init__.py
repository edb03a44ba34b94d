"""Export: artifacts for deployment, their comparison with Keras, report and model card.

Every name is imported on first use, so that a process that only runs an
exported student in LiteRT does not import TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdkeras.export.exporter import Artifacts, export_student
    from kdkeras.export.formats import ExportFormat
    from kdkeras.export.gates import Gates, check_gates
    from kdkeras.export.lite import LiteStudent
    from kdkeras.export.model_card import TrainingData, write_model_card
    from kdkeras.export.parity import verify
    from kdkeras.export.report import write_report
    from kdkeras.export.size_search import FittedStudent, fit_size

_HOMES = {
    "Artifacts": "exporter",
    "ExportFormat": "formats",
    "FittedStudent": "size_search",
    "Gates": "gates",
    "LiteStudent": "lite",
    "TrainingData": "model_card",
    "check_gates": "gates",
    "export_student": "exporter",
    "fit_size": "size_search",
    "verify": "parity",
    "write_model_card": "model_card",
    "write_report": "report",
}

__all__ = [
    "Artifacts",
    "ExportFormat",
    "FittedStudent",
    "Gates",
    "LiteStudent",
    "TrainingData",
    "check_gates",
    "export_student",
    "fit_size",
    "verify",
    "write_model_card",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"kdkeras.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kdkeras.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
