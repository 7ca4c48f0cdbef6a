"""The words of docs/glossary.md are the only ones: no word of an earlier version is left in the documents or in the packages."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import DOCS, ROOT

PACKAGES = ("runtime/vtad_runtime", "vtad", "benchmark/vtad_benchmark", "export/vtad_export", "bench", "tests")
FILES = tuple(
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*"))
    if path.suffix in (".py", ".js", ".html", ".css") and path != Path(__file__)
)

# Words of earlier versions: no text and no name holds them.
NEVER = re.compile(
    r"(?i:(?<![a-z])(?:witness\w*|evidence|rehears\w*|teachers?|normal.variation|nll.map\w*|twins?|tellers?|difference.head|"
    r"odds|motion|moved.images|ask.all)(?![a-z])|\b(?:news\b|told\b(?! from| apart)))|\b(?:JIT|SYN|Said)\b"
)
# English words that were names of parts. They are not used as nouns of their own,
NOUNS = re.compile(
    r"(?i)\b(?:the|a|and|or|by|beside|from) (?:place|mixture|memory|context)(?:'s)?\b(?! (?:of|density|manager|components?)\b)"
)
# and no name in the code holds them.
IN_NAMES = {"place", "mixture", "memory", "context", "counted", "settle", "ask", "told", "news"}

# What may hold such a word, and why.
TEXTS = {
    "vtad/older_runs.py": "reads runs of earlier versions",
    "runtime/vtad_runtime/contract/card.py": "reads cards of earlier versions",
    "tests/runtime/test_runtime_card.py": "a card of an earlier version",
    "tests/test_schema_1.py": "files of an earlier version",
    "tests/vtad/test_older_runs.py": "a run of an earlier version",
    "bench/peers/export.py": "names in other people's code",
    "vtad/backbones/vit_checkpoint.py": "keys in other people's files",
    "tests/vtad/test_vit_backbone.py": "keys in other people's files",
    "runtime/vtad_runtime/page/page.js": "a word of CSS",
    "runtime/vtad_runtime/page/page.css": "a word of CSS",
}
NAMES = {
    "Context context_settings pass_context get_current_context enter_context get_context": "click, contextlib, multiprocessing",
    "_context": "click",
    "rc_context": "matplotlib",
    "load_context PythonModelContext": "mlflow",
    "MemoryError __context__": "Python",
    "OutOfMemoryError": "torch",
    "AbstractContextManager": "contextlib",
    "ask": "Optuna",
    "PatchMemory patch_memory ContextDensity context_density _choose_context_density": "the glossary's own",
    "EnginePatchMemory ChannelContextDensity EngineContextDensity": "the same, for the Neural Engine",
    "FoldedPatchMemory FoldedContextDensity WeightedContextDensity": "the same, arranged for inference",
    "context context_scale": "of the context density: what it is given",
    "memory memory_mb memory_exponent keep_memory": "bytes",
    "memory_bank teacher_out_channels": "anomalib",
    "memory_format": "of a tensor: torch's name for where channels lie",
    "mixture_size mixture_nll published_mixture published_mixture_term": "of a mixture density",
    "place _place": "the verb",
    "settle_s _settle_s": "how long a file must not change",
    "counted _counted _counted_pool": "numbers are counted",
    "told_apart": "to tell apart",
}
ALLOWED = {name for names in NAMES for name in names.split()}


@pytest.mark.parametrize("path", [*DOCS, ROOT / "docs" / "vtad-run.service"], ids=lambda path: path.name)
def test_the_documents_use_no_word_of_earlier_versions(path: Path) -> None:
    assert not list(found(path))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_use_no_word_of_earlier_versions(package: str) -> None:
    files = [path for path in FILES if path.is_relative_to(ROOT / package) and str(path.relative_to(ROOT)) not in TEXTS]
    assert not [word for path in files for word in found(path)]


@pytest.mark.parametrize("package", PACKAGES[:-1])  # names of tests are sentences
def test_no_name_holds_a_word_of_earlier_versions(package: str) -> None:
    assert not [
        name for path in FILES if path.suffix == ".py" and path.is_relative_to(ROOT / package) for name in names(path)
    ]


def test_what_is_allowed_is_still_needed() -> None:
    assert all(list(found(ROOT / name)) for name in TEXTS)


def found(path: Path) -> Iterator[str]:
    """The words in the text of a file, each with its line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for pattern in (NEVER, NOUNS):
            yield from (f"{path.relative_to(ROOT)}:{number}: {match[0]}" for match in pattern.finditer(line))


def names(path: Path) -> Iterator[str]:
    """The names in a file of Python that hold such a word, each with its line."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME and token.string not in ALLOWED:
            parts = {part.lower() for part in re.findall(r"[a-z]+|[A-Z][a-z]*", token.string)}
            if parts & IN_NAMES:
                yield f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
