"""Backbones of KerasHub grow by the same operators, and their outputs are preserved."""

from __future__ import annotations

from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras import teachers
from kdkeras.data.wordpiece import WordPieceVocabulary
from kdkeras.errors import InputError
from kdkeras.growth import (
    AdvancedKnowledge,
    GrowthPlan,
    HyperCloning,
    LearnedOperators,
    MaskedGrowth,
    MaskedLayers,
    Stacking,
    ZeroPadding,
    grow,
    grow_optimizer,
)
from kdkeras.students import forward_flops

TINY_BERT = Path(__file__).parents[1] / "teachers" / "tiny_bert" / "mean"
VOCABULARY = 50
ENCODER = {
    "vocabulary_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "max_sequence_length": 12,
}
SEQUENCES = {name: ENCODER[name] for name in list(ENCODER)[:-1]}
hub = keras_hub.models
MAKERS = {
    "bert": lambda: hub.BertBackbone(**ENCODER),
    "roberta": lambda: hub.RobertaBackbone(**ENCODER),
    "xlm_roberta": lambda: hub.XLMRobertaBackbone(**ENCODER),
    "distil_bert": lambda: hub.DistilBertBackbone(**ENCODER),
    "t5": lambda: hub.T5Backbone(**SEQUENCES, activation="gelu"),
    # Heads that do not fill the width, as in T5 3B and 11B, and a separate output table.
    "t5_free_heads": lambda: hub.T5Backbone(
        **SEQUENCES, key_value_dim=5, use_gated_activation=False, tie_embedding_weights=False
    ),
}


@pytest.fixture(scope="module")
def backbones():
    """Backbones by name. Every weight is random: norms of 1 and biases of 0 would hide errors."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = MAKERS[name]()
            generator = np.random.default_rng(0)
            for weight in made[name].weights:
                weight.assign_add(generator.normal(0, 0.15, weight.shape))
        return made[name]

    return get


@pytest.fixture(scope="module")
def grown_backbone(backbones):
    """Grown backbones by name and sizes, grown once."""
    made = {}

    def get(name, sizes):
        key = (name, *sizes.items())
        if key not in made:
            model = backbones(name)
            made[key] = grow(model, GrowthPlan(sizes=sizes), probe=probe(model))
        return made[key]

    return get


def probe(model, rows=6, length=9):
    """Token ids with padding at the end of some rows."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(3, length + 1, size=rows)
    mask = (np.arange(length) < lengths[:, None]).astype("int32")
    inputs = {}
    for tensor in model.inputs:
        inputs[tensor.name] = mask if tensor.name.endswith("mask") else mask * 0
        if tensor.name.endswith("token_ids"):
            inputs[tensor.name] = generator.integers(VOCABULARY, size=mask.shape).astype("int32")
    return inputs


def outputs(model, inputs):
    """Every output, its padding zeroed."""
    found = model(inputs, training=False)
    found = found if isinstance(found, dict) else {"": found}
    mask = next(array for name, array in inputs.items() if name.endswith("mask"))
    return {
        name: np.asarray(a, float) * (mask[..., None] if a.ndim == 3 else 1)
        for name, a in ((name, np.asarray(tensor)) for name, tensor in found.items())
    }


EVERYTHING = {"hidden_dim": 48, "intermediate_dim": 31, "num_layers": 3}
PRESERVED = {
    "all": EVERYTHING,
    "head_size": {"hidden_dim": 32, "num_heads": 2},
    "hidden": {"hidden_dim": 32},
    "hidden_and_heads": {"hidden_dim": 48, "num_heads": 3},
    "intermediate": {"intermediate_dim": 37},
    "layers": {"num_layers": 4},
}
# The layers of the other encoders are BERT's, described by the same data.
CASES = [
    *(pytest.param(name, EVERYTHING, id=f"{name}-all") for name in MAKERS),
    *(
        pytest.param(
            name,
            PRESERVED[size],
            id=f"{name}-{size}",
            marks=[pytest.mark.slow] * ((name, size) != ("bert", "head_size")),
        )
        for name in ("bert", "t5", "t5_free_heads")
        for size in list(PRESERVED)[1:]
    ),
]


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_every_output_is_the_old_one_repeated(backbones, grown_backbone, name, sizes):
    model, grown = backbones(name), grown_backbone(name, sizes)
    inputs = probe(model)
    copies = grown.hidden_dim // model.hidden_dim
    before, after = outputs(model, inputs), outputs(grown, inputs)
    assert set(before) == set(after)
    largest = max(np.abs(array).max() for array in before.values())
    for key, array in before.items():
        np.testing.assert_allclose(
            after[key], np.tile(array, copies), rtol=0, atol=2e-5 * largest, err_msg=key
        )
    for size, value in sizes.items():
        assert getattr(grown, size) == value
    certificate = grown.certificate
    assert certificate.keeps_function and certificate.probe == "token ids"
    assert certificate.parameters_after == grown.count_params() > model.count_params()
    assert type(grown) is type(model) and model.hidden_dim == 16


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("t5", {"num_heads": 3, "head_size": 9}),
        ("t5_free_heads", {"hidden_dim": 32, "head_size": 11}),
    ],
)
def test_heads_of_t5_need_not_fill_the_width(grown_backbone, name, sizes):
    grown = grown_backbone(name, sizes)
    assert grown.certificate.keeps_function
    assert grown.key_value_dim == sizes["head_size"]
    assert grown.num_heads == sizes.get("num_heads", 2)
    assert grown.hidden_dim == sizes.get("hidden_dim", 16)


