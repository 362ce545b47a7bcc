"""The work of a network by kind, as numbers: what a latency on a device that is not here is estimated from."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgedet.recipe import Config

Amount = Annotated[float, msgspec.Meta(ge=0)]


class Work(Config, frozen=True, kw_only=True):
    """One image through a network, counted over the operators that a compiler keeps as kernels of their own.

    Those are convolutions, matrix products, pooling, layer norms, concatenation and gates (a product of maps with a number for
    each channel or place); activations, BatchNorms and additions are folded into the product before them.

    macs: multiply-accumulates of all products. convolution_macs: those of convolutions, of which grouped_macs are of those with
        groups. attention_macs: those of products of two activations.
    weights: numbers in the constant operands. elements: numbers that the kernels read and write besides; the scores of
        attention stay where they are computed.
    kernels: how many there are.
    """

    macs: Annotated[float, msgspec.Meta(gt=0)]
    convolution_macs: Amount
    grouped_macs: Amount
    attention_macs: Amount
    weights: Amount
    elements: Annotated[float, msgspec.Meta(gt=0)]
    kernels: Annotated[int, msgspec.Meta(gt=0)]
