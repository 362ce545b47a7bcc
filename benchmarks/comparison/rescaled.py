"""A network that rounding after training harms: the channels between its layers rescaled, which changes nothing in float.

ReLU lets a positive factor through, so what one layer multiplies a channel by, the next can divide its weights by (Nagel et
al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1, who undo with it what
training has done). One scale for all channels of a tensor then leaves few steps to the small ones.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.data.index import Index
from edgedet.data.simulate import golden_images
from edgedet.models.edgenet import EdgeNet
from edgedet.training.stage import Written, write

FACTOR = 32.0
"""Channels are multiplied by up to this and divided by up to this: a range of a thousand."""


def rescaled(checkpoint: Artifact, data: Index, out: Path, *, factor: float = FACTOR, seed: int = 0) -> Artifact:
    """The checkpoint of a plain EdgeNet with its channels multiplied by factors drawn log-uniformly from [1 / factor, factor].

    Raises:
        TypeError: it is none, or has additions, whose sides would have to be rescaled alike.
    """
    model = models.build(checkpoint)
    net = model.net
    if not isinstance(net, EdgeNet) or not all(isinstance(block, nn.Sequential) for block in net.features):
        raise TypeError(f"expected a plain EdgeNet, got {checkpoint.manifest.detector.name}: give such a checkpoint")
    generator = torch.Generator().manual_seed(seed)
    blocks = [(block[0], block[1]) for block in net.features if isinstance(block, nn.Sequential)]
    readers = [*(convolution.weight for convolution, _ in blocks[1:]), net.head.weight]
    with torch.no_grad():
        for (_, norm), reader in zip(blocks, readers, strict=True):
            factors = factor ** (2 * torch.rand(norm.num_features, generator=generator) - 1)
            norm.weight *= factors
            norm.bias *= factors
            reader /= factors.reshape(1, -1, *(1 for _ in reader.shape[2:]))
    manifest = msgspec.structs.replace(checkpoint.manifest, gates=(), files={}, metrics={}, lineage=(), graphs=())
    write(out, Written(manifest, model, tuple(golden_images()), parent=None, extra={}), data)
    return Artifact.load(out)
