"""The preset `paper`: VT-ADL as published, at a tiny size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import tiny

from vtad.config import Config
from vtad.evaluation.evaluate import evaluate
from vtad.evaluation.table import table
from vtad.models.paper import PaperAutoencoder
from vtad.training import train


def paper(**changes: Any) -> Config:
    return tiny("paper", **{"image_height": 64, "image_width": 64, "mixture_size": 3, "epochs": 1, **changes})


@pytest.mark.parametrize("registers", [0, 2])
@torch.no_grad()
def test_the_decoder_doubles_up_to_the_size_of_the_image(registers: int) -> None:
    for patch, height, width in ((16, 64, 32), (4, 20, 24), (64, 64, 128)):
        config = paper(patch_size=patch, image_height=height, image_width=width, registers=registers)
        prediction = PaperAutoencoder(config).eval()(torch.rand(2, 3, height, width))
        assert prediction.reconstruction.shape == (2, 3, height, width)
        assert prediction.density.shape == (2, height // patch, width // patch)
        assert ((prediction.reconstruction >= 0) & (prediction.reconstruction <= 1)).all()


def test_noise_is_added_to_the_encoding_in_training_only() -> None:
    model, x = PaperAutoencoder(paper(noise=0.2)), torch.rand(2, 3, 64, 64)
    model.eval()
    assert torch.equal(model(x).density, model(x).density)
    model.train()
    assert not torch.equal(model(x).density, model(x).density)


def test_the_published_term_is_an_upper_bound_of_the_likelihood() -> None:
    x = torch.rand(2, 3, 64, 64)
    terms = []
    for published in (False, True):
        torch.manual_seed(0)
        terms.append(PaperAutoencoder(paper(published_mixture=published)).eval()(x).density)
    assert (terms[1] >= terms[0]).all()
    assert not torch.equal(*terms)


@pytest.mark.parametrize("published", [False, True])
def test_it_trains_with_either_term_and_its_pro_is_the_pixel_auroc_of_the_density(
    pills: Path, tmp_path: Path, published: bool
) -> None:
    run = train(paper(data=str(pills), out=str(tmp_path), published_mixture=published))
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert len(rows) == 1
    assert all(math.isfinite(rows[0][key]) for key in ("loss", "nll", "val_loss", "token_norm_patch_max"))
    evaluation = evaluate(run)
    assert evaluation.paper_pro == evaluation.density_map.auroc
    saved = json.loads((run.path / "metrics.json").read_text())
    assert saved["paper_pro"] == evaluation.paper_pro
    assert saved["density_map"]["aupro"] != saved["paper_pro"]
    assert "VT-ADL's PRO, which is the pixel AUROC" in table(evaluation)
