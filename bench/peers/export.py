"""Write anomalib's detectors as ONNX files of 256 x 256 pixels, with random weights: enough to time them, not to judge with them.

Runs in an environment of its own, never in that of the project:

    python3 -m venv peers && peers/bin/pip install torch==2.14.1 torchvision==0.29.1 anomalib onnx onnxscript
    peers/bin/python bench/peers/export.py DIR
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

SIDE = 256  # pixels
PATCHES = 20_000  # that PatchCore stores: a tenth of those of 200 pictures


class ScoreAndMap(nn.Module):
    """A detector's inference batch as plain outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 3, H, W) -> score, map."""
        found = self.model(image)
        return found.pred_score, found.anomaly_map


def stfpm() -> nn.Module:
    """Student-teacher feature pyramids, ResNet18."""
    from anomalib.models.image.stfpm.torch_model import STFPMModel

    return STFPMModel(layers=["layer1", "layer2", "layer3"], backbone="resnet18")


def fastflow() -> nn.Module:
    """FastFlow, ResNet18."""
    from anomalib.models.image.fastflow.torch_model import FastflowModel

    return FastflowModel(input_size=(SIDE, SIDE), backbone="resnet18", pre_trained=False)


def padim() -> nn.Module:
    """PaDiM, ResNet18, 100 features."""
    from anomalib.models.image.padim.torch_model import PadimModel

    model = PadimModel(backbone="resnet18", pre_trained=False)
    cells = (SIDE // 4) ** 2
    model.gaussian.mean = torch.rand(100, cells)
    model.gaussian.inv_covariance = torch.eye(100).repeat(cells, 1, 1)
    return model


def patchcore() -> nn.Module:
    """PatchCore, Wide ResNet50."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=("layer2", "layer3"), pre_trained=False)
    model.memory_bank = torch.rand(PATCHES, 1536)
    return model


def efficient_ad() -> nn.Module:
    """EfficientAD-S."""
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel

    return EfficientAdModel(teacher_out_channels=384)


PEERS: dict[str, Callable[[], nn.Module]] = {
    "STFPM (ResNet18)": stfpm,
    "FastFlow (ResNet18)": fastflow,
    "PaDiM (ResNet18)": padim,
    f"PatchCore (Wide ResNet50, {PATCHES:,} patches)": patchcore,
    "EfficientAD (S)": efficient_ad,
}


def main(out: Path) -> None:
    """Write one file a detector."""
    create = timm.create_model
    timm.create_model = lambda *args, **kwargs: create(*args, **(kwargs | {"pretrained": False}))  # no download
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    for name, made in PEERS.items():
        with torch.inference_mode():
            torch.onnx.export(
                ScoreAndMap(made()),
                (torch.rand(1, 3, SIDE, SIDE),),
                str(out / f"{name}.onnx"),
                input_names=["image"],
                output_names=["score", "map"],
                opset_version=18,
                dynamo=False,
            )
        print(out / f"{name}.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
