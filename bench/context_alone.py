"""The context density alone: a trained detector whose map is the context density, in place of the fused score."""

from __future__ import annotations

from torch import Tensor, nn

from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector


class ContextAlone(nn.Module):
    """A detector of the presets `default` or `scratch`, judged as a baseline is."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Uint8 (B, 3, H, W) -> scores (B,) and maps (B, H, W), nats a cell."""
        model = self.detector.model
        assert isinstance(model, Autoencoder)
        x = image.float() / 255
        y = model.observe(x)
        nll = model.predict(model.context(x, y), y).density
        heatmap = self.detector.up_rows @ nll @ self.detector.up_columns
        return self.detector.score(heatmap), heatmap
