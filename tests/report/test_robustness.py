from edgedet.evaluate.degrade import ROBUSTNESS
from edgedet.report.robustness import families, others


def test_levels_make_curves_and_the_rest_stands_alone():
    names = ["clean", "jpeg-90", "jpeg-50", "resize-2.0-nearest", "resize-0.5-nearest", "resize-0.5-lanczos", "web", "blur-1"]
    assert families(names) == {
        "jpeg": {"": [(50, "jpeg-50"), (90, "jpeg-90")]},
        "resize": {
            "nearest": [(0.5, "resize-0.5-nearest"), (2.0, "resize-2.0-nearest")],
            "lanczos": [(0.5, "resize-0.5-lanczos")],
        },
    }
    assert others(names) == ["web", "blur-1"]


def test_the_whole_sweep_is_drawn_somewhere():
    drawn = {name for lines in families(ROBUSTNESS).values() for points in lines.values() for _, name in points}
    assert drawn | set(others(ROBUSTNESS)) == set(ROBUSTNESS)
    assert {"web", "hard", "grey", "social-2048-85", "double-75-85"} <= set(others(ROBUSTNESS))
