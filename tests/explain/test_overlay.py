"""Colours where the map says, the picture where it says nothing, and the text below."""

from __future__ import annotations

import numpy as np

from edgedet.explain.overlay import BLUE, ORANGE, RED, blend, draw, normalised

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def nearest_colour(pixel) -> tuple[int, int, int]:
    grey = (128, 128, 128)
    return min((RED, BLUE, ORANGE, grey), key=lambda colour: np.abs(np.array(colour, int) - pixel).sum())


def test_red_speaks_for_fake_blue_for_real_and_what_is_zero_stays_grey():
    heat = np.zeros((4, 6), np.float32)
    heat[0, 0], heat[3, 5] = 2.0, -2.0
    found = blend(np.full_like(PIXELS, 128), heat, signed=True)
    assert nearest_colour(found[2, 2]) == RED
    assert nearest_colour(found[-3, -3]) == BLUE
    assert found[20, 30].tolist() == [128, 128, 128]


def test_a_map_of_attention_is_orange_from_its_least_value_on():
    heat = np.full((4, 6), 0.2, np.float32)
    heat[3, 0] = 0.3
    found = blend(np.full_like(PIXELS, 128), heat, signed=False)
    assert nearest_colour(found[-3, 2]) == ORANGE
    assert found[5, 50].tolist() == [128, 128, 128]


def test_the_picture_shows_through_in_grey():
    found = blend(PIXELS, np.zeros((2, 2), np.float32), signed=True)
    assert not np.ptp(found.astype(int), axis=2).any()
    assert found.std() > 20


def test_a_map_is_normalised_by_nearly_its_largest_value():
    signed = np.array([[-4.0, 1.0], [0.0, 2.0]], np.float32)
    assert np.allclose(normalised(signed, signed=True), [[-1, 0.25], [0, 0.5]], atol=0.02)
    assert np.allclose(normalised(signed, signed=False), [[0, 5 / 6], [4 / 6, 1]], atol=0.02)
    spike = np.ones((100, 100), np.float32)
    spike[0, 0], spike[0, 1] = 1000, 0
    assert normalised(spike, signed=True)[50, 50] == 1
    lone = np.zeros((100, 100), np.float32)
    lone[7, 7] = 3
    assert normalised(lone, signed=True)[7, 7] == 1
    assert not normalised(np.full((3, 3), 7, np.float32), signed=False).any()
    assert not normalised(np.zeros((3, 3), np.float32), signed=True).any()


def test_small_images_are_enlarged_pixel_by_pixel_and_stand_beside_the_map():
    sheet = np.asarray(draw(PIXELS, np.zeros((2, 2), np.float32), ["one line", "another"], signed=True))
    first = sheet[10 : 10 + 240, 10 : 10 + 360]  # six times as large
    assert np.array_equal(first, PIXELS.repeat(6, 0).repeat(6, 1))
    second = sheet[10 : 10 + 240, 10 + 360 + 8 : 10 + 360 + 8 + 360]
    assert not np.ptp(second.astype(int), axis=2).any()
    text = sheet[10 + 240 + 10 :]
    assert (text < 100).any()
    assert sheet.shape[0] == 240 + 30 + 2 * 20


def test_the_sheet_is_as_wide_as_its_longest_line():
    narrow = draw(PIXELS, np.zeros((2, 2), np.float32), ["short"], signed=True)
    wide = draw(PIXELS, np.zeros((2, 2), np.float32), ["long " * 60], signed=True)
    assert wide.width > narrow.width
