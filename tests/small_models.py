"""Small models and batches for tests of the Distiller."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from kdkeras import teachers
from kdkeras.distillation import Distiller, UncertaintyWeighting
from kdkeras.layers import EmbeddingTable, MeanPooling
from kdkeras.losses import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    Matryoshka,
    MiniLMv2,
    PerLayer,
    QueueDistillation,
    SimilarityDistillation,
    TranslationRanking,
    top_k_targets,
)
from kdkeras.schedules import LinearDecay, LinearWarmup
from kdkeras.students import StaticStudent, TransformerStudent
from kdkeras.training import Backup, Stages

TINY_BERT = Path(__file__).parent / "teachers" / "tiny_bert" / "mean"
VOCABULARY_SIZE, OUTPUT_DIM, CLASSES = 7, 3, 4


def pairs(rows=4, seed=0):
    """Source and translation ids, in which token 3 is in every sentence; teacher vectors."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, VOCABULARY_SIZE, (2, rows, 4)).astype("int32")
    ids[:, :, 1] = 3
    mask = (np.arange(4) < generator.integers(2, 5, (2, rows, 1))).astype("int32")
    x = {
        f"{side}_{name}": values[i]
        for i, side in enumerate(("source", "translation"))
        for name, values in (("token_ids", ids), ("padding_mask", mask))
    }
    x["source_id"] = np.arange(rows)
    return x, {"embedding": generator.normal(size=(rows, OUTPUT_DIM)).astype("float32")}


def one_side(x, side="source"):
    """The student's inputs for one side."""
    return {name: x[f"{side}_{name}"] for name in ("token_ids", "padding_mask")}


def make_student(seed=0, **arguments):
    """A static student of 37 random weights."""
    student = StaticStudent(VOCABULARY_SIZE, OUTPUT_DIM, 2, **arguments)
    return randomized(student, seed)


def randomized(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def make_two_heads(seed=0, dropout=0.0, regularizer=None):
    """A model with the outputs `embedding` and `logits`."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    mean = MeanPooling()(EmbeddingTable(VOCABULARY_SIZE, 2)(ids), mask)
    hidden = keras.layers.Dropout(dropout)(mean)
    outputs = {
        "embedding": keras.layers.Dense(OUTPUT_DIM, kernel_regularizer=regularizer)(hidden),
        "logits": keras.layers.Dense(CLASSES)(hidden),
    }
    return randomized(keras.Model({"token_ids": ids, "padding_mask": mask}, outputs), seed)


def make_tagger(seed=0):
    """A model with the output `logits` for every token, which depends on the whole sentence."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    tokens = EmbeddingTable(VOCABULARY_SIZE, 3)(ids)
    hidden = tokens + keras.ops.expand_dims(MeanPooling()(tokens, mask), 1)
    outputs = {"logits": keras.layers.Dense(CLASSES)(hidden)}
    return randomized(keras.Model({"token_ids": ids, "padding_mask": mask}, outputs), seed)


def logit_targets(*rows, seed=1):
    """A teacher's logits of that many rows (and tokens), and their cached top two."""
    logits = np.random.default_rng(seed).normal(size=(*rows, CLASSES)).astype("float32")
    top = {name: np.array(kept) for name, kept in top_k_targets(logits, 2, (1.0, 2.0)).items()}
    return {"logits": logits, **top}


def make_distiller(student=None, optimizer=None, **arguments):
    """A compiled Distiller; with one cosine loss by default."""
    compiled = {name: arguments.pop(name) for name in COMPILED & set(arguments)}
    arguments.setdefault("distillation_losses", {"embedding": EmbeddingDistillation()})
    distiller = Distiller(student or make_student(), **arguments)
    optimizer = optimizer or keras.optimizers.SGD(0.5)
    distiller.compile(optimizer, **{"jit_compile": False, **compiled})
    return distiller


COMPILED = {"loss", "metrics", "jit_compile", "run_eagerly", "steps_per_execution"}


def every_loss():
    """Arguments of a Distiller with three losses of different weights."""
    return {
        "distillation_losses": {
            "embedding": EmbeddingDistillation(),
            "similarity": SimilarityDistillation(temperature=0.5),
        },
        "alignment_losses": {"ranking": TranslationRanking(margin=0.1, scale=3.0)},
        "loss_weights": {"embedding": 2.0, "similarity": 0.5, "ranking": 0.25},
    }


def everything(balancing=UncertaintyWeighting, **arguments):
    """A Distiller with features, a queue, schedules and a balancing, and a live BERT teacher."""
    falling = keras.optimizers.schedules.PolynomialDecay(1.0, 6, 0.3)
    losses = {
        "hidden": randomized(HiddenStateDistillation(projection=(4, 32), embedding_layer=True)),
        "attention": MiniLMv2(2, student_layer=1),
        "queue": QueueDistillation(32, 6, falling),
        "prefixes": PerLayer(Matryoshka(SimilarityDistillation(falling), [8, 32])),
    }
    return make_distiller(
        randomized(TransformerStudent(VOCABULARY_SIZE, 32, 2, 4, 2, 6, dropout=0.0)),
        teacher=teachers.load(TINY_BERT).model,
        distillation_losses=losses,
        alignment_losses={"ranking": TranslationRanking(scale=3.0)},
        loss_weights={"hidden": LinearDecay(1.0, 1.0, 20), "ranking": LinearWarmup(1.0, 4, 0.5)},
        balancing=balancing(),
        **{"optimizer": keras.optimizers.SGD(0.02), **arguments},
    )


def fit(distiller, x, y, batch_size=4, **arguments):
    """Runs `fit` without shuffling; returns the logs of every epoch."""
    arguments = {"shuffle": False, "verbose": 0, **arguments}
    return distiller.fit(x, y, batch_size=batch_size, **arguments).history


def weights(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_equal_weights(actual, expected, atol=0.0):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def fit_stages(distiller, data, stages, callbacks=(), backup=None, **arguments):
    """Trains in stages, with a backup in a folder (or a `Backup`) if one is given."""
    kept = [] if backup is None else [backup if isinstance(backup, Backup) else Backup(backup)]
    return distiller.fit(data, callbacks=[*callbacks, *kept, Stages(stages)], **arguments)
