"""Growth in float64 NumPy, with every product written out.

Nothing here imports kdkeras, Keras or TensorFlow.
"""

from __future__ import annotations

import math

import numpy as np


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x, gamma=1.0, beta=0.0, epsilon=1e-12):
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + epsilon) * gamma + beta


def softmax(z):
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def attention(x, w, num_heads):
    """Output of the attention for one sentence without padding, `(L, d)`."""
    d = x.shape[1]
    size = d // num_heads
    query, key, value = np.split(x @ w["qkv_dense.kernel"] + w["qkv_dense.bias"], 3, axis=1)
    heads = []
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        heads.append(softmax(query[:, part] @ key[:, part].T / math.sqrt(size)) @ value[:, part])
    return np.concatenate(heads, axis=1) @ w["output_dense.kernel"] + w["output_dense.bias"]


def block(x, w, num_heads):
    """Output of a post-norm layer for one sentence without padding, `(L, d)`."""
    x = layer_norm(
        x + attention(x, w, num_heads), w["attention_norm.gamma"], w["attention_norm.beta"]
    )
    inner = gelu(x @ w["intermediate_dense.kernel"] + w["intermediate_dense.bias"])
    outer = inner @ w["feedforward_dense.kernel"] + w["feedforward_dense.bias"]
    return layer_norm(x + outer, w["output_norm.gamma"], w["output_norm.beta"])


def dense_inputs(w, num_layers, num_heads, ids):
    """Inputs of the dense layers of each block for one sentence; the projection's at -1."""
    x = w["token_embedding.table"][ids]
    x = x + w["position_embedding.position_embeddings"][: len(ids)]
    x = layer_norm(x, w["embedding_norm.gamma"], w["embedding_norm.beta"])
    found = {}
    for number in range(num_layers):
        prefix = f"blocks.{number}."
        own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        identity = {"output_dense.kernel": np.eye(x.shape[1]), "output_dense.bias": 0.0}
        attended = attention(x, {**own, **identity}, num_heads)
        middle = x + attended @ own["output_dense.kernel"] + own["output_dense.bias"]
        middle = layer_norm(middle, own["attention_norm.gamma"], own["attention_norm.beta"])
        inner = gelu(middle @ own["intermediate_dense.kernel"] + own["intermediate_dense.bias"])
        found[number] = {
            "qkv": x,
            "attention_output": attended,
            "intermediate": middle,
            "feedforward": inner,
        }
        x = block(x, own, num_heads)
    found[-1] = {"projection": x.mean(axis=0, keepdims=True)}
    return found


def transformer(w, num_layers, num_heads, ids):
    """The embedding of one sentence, before normalization."""
    x = w["token_embedding.table"][ids]
    x = x + w["position_embedding.position_embeddings"][: len(ids)]
    x = layer_norm(x, w["embedding_norm.gamma"], w["embedding_norm.beta"])
    for number in range(num_layers):
        prefix = f"blocks.{number}."
        own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        x = block(x, own, num_heads)
    return x.mean(axis=0) @ w["projection.kernel"] + w["projection.bias"]


def masked_norm(x, c, gamma, beta):
    """A layer norm with the weight `c[i]` of unit `i`."""
    mean = (x * c).sum(axis=1, keepdims=True) / c.sum()
    variance = ((x - mean) ** 2 * c).sum(axis=1, keepdims=True) / c.sum()
    return ((x - mean) / np.sqrt(variance) * gamma + beta) * c


