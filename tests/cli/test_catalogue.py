"""What there is, as tables and as JSON."""

import json

import pytest

from edgedet import recipe


def test_every_recipe_is_listed_with_its_stage_and_purpose(edgedet):
    listed = json.loads(edgedet("recipes", "--json", "-").out)
    assert [each["name"] for each in listed] == recipe.names("train")
    assert {each["stage"] for each in listed} == {"train", "distill", "prune", "qat", "compress"}
    assert all(each["about"].endswith(".") for each in listed)


def test_every_target_is_listed_with_what_it_takes(edgedet, tmp_path):
    done = edgedet("targets", "--json", tmp_path / "targets.json")
    listed = json.loads((tmp_path / "targets.json").read_text())
    assert [each["name"] for each in listed] == recipe.names("export")
    assert all(each["name"] in done.out and bool(each["precisions"]) != bool(each["refused"]) for each in listed)


def test_targets_come_with_their_systems_builder_flags_and_ceilings(edgedet):
    done = edgedet("targets", "--json", "-")
    orin = next(each for each in json.loads(done.out) if each["name"] == "jetson-orin-nano")
    assert orin["systems"]["JetPack 6.2"]["build"]["builder"]["int8"] == ["FP16", "INT8"]
    assert orin["systems"]["JetPack 7.2"]["build"]["network"] == ["STRONGLY_TYPED"]
    assert {"15W", "MAXN_SUPER"} <= set(orin["power_modes"])
    shown = " ".join(edgedet("targets").out.split())
    assert all(word in shown for word in ("STRONGLY_TYPED", "MAXN_SUPER", "measured by nobody here", "JetPack 7.2.2"))
    for ceiling in orin["ceilings"]:
        assert ceiling["source"].replace(" ", "") in shown.replace(" ", "")


def test_every_model_is_listed_with_its_price(edgedet):
    pytest.importorskip("torch")
    from edgedet.models import DETECTORS

    listed = {each["name"]: each for each in json.loads(edgedet("models", "--json", "-").out)}
    assert set(listed) == set(DETECTORS)
    assert listed["resnet50"]["parameters"] == 23_512_130
    assert listed["resnet50"]["input"] == "256x256"
    assert all(each["mmacs"] > 0 and each["source"] for each in listed.values())
    assert listed["npr"]["front_end"] == "x - up(down(x)), nearest, by 1/2"
    assert listed["npr"]["int8_notes"] == "the residual stays in float"
    shown = edgedet("models").out
    assert all(word in shown for word in ("front-end", "export", "INT8", *listed))
