"""`vtad-doctor`: whether this installation can judge pictures; one line a check."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from vtad_runtime.contract.command_line.command import no_traceback, say
from vtad_runtime.contract.errors import FAILED

SHOWN = ("name", "ok", "line")  # of a check, in JSON
WORDS = {True: "ok", None: "--", False: "FAIL"}

EXIT_CODES = """\b
Exit codes:
  0    nothing that is needed is missing
  1    some check says FAIL
  2    usage: bad arguments
  4    stdout takes no more, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.option("--model", type=click.Path(path_type=Path), help="Model to test.  [default: the newest below ./runs]")
@click.option("--allow-changed", is_flag=True, help="A model that was changed since its export is no FAIL.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: ok, and every check with name, ok and line.")
@click.version_option(package_name="vtad", prog_name="vtad-doctor")
def doctor(model: Path | None, allow_changed: bool, as_json: bool) -> None:
    """Check the installation: versions, OpenCV's build, cameras, extras, disk, the newest model and a test picture.

    ok: as needed. --: absent, and needed only for what the line says. FAIL: needed and missing. Nothing leaves this machine.
    """
    with no_traceback():
        found = _run(model, allow_changed, as_json)
    sys.exit(FAILED if found else 0)


def _run(model: Path | None, allow_changed: bool, as_json: bool) -> bool:
    """Print every check as it is made; whether one failed."""
    from vtad_runtime.review.doctor import checks

    found = []
    for check in checks(model, allow_changed=allow_changed):
        found.append(check)
        if not as_json:
            line = " ".join(check.line.split())  # names of models and cameras may hold line ends
            say(f"{WORDS[check.ok]:<5} {check.name:<20} {line}")
    bad = [check for check in found if check.ok is False]
    if as_json:
        say(json.dumps({"ok": not bad, "checks": [{name: vars(c)[name] for name in SHOWN} for c in found]}, indent=2))
    elif bad:
        say(f"{len(bad)} of {len(found)} checks failed: {', '.join(c.name for c in bad)}", err=True)
    return bool(bad)
