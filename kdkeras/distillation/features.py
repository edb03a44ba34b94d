"""Which outputs the losses read, and checks that student and teacher offer them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.layers import FeatureModel
from kdkeras.layers.feature_model import EMBEDDING, FEATURES
from kdkeras.losses import DistillationLoss
from kdkeras.losses.base import ExampleLoss

__all__ = [
    "RequestedOutputs",
    "check_student",
    "check_teacher",
    "refuse_teacher_tokens",
    "requested_outputs",
    "run_model",
]

RequestedOutputs = dict[str, str]
"""From the name by which a loss reads an output to the name by which the model offers it."""


def requested_outputs(model: Any, names: Iterable[str]) -> RequestedOutputs:
    """Returns the outputs to request from a model; empty if its default output is enough.

    A name that is neither a feature nor an output of the model stands for the
    embedding: losses with targets of different names read one output.

    Raises:
        InputError: If a loss reads a feature that the model does not offer.
    """
    read, specs = set(names), output_specs(model)
    for name in sorted(read & set(FEATURES)):
        if specs is not None and not (isinstance(specs, dict) and name in specs):
            offered = list(specs) if isinstance(specs, dict) else "one tensor"
            raise InputError(
                f"A model must offer the outputs that the losses read. Received: a loss on "
                f"{name!r}, {type(model).__name__} {model.name!r} offering {offered}. Use a model "
                "with layers (a TransformerStudent, a BERT teacher), or omit the loss."
            )
    if not isinstance(model, FeatureModel) or specs is None:
        return {}
    requested = {name: name if name in specs else EMBEDDING for name in sorted(read)}
    return requested if set(requested.values()) - {EMBEDDING} else {}


def run_model(model: Any, inputs: Any, training: bool, requested: RequestedOutputs) -> Any:
    """Runs a model once; returns its default output, or a dict of the requested outputs."""
    if not requested:
        return model(inputs, training=training)
    outputs = model(inputs, training=training, outputs=tuple(sorted(set(requested.values()))))
    return {name: outputs[offered] for name, offered in requested.items()}


def output_specs(model: Any) -> Any:
    """Returns the specs of a model's outputs, by name if it has several; None if unknown."""
    if isinstance(model, FeatureModel):
        return model.output_specs()
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if model.built else None
    return model.output if getattr(model, "outputs", None) else None


def check_student(student: Any, losses: Mapping[str, ExampleLoss]) -> None:
    """Raises if a loss cannot read the student's outputs, whatever the targets are.

    Raises:
        InputError: Naming the loss, what it needs, and what the student returns.
    """
    specs = output_specs(student)
    if specs is None:
        return
    for name, loss in losses.items():
        output = getattr(loss, "student_output", EMBEDDING)
        spec = _spec(specs, output, isinstance(student, FeatureModel))
        _refuse_missing_logits(name, output, student, specs)
        _refuse_integer_outputs(name, spec, student)
        if spec is not None:
            loss.check_student(spec)


def check_teacher(student: Any, teacher: Any, distillation: Mapping[str, DistillationLoss]) -> None:
    """Raises if the outputs of a live teacher cannot be compared with the student's.

    Where a shape is unknown before the first batch, the loss checks it then.

    Raises:
        InputError: Naming both models with their shapes.
    """
    student_specs, teacher_specs = output_specs(student), output_specs(teacher)
    if teacher_specs is None:
        return
    targets = {loss.target for loss in distillation.values()}
    for name, loss in distillation.items():
        if loss.source_only:
            _refuse_smaller_vocabulary(name, student, teacher)
        # Every loss whose target is not cached reads a teacher's only tensor.
        teacher_spec = _spec(teacher_specs, loss.target, False)
        if isinstance(teacher_specs, keras.KerasTensor) and len(targets) > 1:
            teacher_spec = None
        _refuse_integer_outputs(name, teacher_spec, teacher)
        if student_specs is None or teacher_spec is None:
            continue
        student_spec = _spec(student_specs, loss.student_output, isinstance(student, FeatureModel))
        if student_spec is not None:
            loss.check_shapes(teacher_spec, loss.project(student_spec))


def _spec(specs: Any, name: str, default_to_embedding: bool) -> Any:
    if not isinstance(specs, dict):
        return specs
    return specs.get(name, specs[EMBEDDING] if default_to_embedding else None)


def _refuse_missing_logits(name: str, output: str, student: Any, specs: Any) -> None:
    # Other unknown names stand for the embedding, but an embedding is no distribution.
    if output == "logits" and isinstance(student, FeatureModel) and output not in specs:
        raise InputError(
            f"A loss on logits needs a student with logits. Received: {name!r}, "
            f"{type(student).__name__} {student.name!r} offering {list(specs)}. Add a head: "
            'keras.Model(inputs, {"embedding": e, "logits": keras.layers.Dense(classes)(e)}).'
        )


def _refuse_integer_outputs(name: str, outputs: Any, model: Any) -> None:
    for spec in keras.tree.flatten(outputs):
        if spec is not None and "float" not in str(spec.dtype):
            raise InputError(
                f"A loss needs floating-point outputs. Received: {name!r} on an output of "
                f"{type(model).__name__} {model.name!r} of shape {tuple(spec.shape)} and dtype "
                f"{spec.dtype}. Return floats."
            )


def _refuse_smaller_vocabulary(name: str, student: Any, teacher: Any) -> None:
    sizes = [m.vocabulary_size or 0 for m in (student, teacher) if isinstance(m, FeatureModel)]
    if len(sizes) == 2 and sizes[0] > sizes[1] > 0:
        raise InputError(
            "A loss on tokens needs a teacher that reads the student's tokens. Received: "
            f"{name!r}, a student of {sizes[0]} token ids, a teacher of {sizes[1]}. Use the "
            "teacher's vocabulary for the student, or a loss on embeddings."
        )


def refuse_teacher_tokens(distillation: Mapping[str, DistillationLoss], missing: set[str]) -> None:
    """Raises if a loss compares tokens in a batch with separate tokens for the teacher.

    Args:
        distillation: The losses.
        missing: Targets that the live teacher computes.

    Raises:
        InputError: Naming the loss.
    """
    for name, loss in distillation.items():
        if loss.source_only and loss.target in missing:
            raise InputError(
                "A loss on tokens needs a teacher that reads the student's tokens. Received: "
                f"{name!r}, and a batch with `teacher_token_ids`. Use the teacher's vocabulary "
                "for the student, or a loss on embeddings."
            )
