"""Core ML models of the trained run, converted once a session by whichever worker asks first, and kept on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shared import Shared

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from vtad_export.coreml_format.choices import Target
    from vtad_export.coreml_format.graph import EngineDetector
    from vtad_export.proof.exporter import Precision


@dataclass(frozen=True, eq=False)
class Traced:
    """Stands for the program of a detector, which is traced when it is first converted."""

    arranged: EngineDetector

    @property
    def name(self) -> str:
        """Alike for what is traced alike."""
        from vtad_export.coreml_format.graph import layout_of

        fused = getattr(self.arranged.model, "fused", False)
        return f"{layout_of(self.arranged)}-{self.arranged.function}{'-fused' if fused else ''}"


@contextmanager
def _unchecked() -> Iterator[None]:
    """coremltools does not check its own program after each of some hundred passes, which is a quarter of a conversion.

    It does in all tests of other models than the trained run's.
    """
    from coremltools.converters.mil.mil import Program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "validate", lambda *_, **__: None)
        yield


class Conversions:
    """What is traced, converted and compressed of the trained run. A model that it gives may be changed and saved."""

    def __init__(self, shared: Shared, folder: Path) -> None:
        self._shared, self._folder, self._programs = shared, folder, dict[str, "ExportedProgram"]()
        self._opened = 0

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Exports to Core ML take what was made before; all that follows is done anew."""
        for name, made in (("trace", Traced), ("convert", self.convert), ("compressed", self.compress)):
            patch.setattr(f"vtad_export.coreml_format.exporter.{name}", made)

    def convert(
        self, traced: Traced, precision: Precision, target: Target, outputs: Sequence[str] | None = None
    ) -> Any:
        """As `conversion.convert`."""
        from vtad_export.coreml_format import conversion
        from vtad_export.coreml_format.graph import OUTPUTS, trace
        from vtad_export.coreml_format.mlpackage import coremltools

        outputs = OUTPUTS[traced.arranged.function] if outputs is None else outputs
        year = getattr(coremltools().target, target).name  # a Mac is the same target as its phone
        precision = "fp32" if precision == "fp32" else "fp16"  # of what is compressed afterwards, too

        def make(folder: Path) -> str:
            if traced.name not in self._programs:
                self._programs[traced.name] = trace(traced.arranged)
            with _unchecked():
                made = conversion.convert(self._programs[traced.name], precision, target, outputs)
            return self._saved(made, folder, f"{traced.name}-{precision}-{year}")

        return self._open(f"converted-{traced.name}-{precision}-{year}", make)

    def compress(self, model: Any, precision: Precision, with_backbone: bool = False) -> Any:
        """As `conversion.compressed`."""
        from vtad_export.coreml_format import conversion

        of = f"{Path(model.package_path).stem}-{precision}{'-backbone' if with_backbone else ''}-{conversion.SMALLEST}"

        def make(folder: Path) -> str:
            with _unchecked():
                made = conversion.compressed(model, precision, with_backbone)
            return self._saved(made, folder, of)

        return self._open(f"compressed-{of}", make)

    @staticmethod
    def _saved(model: Any, folder: Path, name: str) -> str:
        model.save(str(folder / f"{name}.mlpackage"))
        return str(folder / f"{name}.mlpackage")

    def _open(self, name: str, make: Any) -> Any:
        """A copy, for coremltools writes into what it opens."""
        from vtad_export.coreml_format.mlpackage import coremltools
        from vtad_export.proof.quiet import quiet

        path = Path(self._shared(name, make))
        self._opened += 1
        own = shutil.copytree(path, self._folder / str(self._opened) / path.name)
        with quiet():
            return coremltools().models.MLModel(str(own), skip_model_load=True)
