"""Our losses inside `keras.distillation.Distiller`."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
from contracts import assert_one_line
from small_models import CLASSES, OUTPUT_DIM, assert_equal_weights, fit, make_distiller, weights

from kdkeras.errors import InputError
from kdkeras.losses import (
    CorrelationDistillation,
    DistillationLoss,
    EmbeddingDistillation,
    KerasLoss,
    Matryoshka,
    PerLayer,
    QueueContrast,
    QueueDistillation,
    RelationalDistance,
    SimilarityDistillation,
    SoftTargets,
    TokenSoftTargets,
)

FEATURES = 5


class TwoHeads(keras.Model):
    """Outputs by name; not a functional model, for which Keras requires equal widths."""

    def __init__(self, width=OUTPUT_DIM, **arguments):
        super().__init__(**arguments)
        self.embedding, self.logits = keras.layers.Dense(width), keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return {"embedding": self.embedding(inputs), "logits": self.logits(inputs)}


def linear(width=OUTPUT_DIM, seed=0):
    """A model of one matrix."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(width)])
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def features(rows=4):
    return np.random.default_rng(3).normal(size=(rows, FEATURES)).astype("float32")


def in_keras(teacher, student, loss, optimizer=None, **arguments):
    """A stock Distiller without a loss on labels."""
    arguments = {"student_loss_weight": 0.0, **arguments}
    distiller = keras.distillation.Distiller(teacher, student, loss, **arguments)
    distiller.compile(optimizer or keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    return distiller


# On one device both compute a mean over the batch.
LOSSES = {
    "cosine": EmbeddingDistillation,
    "mse": lambda: EmbeddingDistillation("mse"),
    "similarity": lambda: SimilarityDistillation(0.5),
    "soft targets": lambda: SoftTargets(2.0, target="embedding"),
    "correlation": lambda: CorrelationDistillation(target="embedding"),
    "distances": RelationalDistance,
    "projection": lambda: EmbeddingDistillation("mse", projection=(OUTPUT_DIM, OUTPUT_DIM)),
    "a loss of Keras": lambda: KerasLoss("huber"),
}


def test_a_step_in_keras_distiller_equals_a_step_in_ours():
    x, teacher = features(), linear(seed=5)
    ours, theirs = ({name: make() for name, make in LOSSES.items()} for _ in range(2))
    for name, loss in ours.items():
        theirs[name].set_weights(loss.get_weights())
        # Each alone has the same value; the step is one with their sum.
        outputs = [np.asarray(model(x)) for model in (teacher, linear())]
        mean = float(np.mean(loss(*outputs)))
        assert float(theirs[name].compute_loss(*outputs)) == pytest.approx(mean, rel=1e-5)
    stock = in_keras(teacher, linear(), list(theirs.values()))
    logs = fit(stock, x, np.zeros((4, OUTPUT_DIM)), epochs=2)
    own = make_distiller(
        linear(), keras.optimizers.SGD(0.1), teacher=teacher, distillation_losses=ours
    )
    own_logs = fit(own, x, None, epochs=2)
    assert_equal_weights(weights(stock.student), weights(own.student), atol=2e-6)
    for name, loss in ours.items():
        assert_equal_weights(loss.get_weights(), theirs[name].get_weights(), atol=2e-6)
    assert np.abs(weights(stock.student)[0] - weights(linear())[0]).max() > 1e-3
    assert logs["distillation_loss"] == pytest.approx(own_logs["loss"], rel=1e-5)


def test_one_step_with_labels_equals_the_formula():
    x, teacher, student = features(), linear(seed=5), linear()
    labels = np.random.default_rng(4).normal(size=(4, OUTPUT_DIM)).astype("float32")
    before = [w.astype("float64") for w in weights(student)]

    def total(parameters):
        output = x @ parameters[0] + parameters[1]
        # Keras computes w * task + (1 - w) * sum(weight * distillation).
        pull = oracles.embedding_cosine(teacher(x).numpy(), output).mean()
        near = oracles.similarity(teacher(x).numpy(), output, 0.5).mean()
        return 0.25 * ((output - labels) ** 2).mean() + 0.75 * (2.0 * pull + 0.5 * near)

    slopes = oracles.gradient(total, before)
    distiller = in_keras(
        teacher,
        student,
        [EmbeddingDistillation(), SimilarityDistillation(0.5)],
        distillation_loss_weights=[2.0, 0.5],
        student_loss_weight=0.25,
    )
    logs = fit(distiller, x, labels)
    assert logs["total_loss"] == pytest.approx([total(before)], rel=1e-5)
    expected = [w - 0.1 * slope for w, slope in zip(before, slopes, strict=True)]
    assert_equal_weights(weights(student), expected, atol=1e-5)


def test_a_projection_is_trained_and_saved(tmp_path):
    keras.utils.set_random_seed(0)
    x, loss = features(16), EmbeddingDistillation("mse", projection=(OUTPUT_DIM, 6))
    teacher, student = TwoHeads(6), TwoHeads()
    teacher(x), student(x)
    distiller = in_keras(teacher, student, loss)
    # Keras requires labels; their weight is 0.
    y = {"embedding": np.zeros((16, OUTPUT_DIM)), "logits": np.zeros((16, CLASSES))}
    distiller.compile(
        keras.optimizers.Adam(0.05), loss={"embedding": "mse", "logits": "mse"}, jit_compile=False
    )
    before = loss.get_weights()[0]
    losses = fit(distiller, x, y, batch_size=16, epochs=60)["distillation_loss"]
    assert np.abs(loss.get_weights()[0] - before).max() > 0.1
    assert losses[-1] < 0.7 * losses[0]
    distiller.save_weights(tmp_path / "d.weights.h5")
    other = EmbeddingDistillation("mse", projection=(OUTPUT_DIM, 6))
    copies = TwoHeads(6), TwoHeads()
    copy = in_keras(*copies, other)
    copies[0](x), copy(x)
    copy.load_weights(tmp_path / "d.weights.h5")
    np.testing.assert_array_equal(other.get_weights()[0], loss.get_weights()[0])


def test_a_saved_keras_distiller_has_the_loss(tmp_path):
    loss = EmbeddingDistillation("mse", projection=(OUTPUT_DIM, OUTPUT_DIM))
    distiller = keras.distillation.Distiller(linear(seed=5), linear(), loss)
    distiller(features())
    distiller.save(tmp_path / "d.keras")
    (copy,) = keras.saving.load_model(tmp_path / "d.keras", compile=False).distillation_losses
    assert copy.get_config() == loss.get_config()
    np.testing.assert_array_equal(copy.get_weights()[0], loss.get_weights()[0])


def test_it_selects_its_target_from_several_outputs():
    x, teacher, student = features(), TwoHeads(), TwoHeads()
    outputs = teacher(x), student(x)
    value = SoftTargets(2.0).compute_loss(*outputs)
    expected = oracles.soft_targets(*(np.asarray(o["logits"], float) for o in outputs), 2.0)
    assert value.shape == ()
    assert float(value) == pytest.approx(expected.mean(), rel=1e-5)


class Masked(DistillationLoss):
    """Needs another part of the batch besides the two outputs."""

    needs = {"padding_mask": "padding_mask"}

    def loss(self, teacher, student, padding_mask):
        return keras.ops.mean(keras.ops.square(teacher - student), axis=-1) * padding_mask[:, 0]


@pytest.mark.parametrize("loss", [Masked, TokenSoftTargets])
def test_a_loss_that_needs_other_parts_of_the_batch_is_refused(loss):
    with pytest.raises(InputError) as error:
        keras.distillation.Distiller(linear(seed=5), linear(), loss())
    assert_one_line(str(error.value), loss.__name__, "['padding_mask']", "Use kdkeras.Distiller")


@pytest.mark.parametrize(
    "loss", [QueueDistillation(OUTPUT_DIM), PerLayer(QueueContrast(OUTPUT_DIM))], ids=type
)
def test_a_loss_with_a_queue_is_refused(loss):
    with pytest.raises(InputError) as error:
        keras.distillation.Distiller(linear(seed=5), linear(), loss)
    assert_one_line(str(error.value), type(loss).__name__, "a memory", "Use kdkeras.Distiller")


FALLING = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5)


@pytest.mark.parametrize(
    "loss",
    [
        SimilarityDistillation(FALLING),
        KerasLoss("mse", FALLING),
        Matryoshka(SimilarityDistillation(FALLING), [2]),
    ],
    ids=type,
)
def test_a_temperature_that_changes_is_refused(loss):
    with pytest.raises(InputError) as error:
        keras.distillation.Distiller(linear(seed=5), linear(), loss)
    assert_one_line(str(error.value), type(loss).__name__, "a schedule", "Use a float")


def test_compute_loss_accepts_the_other_parts():
    teacher, student = np.ones((2, 3)), np.zeros((2, 3))
    mask = np.array([[1.0], [0.0]])
    assert float(Masked().compute_loss(teacher, student, padding_mask=mask)) == 0.5


def test_a_missing_output_is_refused():
    with pytest.raises(InputError) as error:
        EmbeddingDistillation().compute_loss(np.ones((2, 3)), {"logits": np.ones((2, 3))})
    assert_one_line(str(error.value), "['logits']", "'embedding'", "`target`")
