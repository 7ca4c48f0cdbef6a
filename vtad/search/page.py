"""sweep.html: what a study found and how, with Optuna's plots; one file that needs no other."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from vtad.run_folder import write_text
from vtad.search.attempts import SURPLUS, WHY
from vtad.search.study import SETTINGS, Found
from vtad.search.worker import REASON, WORKER

TEMPLATE = Path(__file__).with_name("page.html")
WIDE, HIGH = 10.0, 4.5  # inches
PIXELS = 70  # of the page, for an inch of a plot
MOST_NAMES = 12  # in a legend


class Plot(NamedTuple):
    """A picture of the page."""

    title: str
    caption: str
    width: int  # in which it can be read, CSS pixels
    svg: str  # base64


class Row(NamedTuple):
    """A trial in the table."""

    trial: FrozenTrial
    state: str
    minutes: float | None


def write_page(path: Path, study: optuna.Study, found: Found) -> None:
    """Replace the page of a study. Raises WriteError, and ImportError where jinja2 or matplotlib is not installed."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    trials = study.get_trials(deepcopy=False)
    settings = study.user_attrs[SETTINGS]
    text = template.render(
        study=study.study_name,
        settings=settings,
        found=found,
        early=found.standing.early,
        ranges={name: _range(option) for name, option in settings["space"].items()},
        plots=list(_plots(study)),
        rows=[Row(trial, _state(trial), _minutes(trial)) for trial in trials if trial.user_attrs.get(WHY) != SURPLUS],
        worker=WORKER,
    )
    write_text(path, text)


def _plots(study: optuna.Study) -> Iterator[Plot]:
    """Those that there is something to show in."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as drawn

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    reported = any(trial.intermediate_values for trial in study.get_trials(deepcopy=False))
    differ = len({trial.value for trial in complete}) > 1
    wanted: tuple[tuple[str, str, Callable[[optuna.Study], Any], bool], ...] = (
        ("History", "Each complete trial, and the best so far.", drawn.plot_optimization_history, True),
        (
            "Importance",
            "How much of the differences between trials each option explains (fANOVA). Of few trials it says little.",
            drawn.plot_param_importances,
            differ,
        ),
        (
            "Validation curves",
            "The quality so far, at each tenth of a training, on few pictures. A trial below the median of the others is pruned.",
            drawn.plot_intermediate_values,
            reported,
        ),
        ("Values", "The quality over each option.", drawn.plot_slice, differ),
        ("Together", "Each line is a trial; dark lines are good ones.", drawn.plot_parallel_coordinate, differ),
        ("Time", "When each trial ran, and how it ended.", drawn.plot_timeline, True),
    )
    for title, caption, draw, shown in wanted:
        if shown:
            with mpl.rc_context(), warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                warnings.simplefilter("ignore", UserWarning)  # of axes that have one value only
                draw(study)
                figure = plt.gcf()
                _tidied(figure)
                wide = max(WIDE, 2.2 * len(figure.axes))
                figure.set_size_inches(wide, HIGH)
                picture = io.BytesIO()
                figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
                plt.close(figure)
            yield Plot(title, caption, round(PIXELS * wide), base64.b64encode(picture.getvalue()).decode())


def _tidied(figure: Any) -> None:
    """No titles, which the page has; no legends that are longer than the plot; whole numbers of trials."""
    from matplotlib.ticker import MaxNLocator

    figure.suptitle("")
    for axes in figure.axes:
        axes.set_title("")
        axes.set_title("", loc="left")
        if axes.get_xlabel() == "Trial":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend = axes.get_legend()
        if legend is not None and len(legend.get_texts()) > MOST_NAMES:
            legend.remove()


def _range(option: dict[str, Any]) -> str:
    if "choices" in option:
        return ", ".join(map(str, option["choices"]))
    how = ", logarithmic" if option["log"] else f", in steps of {option['step']}" if option["step"] else ""
    return f"{option['low']} to {option['high']}{how}"


def _state(trial: FrozenTrial) -> str:
    reason = trial.user_attrs.get(REASON) or trial.user_attrs.get(WHY)
    if trial.state is TrialState.FAIL and reason is None:
        reason = "killed"
    return trial.state.name.lower() + (f": {reason}" if reason else "")


def _minutes(trial: FrozenTrial) -> float | None:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return None
    took = trial.datetime_complete - trial.datetime_start
    return float(took.total_seconds()) / 60


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
