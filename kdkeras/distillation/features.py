"""Which outputs the losses read, and whether student and teacher can give them."""

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
    "Asked",
    "asked_outputs",
    "check_student",
    "check_teacher",
    "named_outputs",
    "refuse_other_tokens",
]

Asked = dict[str, str]
"""The name by which a loss reads an output, and the name by which the model offers it."""


def asked_outputs(model: Any, names: Iterable[str]) -> Asked:
    """Returns what to ask a model for; nothing where its plain output says all.

    What is no feature and has no output of its own is read from the embedding,
    as losses with targets of several names read one output.

    Raises:
        InputError: If a loss reads a feature that the model does not offer.
    """
    wanted, specs = set(names), output_specs(model)
    for name in sorted(wanted & set(FEATURES)):
        if specs is not None and not (isinstance(specs, dict) and name in specs):
            offered = list(specs) if isinstance(specs, dict) else "one tensor"
            raise InputError(
                f"A model must offer what the losses read. Received: a loss on {name!r}, "
                f"{type(model).__name__} {model.name!r} offering {offered}. Use a model with "
                "layers (a TransformerStudent, a BERT teacher), or leave the loss out."
            )
    if not isinstance(model, FeatureModel) or specs is None:
        return {}
    offered_names = {name: name if name in specs else EMBEDDING for name in sorted(wanted)}
    return offered_names if set(offered_names.values()) - {EMBEDDING} else {}


def named_outputs(model: Any, inputs: Any, training: bool, asked: Asked) -> Any:
    """Runs a model once: its plain output, or a dict of what is asked for."""
    if not asked:
        return model(inputs, training=training)
    outputs = model(inputs, training=training, outputs=tuple(sorted(set(asked.values()))))
    return {name: outputs[offered] for name, offered in asked.items()}


def output_specs(model: Any) -> Any:
    """Returns the shapes of a model's outputs, by name if it has several; None if not known."""
    if isinstance(model, FeatureModel):
        return model.output_specs()
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if model.built else None
    return model.output if getattr(model, "outputs", None) else None


def check_student(student: Any, losses: Mapping[str, ExampleLoss]) -> None:
    """Refuses losses that cannot read the student's outputs, whatever the targets are.

    Raises:
        InputError: Naming the loss, what it wants, and what the student gives.
    """
    specs = output_specs(student)
    if specs is None:
        return
    for name, loss in losses.items():
        output = getattr(loss, "student_output", EMBEDDING)
        ours = _spec(specs, output, isinstance(student, FeatureModel))
        _refuse_logits(name, output, student, specs)
        _refuse_whole_numbers(name, ours, student)
        if ours is not None:
            loss.check_student(ours)


def check_teacher(student: Any, teacher: Any, distillation: Mapping[str, DistillationLoss]) -> None:
    """Refuses a live teacher whose outputs no loss could compare with the student's.

    Where one of the shapes is not known before a batch is, the loss itself
    looks at them.

    Raises:
        InputError: Naming both sides with their shapes.
    """
    student_specs, teacher_specs = output_specs(student), output_specs(teacher)
    if teacher_specs is None:
        return
    targets = {loss.target for loss in distillation.values()}
    for name, loss in distillation.items():
        if loss.source_only:
            _refuse_other_ids(name, student, teacher)
        # A teacher's only tensor is read by every loss whose target is not cached.
        theirs = _spec(teacher_specs, loss.target, False)
        if isinstance(teacher_specs, keras.KerasTensor) and len(targets) > 1:
            theirs = None
        _refuse_whole_numbers(name, theirs, teacher)
        if student_specs is None or theirs is None:
            continue
        ours = _spec(student_specs, loss.student_output, isinstance(student, FeatureModel))
        if ours is not None:
            loss.check_shapes(theirs, loss.project(ours))


def _spec(specs: Any, name: str, embedding_else: bool) -> Any:
    if not isinstance(specs, dict):
        return specs
    return specs.get(name, specs[EMBEDDING] if embedding_else else None)


def _refuse_logits(name: str, output: str, student: Any, specs: Any) -> None:
    # What is not told by another name is the embedding; of logits that would be no distribution.
    if output == "logits" and isinstance(student, FeatureModel) and output not in specs:
        raise InputError(
            f"A loss on logits needs a student with logits. Received: {name!r}, "
            f"{type(student).__name__} {student.name!r} offering {list(specs)}. Put a head on it: "
            'keras.Model(inputs, {"embedding": e, "logits": keras.layers.Dense(classes)(e)}).'
        )


def _refuse_whole_numbers(name: str, outputs: Any, model: Any) -> None:
    for spec in keras.tree.flatten(outputs):
        if spec is not None and "float" not in str(spec.dtype):
            raise InputError(
                f"A loss reads real numbers. Received: {name!r} on an output of "
                f"{type(model).__name__} {model.name!r} of shape {tuple(spec.shape)} and type "
                f"{spec.dtype}. Give floats."
            )


def _refuse_other_ids(name: str, student: Any, teacher: Any) -> None:
    sizes = [m.vocabulary_size or 0 for m in (student, teacher) if isinstance(m, FeatureModel)]
    if len(sizes) == 2 and sizes[0] > sizes[1] > 0:
        raise InputError(
            "A loss on tokens needs a teacher that reads the student's tokens. Received: "
            f"{name!r}, a student of {sizes[0]} token ids, a teacher of {sizes[1]}. Use the "
            "teacher's vocabulary for the student, or a loss on embeddings."
        )


def refuse_other_tokens(distillation: Mapping[str, DistillationLoss], missing: set[str]) -> None:
    """Refuses losses on tokens in a batch that has tokens of the teacher's own.

    Args:
        distillation: The losses.
        missing: Targets that the live teacher gives.

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
