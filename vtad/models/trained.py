"""A trained detector, loaded back from its run folder."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vtad.models.detector import Detector
from vtad.older_runs import tensors_of_today
from vtad.run_folder import Run, RunError, sha256


def load_detector(run: Run, device: torch.device | None = None, prune: bool = True) -> Detector:
    """The trained detector of a complete run, in evaluation mode, without the scorers that weigh nothing. Raises RunError.

    `prune=False` keeps all scorers; the outputs are the same.
    """
    card = run.card()
    detector = Detector(run.config())
    try:
        if sha256(run.weights) != card.weights_sha256:
            raise RunError(
                f"{run.weights}: the weights are not those that {run.path / 'card.json'} describes: train again"
            )
        detector.load_state_dict(tensors_of_today(load_file(run.weights)))
    except (OSError, SafetensorError, RuntimeError) as e:
        raise RunError(f"{run.weights}: expected the weights of this run, got {e}".splitlines()[0]) from e
    if prune:
        detector.prune()
    return detector.to(device or torch.device("cpu")).eval()