def test_the_probe_depends_on_the_relative_positions_of_t5(backbones):
    """Otherwise the tests above would not detect an error in the position bias."""
    model = backbones("t5")
    inputs = probe(model)
    before = outputs(model, inputs)
    for stack in (model.encoder_transformer_layers, model.decoder_transformer_layers):
        bias = stack[0].self_attention.relative_attention_bias
        kept = bias.numpy()
        bias.assign(kept[:, ::-1])
        after = outputs(model, inputs)
        bias.assign(kept)
        assert max(np.abs(after[k] - before[k]).max() for k in before) > 1e-2


CHANGED = {
    "stacking": ({"num_layers": 4}, {"depth": Stacking()}),
    "from_above": (
        {"hidden_dim": 32, "intermediate_dim": 48},
        {"operators": AdvancedKnowledge()},
    ),
    "no_multiple": ({"hidden_dim": 24}, {}),
    "padding_of_a_norm": ({"hidden_dim": 32}, {"operators": ZeroPadding()}),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        *(("bert", case) for case in CHANGED),
        *(
            pytest.param("t5", case, marks=pytest.mark.slow)
            for case in ("from_above", "no_multiple")
        ),
    ],
)
def test_a_changed_function_is_measured(backbones, name, case):
    sizes, settings = CHANGED[case]
    grown = grow(backbones(name), GrowthPlan(sizes=sizes, keeps_function=False, **settings))
    assert not grown.certificate.keeps_function
    assert grown.certificate.maximum_error > 1e-3


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_changed_function_is_refused(backbones, name, case):
    sizes, settings = CHANGED[case]
    with pytest.raises(InputError, match="preserve"):
        grow(backbones(name), GrowthPlan(sizes=sizes, **settings))


def test_stacked_layers_are_copies_in_both_stacks(backbones):
    model = backbones("t5")
    plan = GrowthPlan(sizes={"num_layers": 3}, depth=Stacking(), keeps_function=False)
    grown = grow(model, plan)
    assert not grown.certificate.keeps_function and grown.certificate.maximum_error > 1e-3
    for stack in ("encoder_transformer_layers", "decoder_transformer_layers"):
        old, new = getattr(model, stack), getattr(grown, stack)
        for number, layer in enumerate(new):
            for path in ("input_projector", "self_attention.value_projector"):
                found, expected = layer, old[number % 2]
                for part in path.split("."):
                    found, expected = getattr(found, part), getattr(expected, part)
                np.testing.assert_array_equal(found.kernel, expected.kernel)