def masked_transformer(w, num_layers, ids, sizes, m):
    """The embedding of a sentence, with new units at mask `m`, before normalization.

    `sizes`: (old, new) of hidden, heads, head_size and intermediate, and layers.
    """

    def counts(name):
        old, new = sizes[name]
        return np.where(np.arange(new) < old, 1.0, m)

    hidden, heads, units = counts("hidden"), counts("heads"), counts("head_size")
    x = w["token_embedding.table"][ids]
    x = x + w["position_embedding.position_embeddings"][: len(ids)]
    x = masked_norm(x, hidden, w["embedding_norm.gamma"], w["embedding_norm.beta"])
    for number in range(num_layers):
        prefix = f"blocks.{number}."
        own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
        parts = np.split(x @ own["qkv_dense.kernel"] + own["qkv_dense.bias"], 3, axis=1)
        parts = [p.reshape(len(ids), len(heads), len(units)) for p in parts]
        attended = np.zeros_like(parts[0])
        for h in range(len(heads)):
            # 1 for old units of old heads, else m.
            c = np.where((heads[h] == 1.0) & (units == 1.0), 1.0, m)
            query, key, value = (p[:, h] * c for p in parts)
            attended[:, h] = softmax(query @ key.T / math.sqrt(units.sum())) @ value
        y = attended.reshape(len(ids), -1) @ own["output_dense.kernel"] + own["output_dense.bias"]
        y = masked_norm(x + y, hidden, own["attention_norm.gamma"], own["attention_norm.beta"])
        inner = gelu(y @ own["intermediate_dense.kernel"] + own["intermediate_dense.bias"])
        inner = inner * counts("intermediate")
        z = y + inner @ own["feedforward_dense.kernel"] + own["feedforward_dense.bias"]
        z = masked_norm(z, hidden, own["output_norm.gamma"], own["output_norm.beta"])
        x = x + (m if number >= sizes["layers"][0] else 1.0) * (z - x)
    return x.mean(axis=0) @ w["projection.kernel"] + w["projection.bias"]


def doubled(w, n=2):
    """Weights of a model `n` times as wide, with every unit and head copied.

    Whole heads are repeated, so E of the heads and their units is `1_n (x) I` of the hidden
    width, as it is for the width itself.
    """
    hidden = w["embedding_norm.gamma"].shape[0]
    inner = w["blocks.0.intermediate_dense.bias"].shape[0]
    e = {size: np.kron(np.ones((1, n)), np.eye(size)) for size in (hidden, inner)}
    f = {size: np.kron(np.ones((n, 1)), np.eye(size)) / n for size in (hidden, inner)}
    return _doubled(w, hidden, inner, readers=f, writers=e)


def doubled_gradient(g, n=2):
    """Gradients of that model: `E^T G` for weights that read, `G F^T` for those that write."""
    hidden = g["embedding_norm.gamma"].shape[0]
    inner = g["blocks.0.intermediate_dense.bias"].shape[0]
    e = {size: np.kron(np.ones((1, n)), np.eye(size)) for size in (hidden, inner)}
    f = {size: np.kron(np.ones((n, 1)), np.eye(size)) / n for size in (hidden, inner)}
    return _doubled(
        g,
        hidden,
        inner,
        readers={k: v.T for k, v in e.items()},
        writers={k: v.T for k, v in f.items()},
    )


def _doubled(w, hidden, inner, readers, writers):
    read, write = readers[hidden], writers[hidden]
    found = {}
    for path, array in w.items():
        name = path.split(".", 2)[-1] if path.startswith("blocks.") else path
        if name == "qkv_dense.kernel":
            found[path] = np.concatenate(
                [read @ part @ write for part in np.split(array, 3, axis=1)], axis=1
            )
        elif name == "qkv_dense.bias":
            found[path] = np.concatenate([part @ write for part in np.split(array, 3)])
        elif name == "output_dense.kernel":
            found[path] = read @ array @ write
        elif name == "intermediate_dense.kernel":
            found[path] = read @ array @ writers[inner]
        elif name == "intermediate_dense.bias":
            found[path] = array @ writers[inner]
        elif name == "feedforward_dense.kernel":
            found[path] = readers[inner] @ array @ write
        elif name == "projection.kernel":
            found[path] = read @ array
        elif name == "projection.bias":
            found[path] = array
        else:  # tables, norms and biases write the width
            found[path] = array @ write
    return found


def flops(layers, length, width, inner, out):
    """Two operations per multiplication of every matrix product."""

    def product(a, b, c):
        return 2 * a * b * c

    layer = product(length, width, 3 * width) + product(length, width, width)
    layer += 2 * product(length, width, length)  # scores, and values by scores
    layer += product(length, width, inner) + product(length, inner, width)
    return layers * layer + product(1, width, out)
