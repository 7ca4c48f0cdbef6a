"""`vtad-run`: judges a camera, a stream, a video, a folder or a hot folder. Options and dispatch; the work is elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vtad_runtime.commands.arguments import alarm_rule, duration, names, picture_size, rectangle, size_in_bytes
from vtad_runtime.contract.command_line.command import no_traceback, say
from vtad_runtime.contract.command_line.program import importing
from vtad_runtime.contract.command_line.sections import SectionCommand
from vtad_runtime.contract.command_line.sections import section_option as _option
from vtad_runtime.engine.engines import AUTO, ENGINES
from vtad_runtime.line.options import RunOptions
from vtad_runtime.outputs.csv_lines import DIALECTS
from vtad_runtime.sources.address import KINDS, address

EXIT_CODES = """\b
Exit codes:
  0    everything was judged OK; or a signal ended a camera, a stream or --watch
  1    something is not OK (NG, UNSURE or STALE)
  2    usage: bad arguments, no model or a wrong one, nothing to judge, a source
       that does not open, a folder that cannot be read or written to
  3    something could not be judged (wins over 1), or the model failed
  4    a result could not be written, e.g. the disk is full; the summary says of how
       many pictures (wins over 3)
  5    --strict, or --golden alone: golden samples are not judged as they were
  70   internal error
  130  --folder or --video stopped by Ctrl-C, 143 by SIGTERM; what was begun is
       written
