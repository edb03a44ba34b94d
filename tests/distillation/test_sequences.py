"""Word-level and sequence-level distillation of a small sequence-to-sequence student."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import oracles_logits
import pytest
from contracts import assert_one_line
from small_models import (
    VOCABULARY_SIZE,
    assert_equal_weights,
    fit,
    logit_targets,
    make_distiller,
    make_tagger,
    one_side,
    pairs,
    randomized,
    weights,
)

from kdkeras.errors import InputError
from kdkeras.layers import EmbeddingTable, MeanPooling
from kdkeras.losses import (
    TokenCrossEntropy,
    TokenSoftTargets,
    TokenTopKSoftTargets,
    top_k_targets,
)

END, LENGTH, ROWS = 0, 5, 24
"""The last token, which also starts the decoder; source sentences have four tokens."""
MASK = "decoder_padding_mask"


def make_translator(width, seed):
    """Encodes a sentence and decodes a prefix; `logits` for every position of the prefix."""
    names = ("token_ids", "padding_mask", "decoder_token_ids", MASK)
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    tokens = EmbeddingTable(VOCABULARY_SIZE, width)(inputs["token_ids"])
    sentence = MeanPooling()(tokens, inputs["padding_mask"])
    prefix = EmbeddingTable(VOCABULARY_SIZE, width)(inputs["decoder_token_ids"])
    mask = keras.ops.cast(inputs[MASK], "bool")
    states = keras.layers.GRU(width, return_sequences=True)(
        prefix, initial_state=sentence, mask=mask
    )
    logits = keras.layers.Dense(VOCABULARY_SIZE)(states)
    return randomized(keras.Model(inputs, {"logits": logits}), seed)


def after(model, source, prefixes):
    """Log-probabilities of the token after each prefix, `(rows, beams, V)`."""
    rows, beams, length = prefixes.shape
    started = np.concatenate([np.full((rows, beams, 1), END), prefixes], axis=2)
    inputs = {name: np.repeat(values, beams, axis=0) for name, values in source.items()}
    inputs["decoder_token_ids"] = started.reshape(-1, length + 1)
    inputs[MASK] = np.ones_like(inputs["decoder_token_ids"])
    logits = np.array(model(inputs)["logits"])[:, -1]
    return oracles.log_softmax(logits).reshape(rows, beams, -1)


def beam_search(model, source, beams):
    """The most probable of `beams` sequences per row, `(rows, LENGTH)`; -1 after its end."""
    rows = len(source["token_ids"])
    found, scores = np.zeros((rows, 1, 0), int), np.zeros((rows, 1))
    for _ in range(LENGTH):
        log_p = after(model, source, np.maximum(found, END))
        ended = (found == END).any(axis=2)
        log_p[ended] = np.where(np.arange(VOCABULARY_SIZE) == END, 0.0, -np.inf)
        total = (scores[:, :, None] + log_p).reshape(rows, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        beam, token = np.divmod(best, VOCABULARY_SIZE)
        scores = np.take_along_axis(total, best, axis=1)
        token = np.where(np.take_along_axis(ended, beam, axis=1), -1, token)
        kept = np.take_along_axis(found, beam[:, :, None], axis=1)
        found = np.concatenate([kept, token[:, :, None]], axis=2)
    return found[:, 0]


@pytest.fixture(scope="module")
def teacher():
    model = make_translator(8, seed=3)
    *others, bias = model.get_weights()
    bias[END] += 2.0  # So that some sequences are shorter than others.
    model.set_weights([*others, bias])
    return model


@pytest.fixture(scope="module")
def batch(teacher):
    """Sentences, the teacher's beam as the decoder's prefix and as labels, and its logits."""
    source = one_side(pairs(rows=ROWS)[0])
    label = beam_search(teacher, source, beams=3)
    started = np.concatenate([np.full((ROWS, 1), END), label[:, :-1]], axis=1)
    inputs = {**source, "decoder_token_ids": np.maximum(started, END), MASK: 1 * (label >= 0)}
    logits = np.array(teacher(inputs)["logits"])
    x = {f"source_{name}": values.astype("int32") for name, values in inputs.items()}
    return x, {"label": label, "logits": logits, **map_numpy(top_k_targets(logits, 3))}


def map_numpy(targets):
    return {name: np.array(values) for name, values in targets.items()}


def logits_of(model, x):
    return np.array(model({n.removeprefix("source_"): v for n, v in x.items()})["logits"])


def only(y, *names):
    return {name: y[name] for name in names}


def adam():
    return keras.optimizers.Adam(0.03)


def test_the_beam_ends_at_different_lengths(batch):
    lengths = batch[0][f"source_{MASK}"].sum(axis=1)
    assert lengths.min() < LENGTH and lengths.max() == LENGTH


def test_sequence_level_student_decodes_as_the_teachers_beam(batch):
    x, y = batch
    distiller = make_distiller(
        make_translator(12, seed=2), adam(), distillation_losses={}, loss=TokenCrossEntropy()
    )
    source = {name: x[f"source_{name}"] for name in ("token_ids", "padding_mask")}
    before = beam_search(distiller.student, source, beams=1)
    assert (before == y["label"]).all(axis=1).mean() < 0.2
    history = fit(distiller, x, only(y, "label"), batch_size=ROWS, epochs=150)
    assert history["task"][-1] < 0.1 * history["task"][0]
    after_training = beam_search(distiller.student, source, beams=1)
    assert (after_training == y["label"]).all(axis=1).mean() > 0.95


def test_task_loss_is_the_mean_over_real_tokens(batch):
    x, y = batch
    distiller = make_distiller(
        make_translator(4, seed=2), distillation_losses={}, loss=TokenCrossEntropy()
    )
    log_p = oracles.log_softmax(logits_of(distiller.student, x))
    losses = [
        -np.mean([p[t, token] for t, token in enumerate(tokens) if token >= 0])
        for p, tokens in zip(log_p, y["label"], strict=True)
    ]
    logs = distiller.evaluate(x, only(y, "label"), verbose=0, return_dict=True)
    assert logs["task"] == pytest.approx(np.mean(losses), rel=1e-5)


WORD_LEVEL = {
    "soft targets": (TokenSoftTargets, ["logits"]),
    "top k": (TokenTopKSoftTargets, ["top_logits", "top_indices", "top_rest_1"]),
}


@pytest.mark.parametrize("case", WORD_LEVEL)
def test_word_level_student_approaches_its_teacher(case, batch):
    x, y = batch
    make, targets = WORD_LEVEL[case]
    student = make_translator(8, seed=2)
    distiller = make_distiller(
        student, adam(), distillation_losses={"words": make(padding_mask=MASK)}
    )

    def divergence():
        return oracles_logits.of_tokens(
            oracles.soft_targets, y["logits"], logits_of(student, x), x[f"source_{MASK}"]
        ).mean()

    before = divergence()
    fit(distiller, x, only(y, *targets), batch_size=ROWS, epochs=60)
    assert divergence() < 0.3 * before


def test_live_teacher_equals_cached_targets(batch, teacher):
    x, y = batch
    results = []
    for arguments, targets in (({}, only(y, "logits")), ({"teacher": teacher}, {})):
        losses = {"words": TokenSoftTargets(padding_mask=MASK)}
        distiller = make_distiller(
            make_translator(4, seed=2), distillation_losses=losses, **arguments
        )
        fit(distiller, x, targets, batch_size=8)
        results.append(weights(distiller.student))
    assert_equal_weights(*results, atol=1e-6)


def test_the_teachers_padding_has_no_effect(batch):
    x, y = batch
    results = []
    for fill in (0.0, 50.0):
        padded = x[f"source_{MASK}"][:, :, None] == 0
        noise = np.random.default_rng(0).normal(size=y["logits"].shape)
        logits = np.where(padded, fill * noise, y["logits"]).astype("float32")
        losses = {"words": TokenSoftTargets(padding_mask=MASK)}
        distiller = make_distiller(make_translator(4, seed=2), distillation_losses=losses)
        fit(distiller, x, {"logits": logits}, batch_size=8)
        results.append(weights(distiller.student))
    assert_equal_weights(*results)


def test_a_translations_tokens_are_not_compared():
    x, _ = pairs(rows=8)
    targets = only(logit_targets(8, 4), "logits")
    alone = {name: values for name, values in x.items() if name.startswith("source")}
    logs = [
        make_distiller(make_tagger(), distillation_losses={"words": TokenSoftTargets()}).evaluate(
            given, targets, verbose=0, return_dict=True
        )
        for given in (x, alone, one_side(x))
    ]
    assert logs[0]["words"] > 0.1
    assert logs[1] == logs[2] == pytest.approx(logs[0], rel=1e-6)


REFUSED = {
    "the source's mask": (TokenSoftTargets(), "'padding_mask' (24, 4)", "tokens (24, 5)"),
    "no such mask": (
        TokenSoftTargets(padding_mask="target_mask"),
        "without the input 'target_mask'",
        "padding_mask=None",
    ),
    "another temperature": (
        TokenTopKSoftTargets(temperature=3.0, padding_mask=MASK),
        "target 'top_rest_3'",
        "'top_rest_1'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_and_targets_that_do_not_fit_are_refused(case, batch):
    x, y = batch
    loss, *parts = REFUSED[case]
    distiller = make_distiller(make_translator(4, seed=2), distillation_losses={"words": loss})
    with pytest.raises(InputError) as error:
        fit(distiller, x, y, batch_size=ROWS)
    assert_one_line(str(error.value), *parts)
