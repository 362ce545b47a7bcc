"""Detectors of paired crops under one budget: who is trained, on what, and the tables."""

import argparse
import json

import numpy as np
import paired
import paired_table
import pytest
from PIL import Image

from edgedet import recipe
from edgedet.data.archive import open_data
from edgedet.training.stage import TrainRecipe

GENERATORS = ("alpha", "beta")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Photographs of noise, and their copies with a faint grid, made by two generators in turns."""
    root, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    lines = ["path,label,generator,split,pair"]
    for number in range(48):
        split = ("train", "train", "val", "test")[number % 4]
        photo = random.integers(60, 190, (160, 160, 3)).astype(np.uint8)
        fake = photo.copy()
        fake[::2, ::2] += 60
        generator = GENERATORS[number // 4 % 2]
        for label, name, pixels in ((0, "camera", photo), (1, generator, fake)):
            path = f"{split}/{name}-{number}.png"
            (root / path).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / path)
            lines.append(f"{path},{label},{name},{split},{number}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def figure(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def row(name, value, *, seed=0, without=None):
    of = {generator: {"auc": figure(value + shift)} for generator, shift in zip(GENERATORS, (-0.1, 0.1), strict=True)}
    facts = {"recipe": f"pairs-{name}", "detector": name, "seed": seed, "without": without, "epochs": 12}
    return {**facts, "images": 12000, "n": 930, "validation_auc": value, "test": {"auc": figure(value)}, "generators": of}


def test_the_tables_put_the_best_first_and_mark_what_was_never_seen():
    rows = [row("npr", 0.7), row("lite", 0.8), row("lite", 0.82, seed=1), row("lite", 0.75, without="beta")]
    lines = paired_table.markdown({"date": "2026-01-02", "rows": rows}).splitlines()
    assert lines[0].endswith("one seed (12 passes, 12,000 images seen; 930 test images; 2026-01-02)")
    assert lines[2:5] == [
        "| detector | all | alpha | beta |",
        "| --- | ---: | ---: | ---: |",
        "| `lite` | 80.0 [78.0, 82.0] | 70.0 [68.0, 72.0] | 90.0 [88.0, 92.0] |",
    ]
    assert "- `lite`, 2 seeds: 81.0, standard deviation 1.4 (80.0, 82.0)" in lines
    assert "| beta | 75.0 [73.0, 77.0] | 65.0 [63.0, 67.0] | **85.0 [83.0, 87.0]** |" in lines


def test_everybody_is_trained_once_then_the_best_by_validation_again(pairs):
    rows, asked, aucs = [], [], {"pairs-lite": 0.6, "pairs-npr": 0.9, "pairs-safe": 0.7}
    given = argparse.Namespace(recipes=tuple(aucs), seeds=(0, 1), epochs=5)
    for training in paired._trainings(given, open_data(str(pairs)), rows):
        asked.append(training.name)
        assert training.epochs == (2 if training.without else 5)
        rows.append({"recipe": training.recipe, "validation_auc": aucs[training.recipe]})
    assert asked[:3] == ["pairs-lite-seed0", "pairs-npr-seed0", "pairs-safe-seed0"]
    assert asked[3:5] == ["pairs-npr-seed1", "pairs-safe-seed1"]
    assert asked[5:] == ["pairs-npr-seed0-without-alpha", "pairs-npr-seed0-without-beta"]


def test_a_generator_left_out_takes_its_photographs_with_it_but_not_from_the_test(pairs):
    data = open_data(str(pairs))
    seen = paired.without_generator(data, "beta")
    assert {row.generator for row in seen.split("train").rows} == {"camera", "alpha"}
    assert len({row.pair for row in seen.split("train").rows}) * 2 == len(seen.split("train"))
    assert seen.split("test").digest == data.split("test").digest


@pytest.mark.parametrize("name", paired.RECIPES)
def test_all_have_one_budget_and_order_and_their_own_rates(name):
    config = paired.config_of(paired.Training(name, seed=2, epochs=5))
    own = recipe.load("train", name, paired.AnyRecipe)
    assert isinstance(config, TrainRecipe)
    assert (config.training.epochs, config.training.order, config.training.seed) == (5, "pairs", 2)
    assert (config.training.augment.margin, config.preprocess["height"]) == (128, 128)
    assert (config.training.lr, config.training.optimizer) == (own.training.lr, own.training.optimizer)


@pytest.mark.slow
def test_it_trains_scores_and_goes_on(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paired, "config_of", small)
    given = ["--data", str(pairs), "--out", str(tmp_path), "--recipes", "pairs-npr", "--seeds", "0", "1", "--epochs", "1"]
    results = tmp_path / "paired.json"
    paired.main([*given, "--results", str(results)])
    found = json.loads(results.read_text())
    assert [(row["seed"], row["without"]) for row in found["rows"]] == [(0, None), (1, None), (0, "alpha"), (0, "beta")]
    assert all(set(row["generators"]) == set(GENERATORS) for row in found["rows"])
    monkeypatch.setattr(paired, "run", None)  # nothing is trained a second time
    paired.main([*given, "--results", str(results)])
    assert json.loads(results.read_text())["rows"] == found["rows"]
    assert "pairs-npr-seed0-without-beta" in capsys.readouterr().out


def small(training):
    return recipe.load("train", "pairs-npr", TrainRecipe, [
        'detector={name="npr-student"}', "training.epochs=1", f"training.seed={training.seed}", "training.batch_size=8",
        "training.warmup_epochs=0.5",
    ])  # fmt: skip


def test_the_document_shows_the_results_that_were_recorded():
    shown = paired.README.read_text(encoding="utf-8").partition(paired.BEGIN)[2].partition(paired.END)[0].strip()
    assert shown == paired_table.markdown(json.loads(paired.RESULTS.read_text(encoding="utf-8"))).strip()


def test_without_data_it_says_so(monkeypatch, capsys):
    monkeypatch.delenv("EDGEDET_DATA", raising=False)
    paired.main([])
    assert "skipped: give --data" in capsys.readouterr().out
