"""Where the rules come from. Apple publishes no table of what its Neural Engine runs; most of this was measured by others.

Chips: the ane-guide measured an M1, an M2 and an M5 and predicts the rest from the compiler's tables. It calls the families of
M1, M2 and M3 A13, A14 and A15; hollance/neural-engine has the engine of the A14 in the M1, and that of the A15 in both M2 and
M3. Here a phone's chip stands beside the Mac's of the same engine core by hollance, up to the M3, which the rules treat as later.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Something that others can read."""

    name: str
    address: str


SOURCES = {
    "Apple": Source(
        "Apple, Deploying Transformers on the Apple Neural Engine, 2022",
        "https://machinelearning.apple.com/research/neural-engine-transformers",
    ),
    "ml-ane": Source("apple/ml-ane-transformers at da64000", "https://github.com/apple/ml-ane-transformers"),
    "typed execution": Source(
        "coremltools guide, Typed Execution Workflow Example",
        "https://apple.github.io/coremltools/docs-guides/source/typed-execution-example.html",
    ),
    "issue 1723": Source("apple/coremltools, issue 1723", "https://github.com/apple/coremltools/issues/1723"),
    "quantization": Source(
        "coremltools guide, Quantization: Performance",
        "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-perf.html",
    ),
    "guide": Source("sbryngelson/ane-guide at 9eb1afe", "https://github.com/sbryngelson/ane-guide"),
    "hollance": Source("hollance/neural-engine at d0bb530", "https://github.com/hollance/neural-engine"),
}