def test_a_grown_teacher_preserves_the_cosines_of_its_sentences(texts):
    """Loaded from a Hugging Face snapshot, whose GELU differs from KerasHub's."""
    teacher = teachers.load(TINY_BERT)
    backbone = teacher.model.backbone
    ids = teacher.tokenize(texts)
    inputs = {**ids, "segment_ids": np.zeros_like(ids["token_ids"])}
    sizes = {"hidden_dim": 2 * backbone.hidden_dim, "num_layers": backbone.num_layers + 1}
    grown = grow(backbone, GrowthPlan(sizes=sizes), probe=inputs)
    assert grown.certificate.keeps_function and grown.certificate.cosine_drift < 1e-6

    def cosines(model):
        means = outputs(model, inputs)["sequence_output"].sum(axis=1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return means @ means.T

    np.testing.assert_allclose(cosines(grown), cosines(backbone), atol=1e-6)
    approximate = keras.activations.gelu(np.float32([1.0]), approximate=True)
    activation = grown.transformer_layers[-1]._feedforward_intermediate_dense.activation
    assert abs(float(activation(np.float32([1.0]))[0]) - float(approximate[0])) > 1e-5


def test_new_tokens_are_made_from_old_ones(backbones, wordpiece):
    keras.utils.set_random_seed(2)
    model = hub.BertBackbone(**{**ENCODER, "vocabulary_size": wordpiece.size})
    larger = WordPieceVocabulary(
        {"vocab.txt": ("\n".join([*wordpiece.tokens, "##lichkeiten"]) + "\n").encode()}
    )
    plan = GrowthPlan(vocabulary=larger, sizes={"hidden_dim": 32})
    grown = grow(model, plan, vocabulary=wordpiece)
    assert grown.vocabulary_size == wordpiece.size + 1 and grown.certificate.keeps_function
    table = grown.token_embedding.embeddings.numpy()
    np.testing.assert_array_equal(
        table[:-1], np.tile(model.token_embedding.embeddings.numpy(), (1, 2))
    )
    assert np.abs(table[-1]).max() > 0
    with pytest.raises(InputError) as error:
        grow(model, plan)
    assert_one_line(str(error.value), "without a vocabulary", "pass vocabulary=... to grow")
    with pytest.raises(InputError) as error:
        grow(model, plan, vocabulary=larger)
    assert_one_line(str(error.value), "must be the model's vocabulary", str(wordpiece.size))


def gradients(model, inputs):
    with tf.GradientTape() as tape:
        found = model(inputs, training=False)
        found = found if isinstance(found, dict) else {"": found}
        # The mean over all units, which is the same for the old and the grown model.
        loss = sum(
            tf.reduce_mean(tf.square(tf.cast(tensor, tf.float32))) for tensor in found.values()
        )
    return [
        tf.convert_to_tensor(g).numpy() if g is not None else None
        for g in tape.gradient(loss, [w.value for w in model.trainable_weights])
    ]


@pytest.mark.parametrize(
    "name", ["bert", "t5", pytest.param("t5_free_heads", marks=pytest.mark.slow)]
)
def test_moments_grow_as_gradients_do(backbones, name):
    model = backbones(name)
    inputs = probe(model)
    plan = GrowthPlan(
        sizes={"hidden_dim": 32, "intermediate_dim": 48},
        operators={axis: HyperCloning(noise=0.0) for axis in ("hidden_dim", "intermediate_dim")}
        | ({} if name == "t5_free_heads" else {"num_heads": HyperCloning(noise=0.0)}),
    )
    grown = grow(model, plan)
    adam = keras.optimizers.Adam()
    adam.build(model.trainable_variables)
    slopes = gradients(model, inputs)
    for variable, slope in zip(model.trainable_variables, slopes, strict=True):
        if slope is not None:
            index = adam._get_variable_index(variable)
            adam._momentums[index].assign(slope)
            adam._velocities[index].assign(slope**2)
    adam.iterations.assign(7)
    mapped = grow_optimizer(adam, model, grown, plan)
    assert int(mapped.iterations) == 7
    expected = gradients(grown, inputs)
    largest = max(np.abs(slope).max() for slope in slopes if slope is not None)
    for variable, slope in zip(grown.trainable_variables, expected, strict=True):
        if slope is not None:
            index = mapped._get_variable_index(variable)
            np.testing.assert_allclose(
                mapped._momentums[index], slope, rtol=0, atol=1e-4 * largest, err_msg=variable.path
            )


SIZES = {"hidden_dim": 32, "intermediate_dim": 48}


def apart_after_training(model, plan):
    """Distances of the weights of feed-forward units from their copies' after ten steps."""
    grown = grow(model, plan)
    dense = grown.transformer_layers[0]._feedforward_intermediate_dense
    start = dense.kernel.numpy()
    alike = [
        (i, j) for i in range(48) for j in range(i) if np.array_equal(start[:, i], start[:, j])
    ]
    assert len(alike) == 24
    inputs, optimizer = probe(model), keras.optimizers.Adam(1e-3)
    goal = np.random.default_rng(3).normal(size=(6, 9, 16)).astype("float32")
    weights = grown.transformer_layers[0].trainable_weights
    for _ in range(10):
        with tf.GradientTape() as tape:
            found = grown(inputs, training=False)["sequence_output"]
            loss = tf.reduce_mean(tf.square(found - tf.tile(goal, (1, 1, 2))))
        slopes = tape.gradient(loss, [w.value for w in weights])
        optimizer.apply(slopes, weights)
    kernel = dense.kernel.numpy()
    return np.array([np.abs(kernel[:, i] - kernel[:, j]).max() for i, j in alike])


@pytest.mark.slow  # `test_symmetry` has a quick test of the same operators.
def test_copies_of_a_backbone_diverge_in_training(backbones):
    model = backbones("bert")
    default = apart_after_training(model, GrowthPlan(sizes=SIZES))
    alike = HyperCloning(noise=0.0)
    equal = apart_after_training(model, GrowthPlan(sizes=SIZES, operators=alike))
    assert np.median(default) > 1e-4  # a hundredth of the change of a weight in ten steps
    assert equal.max() < 0.01 * np.median(default)


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "t5_free_heads"])
def test_flops_are_those_that_tensorflow_counts(backbones, name):
    model = backbones(name)
    specs = {t.name: tf.TensorSpec((1, 9), tf.int32, t.name) for t in model.inputs}
    graph = tf.function(model).get_concrete_function(specs).graph
    total = 0
    for node in graph.get_operations():
        if node.type in ("MatMul", "BatchMatMulV2"):
            inner = node.inputs[0].shape[-2 if node.get_attr(_transposed(node)) else -1]
            total += 2 * inner * int(np.prod(node.outputs[0].shape))
        elif node.type == "Einsum":
            total += _einsum(node)
    assert forward_flops(model, 9) == total


