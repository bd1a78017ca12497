"""Converted networks in int8: their products of weights take whole numbers of eight bits on both sides.

Weights are rounded by output channel, to 127 steps of its largest value on both sides of zero. Activations are rounded
to 255 steps of the range that was measured on clicks and travels with the weights; a value beyond it counts as its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icmformer.errors import ConfigError
from icmformer.inference.backends.openvino_import import imported
from icmformer.weights.activation_ranges import Range

_PRODUCTS = ("MatMul", "Convolution")
_LEVELS = 256  # of activations; weights have one less, and so as many on both sides of zero


class RangesError(ConfigError):
    """Weights have int8 ranges that are of no use for what this version of OpenVINO made of their network."""


def products(model: Any) -> list[Any]:
    """The nodes of an OpenVINO model that multiply their first input by weights."""
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() in _PRODUCTS and _weights(node).get_type_name() == "Constant"
    ]


def showing_inputs(model: Any) -> tuple[Any, list[str]]:
    """A model with the same inputs whose outputs are what its products multiply by weights, and the products' names."""
    openvino = imported()
    from openvino import opset13 as opset

    nodes = products(model)
    results = [opset.result(node.input_value(0)) for node in nodes]
    return openvino.Model(results, model.get_parameters()), [node.get_friendly_name() for node in nodes]


def quantise(model: Any, ranges: Mapping[str, Range], named: str) -> None:
    """Makes a model's products those of int8, in place.

    Args:
        model: As it was converted, in fp32.
        ranges: By the names of its products.
        named: The weights' name, for the error.

    Raises:
        RangesError: Ranges of another network, or of one that was converted otherwise.
    """
    nodes = products(model)
    if {node.get_friendly_name() for node in nodes} != ranges.keys():
        raise RangesError(
            f"{named} has int8 ranges of a network that was converted otherwise: measure them again with "
            "python -m icmformer.applications.training.quantise, or set ICMFORMER_PRECISION=fp32"
        )
    rounded: dict[tuple[str, int], Any] = {}
    for node in nodes:
        source = node.input_value(0)
        key = (source.get_node().get_friendly_name(), source.get_index())
        if key not in rounded:
            rounded[key] = _rounded_activations(source, *ranges[node.get_friendly_name()])
        node.input(0).replace_source_output(rounded[key].output(0))
        node.input(1).replace_source_output(_rounded_weights(node).output(0))
    model.validate_nodes_and_infer_types()


def _weights(node: Any) -> Any:
    return node.input_value(1).get_node()


def _rounded_activations(source: Any, low: float, high: float) -> Any:
    """Zero stays zero; the range is widened to hold it."""
    low, high = min(low, 0.0), max(high, 1e-6)
    step = (high - low) / (_LEVELS - 1)
    below = round(-low / step)
    shape = (1,) * len(source.get_partial_shape())
    first, last = (np.full(shape, step * place, np.float32) for place in (-below, _LEVELS - 1 - below))
    return _fake_quantize(source, first, last, _LEVELS)


def _rounded_weights(node: Any) -> Any:
    """Each output channel of its own, to as many steps below zero as above it."""
    values = _weights(node).get_data()
    channel = 0 if node.get_type_name() == "Convolution" else values.ndim - 1
    if node.get_type_name() == "MatMul" and node.get_attributes()["transpose_b"]:
        channel = values.ndim - 2
    others = tuple(axis for axis in range(values.ndim) if axis != channel)
    largest = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-8).astype(np.float32)
    return _fake_quantize(node.input_value(1), -largest, largest, _LEVELS - 1)


def _fake_quantize(source: Any, low: Any, high: Any, levels: int) -> Any:
    from openvino import opset13 as opset

    ends = [opset.constant(end) for end in (low, high)]
    return opset.fake_quantize(source, *ends, *ends, levels)
