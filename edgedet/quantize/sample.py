"""The images that ranges are found on: a stratified sample of the ``ranges`` split, disjoint from what decides.

A part of that split is held out where something is to be chosen: nothing is found on it, and choices are judged by it. The
validation and test splits stay out of both.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import PIL

from edgedet.data.index import Index
from edgedet.errors import DataError
from edgedet.patches import FEWEST, cut
from edgedet.preprocess import Preprocess
from edgedet.quantize.judge import Finish, Verdict, above_zero
from edgedet.quantize.session import Batches, Pixels

_PIXELS_A_BATCH = 64 * 32 * 32
"""Range-finding holds every activation of a batch: at 224 pixels one image, at 32 pixels 64."""


@dataclass(frozen=True)
class Images:
    """Real images to quantize a graph on, as the preprocessing leaves them.

    ranges: those that ranges are found on.
    few: some of them, for what takes a pass for each layer; all of them when None.
    held_out: others, by which is judged; None when nothing is to be judged.
    key: says what `ranges` gives, so that what was observed can be kept; it is not kept without.
    verdict: what counts as a flip on `held_out`.
    finish: makes logits of the graph's first output, where that is not the logit itself.
    """

    ranges: Batches
    few: Batches | None = None
    held_out: Batches | None = None
    key: str = ""
    verdict: Verdict = above_zero
    finish: Finish | None = None

    def in_patches(self, side: int, finish: Finish) -> Images:
        """For an encoder of patches of `side` pixels: one by one for ranges; those of one image together to be judged.

        Four patches of an image are enough: ranges gain nothing from a hundred of one photograph.
        finish: features (P, F) of one image -> its logit (1,).
        """
        return replace(
            self,
            ranges=_one_by_one(self.ranges, side),
            few=_one_by_one(self.few, side) if self.few else None,
            held_out=_together(self.held_out, side) if self.held_out else None,
            key=self.key and f"{self.key} in patches",
            finish=finish,
        )


@dataclass(frozen=True)
class Sample:
    """Images of the ``ranges`` split, all different: `ranges`, `few` of them, and `held_out`, which is empty if none are."""

    ranges: Index
    few: Index
    held_out: Index

    def images(self, preprocess: Preprocess, verdict: Verdict = above_zero) -> Images:
        """As batches of pixels, decoded each time they are asked for."""
        return Images(
            ranges=lambda: pixel_batches(self.ranges, preprocess),
            few=lambda: pixel_batches(self.few, preprocess),
            held_out=(lambda: pixel_batches(self.held_out, preprocess)) if len(self.held_out) else None,
            key=content_key(self.ranges, preprocess),
            verdict=verdict,
        )


def take_sample(data: Index, count: int, *, few: int, held_out: int = 0, seed: int = 0) -> Sample:
    """At most `count` images for ranges, `few` of these, and `held_out` others; where the split is smaller, so are the parts.

    Raises:
        DataError: as :func:`ranges_images`; or the split is too small to hold images out.
    """
    chosen = ranges_images(data, count + held_out, seed=seed)
    ranges, others = _divided(chosen, held_out / (count + held_out), seed)
    if held_out and not len(others):
        raise DataError(
            f"{data.root}: its ranges split of {len(chosen)} images is too small to hold some out for judging: "
            "give it more, or decide without trying (--ranges entropy, no --bias-correction auto, no --mixed)"
        )
    return Sample(ranges, stratified(ranges, few, seed=seed), others)


def _divided(data: Index, share: float, seed: int) -> tuple[Index, Index]:
    """`data` without, and only, `share` of each stratum; images of the same content stay together."""
    out = set[str]()
    for positions in _strata(data, seed).values():
        out |= {data.rows[position].sha256 for position in positions[: int(len(positions) * share)]}
    return data.where(lambda row: row.sha256 not in out), data.where(lambda row: row.sha256 in out)


def content_key(data: Index, preprocess: Preprocess) -> str:
    """The digest of the files themselves, in order, and of how they become pixels."""
    digest = hashlib.sha256(msgspec.json.encode([preprocess, PIL.__version__]))
    for position in range(len(data)):
        digest.update(hashlib.sha256(data.read(position)).digest())
    return digest.hexdigest()


def pixel_batches(images: Index, preprocess: Preprocess) -> Iterator[Pixels]:
    """The pixels of `images`, uint8 (B, H, W, 3), in batches of one size; each is decoded when it is asked for."""
    batch: list[Pixels] = []
    for position in range(len(images)):
        with images.naming(position):
            pixels = preprocess(images.read(position))
        if batch and (pixels.shape != batch[0].shape or (len(batch) + 1) * pixels.shape[0] * pixels.shape[1] > _PIXELS_A_BATCH):
            yield np.stack(batch)
            batch = []
        batch.append(pixels)
    if batch:
        yield np.stack(batch)


def _one_by_one(images: Batches, side: int) -> Batches:
    return lambda: (patch[None] for patches in patches_of_each(images(), side) for patch in patches)


def _together(images: Batches, side: int) -> Batches:
    return lambda: patches_of_each(images(), side)


def patches_of_each(images: Iterable[Pixels], side: int) -> Iterator[Pixels]:
    """For each image of the batches (B, H, W, 3) at most four of its patches, spread over all: uint8 (P, side, side, 3)."""
    for batch in images:
        for image in batch:
            patches = cut(image, side)
            spread = np.linspace(0, len(patches) - 1, min(len(patches), FEWEST)).round().astype(int)
            yield patches[spread]


def ranges_images(data: Index, count: int, *, seed: int = 0) -> Index:
    """At most `count` images of the ``ranges`` split, in equal shares by label, generator and file format.

    Raises:
        DataError: there is no such split, its images are not hashed, or one of them is in ``val`` or ``test`` as well.
    """
    split = data.split("ranges")
    _refuse_overlap(data, split)
    return stratified(split, count, seed=seed)


def stratified(data: Index, count: int, *, seed: int = 0) -> Index:
    """At most `count` images of `data`, in equal shares by label, generator and file format, in the order of `data`."""
    # One from each stratum in turn: a small stratum gives all it has, the others fill up.
    turns = sorted((turn, key, position) for key, of in _strata(data, seed).items() for turn, position in enumerate(of))
    return data.take(sorted(position for _, _, position in turns[:count]))


def _strata(data: Index, seed: int) -> dict[tuple[int, str, str], list[int]]:
    """Label, generator and format -> the positions of the rows that have them, shuffled."""
    strata: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    for position in np.random.default_rng(seed).permutation(len(data)):
        row = data.rows[position]
        strata[row.label, row.generator, row.format].append(int(position))
    return strata


def _refuse_overlap(data: Index, split: Index) -> None:
    unhashed = next((row.path for row in split.rows if not row.sha256), None)
    if unhashed is not None:
        raise DataError(f"{data.root}: {unhashed} has no sha256 in the index: scan the data set again")
    judged = {row.sha256: row for row in data.rows if row.split in ("val", "test")}
    for row in split.rows:
        other = judged.get(row.sha256)
        if other is not None:
            raise DataError(
                f"{data.root}: {row.path} (split ranges) has the same content as {other.path} (split {other.split}): "
                "INT8 ranges must not be found on images that judge the result; split the data again"
            )