def _transposed(node):
    return "transpose_a" if node.type == "MatMul" else "adj_x"


def _einsum(node):
    equation = node.get_attr("equation").decode()
    sizes = {}
    for letters, tensor in zip(equation.split("->")[0].split(","), node.inputs, strict=True):
        sizes.update(zip(letters, tensor.shape, strict=True))
    return 2 * int(np.prod(list(sizes.values())))


def refused(call, *words):
    with pytest.raises(InputError) as error:
        call()
    assert_one_line(str(error.value), *words)


def test_unsupported_plans_and_probes_are_refused(backbones):
    bert, t5 = backbones("bert"), backbones("t5")
    masks = GrowthPlan(sizes={"intermediate_dim": 30}, operators=MaskedGrowth())
    refused(lambda: grow(bert, masks), "MaskedGrowth", "KerasHub", "HyperCloning")
    layers = GrowthPlan(sizes={"num_layers": 3}, depth=MaskedLayers())
    refused(lambda: grow(bert, layers), "MaskedLayers", "IdentityBlocks")
    learned = GrowthPlan(sizes={"hidden_dim": 32}, keeps_function=False)
    refused(lambda: LearnedOperators(bert, learned), "BertBackbone", "Use grow")
    refused(lambda: grow(bert, GrowthPlan(sizes={"hidden_dim": 20})), "32, 48", "layer norm")
    refused(lambda: grow(bert, GrowthPlan(sizes={"num_layers": 1})), "at least 2")
    refused(lambda: grow(t5, GrowthPlan(sizes={"num_heads": 1, "head_size": 8})), "at least 2")
    refused(lambda: grow(bert, GrowthPlan(sizes={"embedding_dim": 64})), "embedding_dim")
    refused(lambda: grow(bert, GrowthPlan(), probe=["Guten Morgen"]), "segment_ids", "list")
    refused(lambda: grow(t5, GrowthPlan(), probe={"token_ids": [[1]]}), "decoder_token_ids")
    other = hub.AlbertBackbone(50, 1, 2, 8, 16, 24)
    refused(lambda: grow(other, GrowthPlan()), "AlbertBackbone", "BertBackbone")


def test_a_backbone_with_adapters_is_refused(backbones):
    model = MAKERS["bert"]()
    model.transformer_layers[0]._feedforward_output_dense.enable_lora(2)
    refused(lambda: grow(model, GrowthPlan(sizes={"hidden_dim": 32})), "Merge LoRA")


def test_a_grown_backbone_is_saved(grown_backbone, tmp_path):
    grown = grown_backbone("t5", EVERYTHING)
    inputs = probe(grown)
    grown.save(tmp_path / "grown.keras")
    copy = keras.saving.load_model(tmp_path / "grown.keras")
    found = outputs(copy, inputs)
    for name, array in outputs(grown, inputs).items():
        np.testing.assert_array_equal(found[name], array)
    assert forward_flops(copy, 9) == grown.certificate.flops_after
