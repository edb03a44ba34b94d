"""Metadata of the MediaPipe model."""

from __future__ import annotations

import pytest
from ai_edge_litert import schema_py_generated as schema

from kdkeras.export.flatbuffer import packed
from kdkeras.export.mediapipe import _with_metadata

NAMES = ("ids", "mask", "segment_ids")


def model_with_inputs(order):
    """A model file without weights, whose tensor `order[i]` is the input `i`."""
    model, graph, signature = schema.ModelT(), schema.SubGraphT(), schema.SignatureDefT()
    graph.inputs = list(order)
    signature.inputs = []
    for index, name in enumerate(NAMES):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        signature.inputs.append(entry)
    model.subgraphs, model.signatureDefs, model.buffers = [graph], [signature], []
    return packed(model, 1024)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_inputs_are_named_in_the_order_of_the_file(order):
    generated = pytest.importorskip("mediapipe.tasks.metadata.metadata_schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(_with_metadata(model_with_inputs(order), NAMES), 0)
    content = bytes(model.buffers[model.metadata[0].buffer].data)
    metadata = generated.ModelMetadataT.InitFromPackedBuf(content, 0)
    named = [tensor.name.decode() for tensor in metadata.subgraphMetadata[0].inputTensorMetadata]
    assert named == [NAMES[index] for index in order]