"""


def _from_environment(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.ENVIRONMENT


def _list_cameras(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from vtad_runtime.sources.opencv_sources import list_cameras

    with no_traceback():
        for line in list_cameras() or ["no camera found"]:
            say(line)
    ctx.exit()


FILE = click.Path(path_type=Path)
TIME: dict[str, Any] = {"type": duration, "metavar": "TIME"}
SCORE: dict[str, Any] = {"type": float, "metavar": "SCORE"}
SOURCE, FRAMES, VERDICT, SAVED, OTHERS, OTHER = (
    "Source (one of them)",
    "Frames",
    "Verdict",
    "Results",
    "To others",
    "Other",
)


@click.command(
    cls=SectionCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@_option(SOURCE, "--camera", type=click.IntRange(0), help="A camera of this machine, by number.")
@_option(SOURCE, "--video", metavar="FILE", help="A video file.")
@_option(
    SOURCE,
    "--stream",
    metavar="URL",
    envvar="VTAD_STREAM",
    show_envvar=True,
    help="rtsp://... or http://..., such as an MJPEG stream.",
)
@_option(SOURCE, "--folder", metavar="DIR|GLOB|FILE", help="A folder and all below it, a glob in quotes, or a file.")
@_option(SOURCE, "--watch", metavar="DIR", help="A hot folder: every new picture is judged once.")
@_option(
    SOURCE, "--source", metavar="X", help="Any of them: 0, camera:0, a URL, a video file, watch:DIR, DIR|GLOB|FILE."
)
@_option(
    SOURCE,
    "--list-cameras",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_cameras,
    help="Say which cameras open, and exit.",
)
@_option(FRAMES, "--every", **TIME, help="Judge at most one frame in this time, e.g. 200ms.")
@_option(FRAMES, "--max-frames", type=click.IntRange(1), help="Stop after so many.")
@_option(FRAMES, "--roi", type=rectangle, metavar="X,Y,W,H", help="Judge this part only, in pixels of the source.")
@_option(
    FRAMES, "--roi-mask", type=FILE, metavar="PNG", help="What is black in it raises no alarm; size of the frames."
)
@_option(FRAMES, "--rotate", type=click.Choice([0, 90, 180, 270]), default=0, help="Turn clockwise, after --roi.")
@_option(FRAMES, "--flip", type=click.Choice(["h", "v"]), help="h: left and right change sides. After --rotate.")
@_option(FRAMES, "--resolution", type=picture_size, metavar="WxH", help="Ask the camera for this size.")
@_option(FRAMES, "--fps", type=click.FloatRange(0, min_open=True), help="Ask the camera for this rate.")
@_option(
    FRAMES,
    "--drop",
    type=click.Choice(["oldest", "newest", "none"]),
    help="What goes when frames come too fast.  [default: oldest; none of a video]",
)
@_option(FRAMES, "--max-age", **TIME, help="A frame judged later is STALE.  [default: 2s; none for a video]")
@_option(
    VERDICT,
    "--review",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="At most this share of good parts is UNSURE or NG; 0: no score is UNSURE.  [default: 0.05]",
)
@_option(VERDICT, "--unsure-from", **SCORE, help="From this score up to the threshold: UNSURE; in place of --review.")
@_option(
    VERDICT, "--alarm", type=alarm_rule, metavar="N/M", help="Alarm on: at least N of the last M are NG, e.g. 3/5."
)
@_option(
    VERDICT,
    "--alarm-off",
    **SCORE,
    help="Alarm off: fewer than N of the last M are above this.  [default: the threshold]",
)
@_option(
    VERDICT,
    "--frame-check",
    type=names,
    metavar="NAMES",
    help="What makes a frame UNSURE; or none.  [default: frozen,black,saturated,focus]",
)
@_option(VERDICT, "--golden", type=FILE, metavar="DIR", help="Check known parts in good/ and bad/ at the start.")
@_option(VERDICT, "--golden-every", **TIME, help="Check them again and again, e.g. 30m.")
@_option(
    VERDICT,
    "--golden-frame",
    is_flag=True,
    help="A known good part is before the camera at the start: has the camera changed?",
)
@_option(VERDICT, "--strict", is_flag=True, help="Do not start when they are not judged as they were.")
@_option(
    SAVED,
    "--out",
    type=FILE,
    default=Path("results"),
    show_default=True,
    help="Where results go; each run makes the next folder 0001, 0002, ... in it.",
)
@_option(
    SAVED,
    "--save",
    type=click.Choice(["all", "ng", "none"]),
    help="Which heatmaps to save; ng: of everything that is not OK.  [default: all of a folder, else ng]",
)
@_option(
    SAVED,
    "--view",
    type=click.Choice(["overlay", "panel"]),
    default="overlay",
    show_default=True,
    help="overlay: the heatmap over the picture. panel: input, heatmap, SSIM, density, reconstruction.",
)
@_option(
    SAVED, "--image", type=click.Choice(["jpg", "png"]), default="jpg", show_default=True, help="Format of heatmaps."
)
@_option(
    SAVED,
    "--keep",
    type=size_in_bytes,
    metavar="SIZE",
    help="Room for saved pictures, e.g. 10GB; the oldest are deleted.",
)
@_option(SAVED, "--save-originals", is_flag=True, help="Also save the frame itself, for vtad-replay.")
@_option(
    SAVED,
    "--csv-dialect",
    type=click.Choice(DIALECTS),
    help="Of results.csv; excel-eu: semicolons and decimal commas, as a German or French Excel reads.  [default: excel]",
)
@_option(SAVED, "--sort-to", type=FILE, metavar="DIR", help="Move judged files to DIR/OK, DIR/NG, ... (--watch).")
@_option(OTHERS, "--json", metavar="FILE|-", help="JSON Lines, one object per verdict; -: to stdout.")
@_option(OTHERS, "--write-video", type=FILE, metavar="MP4", help="Annotated video.")
@_option(
    OTHERS,
    "--mqtt",
    metavar="URL",
    envvar="VTAD_MQTT",
    show_envvar=True,
    help="Publish to mqtt://[user:password@]host[:port]/topic (extra mqtt).",
)
@_option(
    OTHERS,
    "--post",
    metavar="URL",
    envvar="VTAD_POST",
    show_envvar=True,
    help="POST each verdict to a web server.",
)
@_option(
    OTHERS,
    "--credentials",
    type=FILE,
    metavar="FILE",
    help="Users and passwords of --stream, --mqtt, --post: lines machine HOST login USER password PASSWORD.",
)
@_option(
    OTHERS,
    "--live",
    is_flag=False,
    flag_value="8000",
    metavar="[PORT|HOST:PORT]",
    help="A page to watch in a browser, on port 8000 of this machine if not said otherwise (extra live).",
)
@_option(OTHERS, "--show", is_flag=True, help="A window, where OpenCV has one.")
@_option(OTHERS, "--log-json", is_flag=True, help="Events on stderr as JSON Lines; no line per frame.")
@_option(OTHER, "--model", type=FILE, help="Exported .onnx.  [default: the newest below ./runs]")
@_option(
    OTHER, "--allow-changed", is_flag=True, help="Run a model that was changed since its export; every row says so."
)
@_option(
    OTHER,
    "--engine",
    type=click.Choice([AUTO, *ENGINES]),
    default=AUTO,
    show_default=True,
    help="What runs the model; auto: the fastest that is installed and judges the model's reference pictures alike.",
)
@_option(
    OTHER,
    "--threads",
    type=click.IntRange(1),
    help="CPU threads of the model, at most one a core.  [default: onnxruntime decides]",
)
@_option(
    OTHER,
    "--batch",
    type=click.IntRange(1, 64),
    help="Pictures of a folder that a GPU judges together.  [default: 4 to 8, by the cores]",
)
@click.version_option(package_name="vtad", prog_name="vtad-run")
def run(source: str | None, **given: Any) -> None:
    """Judge pictures by an exported detector: verdicts, scores and heatmaps.

    Needs one source; with --golden alone it checks the golden samples, once or --every TIME. A picture is NG if and only
    if its score is above the threshold on the model's card. Nothing leaves this machine unless an option under "To
    others" sends it.
    """
    sources = {kind: given.pop(kind) for kind in KINDS}
    named = [source, *sources.values()]
    if named.count(None) < len(named) - 1 and _from_environment("stream"):
        sources["stream"] = None  # the command line names another source
    only_golden = given["golden"] is not None and source is None and not any(v is not None for v in sources.values())
    with no_traceback(json_lines=given["log_json"]):
        where = None if only_golden else address(source, **sources)
        options = RunOptions(where, **given)
        with importing():
            from vtad_runtime.line.run import command  # numpy, OpenCV and onnxruntime take 0.3 s

        code = command(options)
    sys.exit(code)
