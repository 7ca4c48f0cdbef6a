"""An .aimodel executed by Apple's Core AI runtime on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vtad.models.detector import Judgement
from vtad_export.proof.errors import ParityError
from vtad_export.proof.material import Pixels, Values
from vtad_export.proof.quiet import silent
from vtad_runtime.contract.errors import one_line


class Runtime:
    """An .aimodel opened by Apple's runtime, one picture at a time. For use in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Runtime:
        """Load. Raises ParityError where the asset does not load or has another signature."""
        from coreai.authoring import AIModelAsset

        self._thread = ThreadPoolExecutor(1)  # a loop of its own, for the caller may have one running
        self._loop = asyncio.new_event_loop()
        self._asset = AIModelAsset.load(self._path).executable()
        try:
            with silent():
                self._function = self._wait(self._asset.__aenter__()).load_function("main")
        except Exception as e:  # the runtime's errors share no base class
            self._close()
            raise ParityError(f"the coreai artefact does not load: {one_line(e)}; nothing was kept") from e
        names = set(self._function.desc.output_names)
        if names != set(Judgement._fields) or list(self._function.desc.input_names) != ["image"]:
            self.__exit__()
            raise ParityError(f"the coreai artefact: expected outputs {Judgement._fields}, got {sorted(names)}")
        return self

    def __exit__(self, *_: object) -> None:
        del self._function
        self._wait(self._asset.__aexit__(None, None, None))
        self._close()

    def __call__(self, pixels: Pixels) -> Values:
        """(B, 3, H, W) uint8 -> outputs by name. Raises ParityError."""
        try:
            runs = [self._wait(self._one(image[None])) for image in pixels]
        except Exception as e:  # the runtime's errors share no base class
            raise ParityError(f"the coreai artefact does not run: {one_line(e)}; nothing was kept") from e
        return {name: np.concatenate([r[name] for r in runs]) for name in Judgement._fields}

    async def _one(self, image: Pixels) -> Values:
        from coreai.runtime import NDArray

        outputs = await self._function(inputs={"image": NDArray(np.ascontiguousarray(image))})
        return {name: np.array(outputs[name].numpy()) for name in Judgement._fields}

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._thread.submit(self._loop.run_until_complete, work).result()

    def _close(self) -> None:
        self._loop.close()
        self._thread.shutdown()
