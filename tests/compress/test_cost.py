from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress.cost import latency
from edgedet.models.pixels import PixelModel


def network(width: int) -> PixelModel:
    spec = DetectorSpec(name="edge32", arguments={"width": width})
    return PixelModel(models.create(spec), models.lookup("edge32").preprocess)


def test_latency_is_that_of_the_exported_graph():
    """64 times the multiply-accumulates take longer, whatever the machine does meanwhile."""
    assert 0 < latency(network(16), seconds=0.1) < latency(network(128), seconds=0.1)
