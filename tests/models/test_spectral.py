import pytest
import torch

from edgedet.models import IMAGENET_MEAN, IMAGENET_STD
from edgedet.models.spectral import Bands, LowPass, mask


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def with_fft(x, radius=16):
    """The low-pass as the paper has it: transform, shifted spectrum, mask, inverse, real part; in float64."""
    side = x.shape[-1]
    spectrum = torch.fft.fftshift(torch.fft.fft2(x.double()), dim=(-2, -1))
    for row in range(side):
        for column in range(side):
            # Distances are counted from the two central bins, 111 and 112 of 224: both are at 0.
            down, right = (place - side // 2 if place >= side // 2 else side // 2 - 1 - place for place in (row, column))
            if down**2 + right**2 >= radius**2:
                spectrum[..., row, column] = 0
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)))


def test_the_products_are_the_fourier_transform():
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    low = LowPass(224)(x)
    expected = with_fft(x)
    assert (low - expected.real).abs().max() < 2e-6
    assert expected.imag.abs().max() > 1e-3  # the mask is not symmetric in frequency


def test_low_and_high_are_the_image_again():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    low = LowPass(64)(x)
    torch.testing.assert_close(low + (x - low), x, atol=1e-7, rtol=0)
    # A second pass would take a part away again: the half of each pair of frequencies that is left out.
    assert (LowPass(64)(low) - low).abs().max() > 1e-4


def test_856_frequencies_are_kept_and_not_their_mirror_images():
    kept = mask(16)
    assert int(kept.sum()) == 856
    zero = 16
    assert kept[zero - 16, zero]  # frequency -16
    assert not kept[0, 0]
    mirrored = kept.flip(0).roll(1, 0).flip(1).roll(1, 1)  # frequency k at the place of -k
    assert (kept != mirrored).any()


def test_another_size_and_radius_agree_with_the_transform_too():
    x = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(2))
    assert (LowPass(20, 5)(x) - with_fft(x, 5).real).abs().max() < 1e-6
    with pytest.raises(ValueError, match="a low-pass of radius 11 has 22 frequencies, too many for 20 pixels"):
        LowPass(20, 11)


def test_the_low_pass_is_exact_under_autocast():
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    low_pass = LowPass(32, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = low_pass(x)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, low_pass(x), atol=0, rtol=0)


def test_bands_are_clamped_and_normalised_image_first():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    bands = Bands(32, 8, IMAGENET_MEAN, IMAGENET_STD)
    found = bands(x).unflatten(0, (3, 2))
    low = LowPass(32, 8)(x)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        for place, band in enumerate((x, low.clamp(0, 1), (x - low).clamp(0, 1))):
            torch.testing.assert_close(found[place, :, channel], (band[:, channel] - mean) / std)
    assert (x - low).min() < 0  # so that clamping did something
    assert not bands.state_dict()  # constants, not weights
