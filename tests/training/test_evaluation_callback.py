"""EvaluationCallback in a training with real sentences."""

from __future__ import annotations

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from tatoeba_sentences import ENGLISH, GERMAN

from kdkeras import Distiller, InputError, losses
from kdkeras.data import train_vocabulary
from kdkeras.evaluation import TeacherMatchEvaluator, TranslationEvaluator
from kdkeras.students import StaticStudent
from kdkeras.training import EvaluationCallback

KEYS = {
    "held_out_en_teacher_match",
    "tatoeba_deu_accuracy",
    "tatoeba_deu_to_english_accuracy",
    "tatoeba_deu_from_english_accuracy",
}


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary(GERMAN + ENGLISH, size=200, kind="wordpiece")


@pytest.fixture
def distiller(vocabulary, tiny_teacher):
    keras.utils.set_random_seed(0)
    student = StaticStudent(
        vocabulary.size, tiny_teacher.embedding_dim, 16, vocabulary=vocabulary, normalize=True
    )
    model = Distiller(student, distillation_losses={"embedding": losses.EmbeddingDistillation()})
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    return model


@pytest.fixture
def batches(vocabulary, tiny_teacher):
    source, translation = vocabulary.encode(ENGLISH, 24), vocabulary.encode(GERMAN, 24)
    length = max(source["token_ids"].shape[1], translation["token_ids"].shape[1])
    x = {"source_id": np.arange(12, dtype=np.int64)}
    for side, tokens in (("source", source), ("translation", translation)):
        for key, value in tokens.items():
            x[f"{side}_{key}"] = np.pad(value, ((0, 0), (0, length - value.shape[1])))
    y = {"embedding": tiny_teacher.encode(ENGLISH)}
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(12, drop_remainder=True)


@pytest.fixture
def evaluators(tiny_teacher):
    return [
        TeacherMatchEvaluator("held_out_en", ENGLISH, tiny_teacher.encode(ENGLISH)),
        TranslationEvaluator("tatoeba_deu", GERMAN, ENGLISH),
    ]


def test_results_are_in_history_and_csv(distiller, batches, evaluators, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callback = EvaluationCallback(evaluators)
    history = distiller.fit(batches, epochs=3, verbose=0, callbacks=[callback, logger]).history
    assert history.keys() >= KEYS
    match = history["held_out_en_teacher_match"]
    assert len(match) == 3
    assert match[-1] > match[0]
    # The last results are those of the trained student.
    assert match[-1] == pytest.approx(evaluators[0](distiller.student)["held_out_en_teacher_match"])
    with open(tmp_path / "log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["held_out_en_teacher_match"]) for row in rows] == pytest.approx(match)


def test_results_are_repeated_between_evaluations(distiller, batches, evaluators):
    callback = EvaluationCallback(evaluators[:1], every=2)
    history = distiller.fit(batches, epochs=4, verbose=0, callbacks=[callback]).history
    first, second, third, fourth = history["held_out_en_teacher_match"]
    assert first != second
    assert second == third
    assert third != fourth


def test_a_student_can_be_the_model(distiller, evaluators):
    callback = EvaluationCallback(evaluators)
    callback.set_model(distiller.student)
    callback.on_train_begin()
    logs = {}
    callback.on_epoch_end(0, logs)
    assert logs.keys() == KEYS


def test_a_model_that_cannot_encode_is_refused_before_training(evaluators):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(InputError, match="Received: Sequential"):
        model.fit(
            np.ones((2, 3)), np.ones(2), verbose=0, callbacks=[EvaluationCallback(evaluators)]
        )


@pytest.mark.parametrize("every", [0, -1])
def test_every_must_be_positive(evaluators, every):
    with pytest.raises(InputError, match=f"every={every}"):
        EvaluationCallback(evaluators, every=every)


def test_no_evaluators_are_refused():
    with pytest.raises(InputError, match="0 evaluators"):
        EvaluationCallback([])
