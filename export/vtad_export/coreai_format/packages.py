"""Apple's packages for Core AI: a pair of beta versions that is known to work together."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from vtad_export.proof.quiet import quiet, silent
from vtad_runtime.contract.errors import one_line

VERSIONS = {"coreai-torch": "0.4.3", "coreai-core": "1.0.0b3"}


def missing() -> str | None:
    """Why the pinned pair of packages cannot be used here, in one line; None where it can."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            return f"Core AI assets need {name}, which is not installed: pip install 'vtad[coreai]'"
    try:
        with quiet(), silent():
            for name in ("coreai.authoring", "coreai_torch"):
                import_module(name)
    except (ImportError, OSError) as e:
        return f"Core AI assets need coreai-torch, which cannot be imported ({one_line(e)}): pip install 'vtad[coreai]'"
    if found != VERSIONS:
        return f"Core AI is in beta: expected {VERSIONS}, got {found}: pip install 'vtad[coreai]'"
    return None
