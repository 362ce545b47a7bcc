import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet.errors import QuantizeError
from edgedet.quantize.ranges import choose, find_channel_ranges, find_ranges, observe, observe_channels

Pixels = npt.NDArray[np.uint8]


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_a_range_is_what_the_method_picks_from_the_histogram(method, residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    given = {"method": method, "symmetric": True, "percentile": 99.0}
    histogram = observe(residual_net, ["sum"], lambda: [pixels])["sum"]
    assert find_ranges(residual_net, ["sum"], lambda: [pixels], **given) == {"sum": choose(histogram, **given)}
    channels = observe_channels(residual_net, ["sum"], lambda: [pixels])["sum"]
    found = find_channel_ranges(residual_net, ["sum"], lambda: [pixels], **given)
    assert found == {"sum": [choose(channel, **given) for channel in channels]}


def test_the_widest_channel_is_as_wide_as_the_tensor(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    whole = find_ranges(residual_net, ["sum"], lambda: [pixels[:4], pixels[4:]], method="minmax")["sum"]
    channels = find_channel_ranges(residual_net, ["sum"], lambda: [pixels[:4], pixels[4:]], method="minmax")["sum"]
    assert whole == (min(low for low, _ in channels), max(high for _, high in channels))


def test_without_images_there_are_no_ranges(residual_net: onnx.ModelProto) -> None:
    with pytest.raises(QuantizeError, match="no images to find ranges on"):
        find_ranges(residual_net, ["stem"], lambda: [])
