"""How well the presets detect beside what a user could pick instead: `make quality`.

For each category and seed, each method is trained on the same images and judged on the test images; a row goes to
<out>/rows.jsonl, and what is there is not done again (the commit is in the row: after a change of the code, take another --out or
remove rows). A training that was stopped continues. At the end the table is printed and written to <out>/quality.md.

The baselines take the input size, fit and split of `default`, and of the images that it trains on the same ones; they do not
augment them, as published. PaDiM and PatchCore see the features of the same frozen backbone.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from bench.quality_table import BASELINES, Row, label, markdown
from vtad.commands.library_errors import library_errors_as_lines
from vtad.config import Config, ConfigError, Preset, preset
from vtad.data.bit_depth import bit_depth
from vtad.data.images import ImageCache, split_good
from vtad.data.layout import DataError, default_data_dir, find_categories, find_category
from vtad.data.sizing import with_size
from vtad.inspection import input_spec
from vtad.run_folder import Run, RunError, append_line, make_folder, newest_run, write_text
from vtad_runtime.contract.command_line.command import no_traceback
from vtad_runtime.contract.command_line.stopping import stoppable
from vtad_runtime.contract.errors import VtadError

PRESETS: tuple[Preset, ...] = get_args(Preset)
METHODS = (*PRESETS, *BASELINES)
# Of training, where neither --minutes nor the preset says.
MINUTES: dict[str, float] = {"paper": 60, "l1": 10, "ssim": 10}


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    data: Path  # folder of categories
    out: Path  # gets rows.jsonl, quality.md and the runs
    minutes: float | None = None  # of each training; None: the method's own
    size: tuple[int, int] | None = None  # height, width in pixels; None: as `default` chooses
    patches: int | None = None  # that PatchCore stores; None: its own
    epochs: int | None = None  # of each preset's training, in place of minutes
    changes: tuple[tuple[str, Any], ...] = ()  # of the presets' configurations, by field

    @property
    def rows(self) -> Path:
        """One line a result."""
        return self.out / "rows.jsonl"

    def asked(self, method: str) -> dict[str, Any]:
        """What of it concerns a method, beside its defaults: part of what tells rows apart."""
        asked: dict[str, Any] = {}
        if self.minutes is not None and method not in ("padim", "patchcore"):
            asked["minutes"] = self.minutes
        if method in PRESETS:
            asked |= dict(self.changes) | ({} if self.epochs is None else {"epochs": self.epochs})
        if self.size is not None and method != "paper":
            asked["size"] = f"{self.size[0]}x{self.size[1]}"
        if self.patches is not None and method == "patchcore":
            asked["patches"] = self.patches
        return asked


def fill(plan: Plan, categories: tuple[str, ...], seeds: tuple[int, ...], methods: tuple[str, ...]) -> list[Row]:
    """Do what is not there yet; all rows are returned. Raises what training, evaluation and the baselines raise."""
    make_folder(plan.out)
    for category in categories:
        for seed in seeds:
            for method in sorted(methods, key=METHODS.index):
                key: Row = {"category": category, "seed": seed, "method": method, "asked": plan.asked(method)}
                if any(key.items() <= row.items() for row in read_rows(plan.rows)):
                    click.echo(f"{category}, seed {seed}, {label(key)}: there already")
                    continue
                click.echo(f"{category}, seed {seed}, {label(key)} ...")
                found = _baseline(plan, **key) if method in BASELINES else _trained(plan, **key)
                append_line(plan.rows, {**key, **found, "commit": _commit()})
    return read_rows(plan.rows)


def read_rows(path: Path) -> list[Row]:
    """The rows so far. Raises RunError for a line that is not one."""
    if not path.is_file():
        return []
    rows = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not {"category", "seed", "method", "asked", "commit"} <= row.keys():
            raise RunError(f"{path}: line {i}: expected a row of make quality, got {line[:60]!r}: remove that line")
        rows.append(row)
    return rows


def _trained(plan: Plan, category: str, seed: int, method: Any, asked: dict[str, Any]) -> Row:
    """Train a preset (or continue, or take what is complete), evaluate it."""
    from bench.baselines.baseline import gigaflop, stored_numbers
    from vtad import evaluate
    from vtad.models.trained import load_detector

    folder = "-".join([method, *(f"{k}{v}" for k, v in asked.items()), f"seed{seed}"])
    changes: dict[str, Any] = {"data": str(plan.data), "out": str(plan.out / "runs" / folder), "seed": seed}
    changes |= dict(plan.changes)
    if plan.epochs is not None:
        changes["epochs"] = plan.epochs
    elif plan.minutes is not None or method in MINUTES:
        changes["minutes"] = plan.minutes or MINUTES[method]
    if "size" in asked and plan.size is not None:
        changes["image_height"], changes["image_width"] = plan.size
    run, seconds = _train(preset(method, category, **changes))
    config = run.config()
    found = evaluate(run, data=plan.data)
    detector = load_detector(run, prune=False)  # so that the context density can be judged alone
    epochs = _epochs(run)
    last = epochs[-1] if epochs else {}
    norms: Row = next((row for row in reversed(epochs) if "val_loss" in row), {})
    return {
        **_input(config),
        "image_auroc": found.scores.image.auroc,
        "pixel_auroc": found.heatmap.auroc,
        "aupro": found.heatmap.aupro,
        "ssim_pixel_auroc": found.ssim_map.auroc,
        "ssim_aupro": found.ssim_map.aupro,
        "density_pixel_auroc": found.density_map.auroc,
        "density_aupro": found.density_map.aupro,
        **_density_alone(plan, detector, config),
        "missed": found.scores.miss_rate,
        "false_alarms": found.scores.false_alarm_rate,
        "good_with_region": found.good_with_region,
        "epochs": last.get("epoch"),
        **{f"last_{name}": last.get(name) for name in ("mse", "ssim", "nll")},
        **{name: value for name, value in norms.items() if name.startswith("token_norm_")},
        "train_seconds": seconds,
        "parameters": sum(p.numel() for p in detector.parameters()),
        "stored_numbers": stored_numbers(detector),
        "gflop": gigaflop(detector, config.image_height, config.image_width),
        "run": str(run.path),
    }


def _density_alone(plan: Plan, detector: Any, config: Config) -> Row:
    """The figures of the context density alone; none for `paper`, where it is all there is."""
    from bench.baselines.judge import judge
    from bench.context_alone import ContextAlone
    from vtad.fitting.device import pick_device

    if config.preset == "paper":
        return {}
    device = pick_device(config.device)
    test = find_category(plan.data, config.category).test
    found = judge(ContextAlone(detector).to(device), test, input_spec(config), device)
    return {
        "context_image_auroc": found.image_auroc,
        "context_pixel_auroc": found.pixels.auroc,
        "context_aupro": found.pixels.aupro,
    }


def _train(config: Config) -> tuple[Run, float]:
    """A complete run and the seconds that it took, over all its sessions."""
    from vtad.fitting.loop import Interrupted
    from vtad.training import train

    out = Path(config.out)
    if complete := _newest(out, config.category, complete=True):
        return complete, _seconds(complete)
    begun = _newest(out, config.category, complete=False)
    resume = begun if begun and begun.checkpoint.is_file() else None
    before = _seconds(resume) if resume else 0.0
    start = time.perf_counter()
    with stoppable() as stop:
        try:
            run = train(
                config, resume=resume, stop=stop, report=lambda r: click.echo(f"  {r.text}") if r.lasting else None
            )
        except Interrupted as e:
            raise VtadError("stopped; the same command continues", 128 + (stop.signal or 0)) from e
    return run, before + time.perf_counter() - start


def _newest(out: Path, category: str, complete: bool) -> Run | None:
    try:
        return newest_run(out, category, complete=complete)
    except RunError:
        return None


def _seconds(run: Run) -> float:
    """That its training took so far."""
    epochs = _epochs(run)
    return float(epochs[-1].get("seconds", 0.0)) if epochs else 0.0


def _epochs(run: Run) -> list[dict[str, Any]]:
    lines = run.metrics.read_text(encoding="utf-8").splitlines() if run.metrics.is_file() else []
    return [json.loads(line) for line in lines]


def _baseline(plan: Plan, category: str, seed: int, method: Any, asked: dict[str, Any]) -> Row:
    """Fit and judge a baseline on the images and pixels of `default`."""
    from bench.baselines.baseline import gigaflop, stored_numbers
    from bench.baselines.judge import judge
    from bench.baselines.plain_autoencoder import PlainAutoencoder
    from vtad.fitting.device import pick_device

    config = _like_default(plan, category, seed)
    device = pick_device(config.device)
    files = find_category(plan.data, category)
    train_files, _ = split_good(files.train_good, config.val_split, config.seed)
    start = time.perf_counter()
    with ImageCache(train_files, input_spec(config)) as images:
        baseline = _make(plan, method, config).to(device)
        baseline.fit(images)
        seconds = time.perf_counter() - start
    found = judge(baseline, files.test, input_spec(config), device)
    return {
        **_input(config),
        "image_auroc": found.image_auroc,
        "pixel_auroc": found.pixels.auroc,
        "aupro": found.pixels.aupro,
        "epochs": baseline.epochs if isinstance(baseline, PlainAutoencoder) else None,
        "train_seconds": seconds,
        "parameters": sum(p.numel() for p in baseline.parameters()),
        "stored_numbers": stored_numbers(baseline),
        "gflop": gigaflop(baseline, config.image_height, config.image_width),
    }


def _make(plan: Plan, method: Any, config: Config) -> Any:
    from bench.baselines.padim import JoinedFeatures, Padim
    from bench.baselines.patchcore import PATCHES, Patchcore
    from bench.baselines.plain_autoencoder import PlainAutoencoder
    from vtad.backbones.efficientnet import read_weights
    from vtad.models.features import BackboneFeatures

    if method in ("l1", "ssim"):
        seconds = 60 * (plan.minutes or MINUTES[method])
        return PlainAutoencoder(config.image_height, config.image_width, method, seconds, seed=config.seed)
    seen = BackboneFeatures().eval()
    seen.load_pretrained(read_weights())
    features = JoinedFeatures(seen)
    return Padim(features) if method == "padim" else Patchcore(features, plan.patches or PATCHES, seed=config.seed)


def _like_default(plan: Plan, category: str, seed: int) -> Config:
    """The configuration of `default`, its input's size chosen from the images unless asked for."""
    config = preset("default", category, data=str(plan.data), seed=seed)
    if plan.size is not None:
        config = dataclasses.replace(config, size="given", image_height=plan.size[0], image_width=plan.size[1]).check()
    good = find_category(plan.data, category).train_good
    return dataclasses.replace(with_size(config, good), bits=bit_depth(good).bits)


def _input(config: Config) -> Row:
    """Which pixels a method sees."""
    return {"input": f"{config.image_height}x{config.image_width} {config.fit}"}


def _commit() -> str:
    """The commit of the checkout, `-dirty` where files are changed."""
    try:
        command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=10"]
        out = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return out.stdout.strip() or "unknown"


def _names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(f"{what}: expected some of {', '.join(known) or 'none'}, got {', '.join(unknown) or 'none'}")
    return names


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"--seeds: expected whole numbers such as 0,1, got {text!r}") from None


def _changes(texts: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """(("registers", 0),) of ("registers=0",)."""
    kinds = get_type_hints(Config)
    found = []
    for text in texts:
        name, _, value = text.partition("=")
        kind = kinds.get(name)
        try:
            if kind is bool:
                found.append((name, {"true": True, "false": False}[value]))
            elif kind in (int, float, str):
                found.append((name, kind(value)))
            else:
                raise ValueError(name)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--change: expected a field of the configuration and its value, such as registers=0 or "
                f"synthetic_defects=false, got {text!r}"
            ) from None
    return tuple(found)


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "256x256"."""
    if text is None:
        return None
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        raise ConfigError(f"--size: expected HEIGHTxWIDTH such as 256x256, got {text!r}") from None
    return height, width


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--data", type=click.Path(path_type=Path), help="Folder of categories.  [default: $VTAD_DATA, or data]")
@click.option("--categories", help="Some of them, with commas.  [default: all]")
@click.option("--seeds", default="0,1", show_default=True, help="Of the split and the training.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Which to compare.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results/quality"), show_default=True, help="Results."
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help=f"Of each training.  [default: the preset's; {', '.join(f'{k} {v:g}' for k, v in MINUTES.items())}]",
)
@click.option("--epochs", type=click.IntRange(1), help="Of each preset's training, in place of minutes.")
@click.option("--change", "changed", multiple=True, help="FIELD=VALUE of the presets' configurations; may be repeated.")
@click.option("--size", help="HEIGHTxWIDTH that all but paper see, pixels.  [default: as the preset chooses]")
@click.option("--patches", type=click.IntRange(1), help="That PatchCore stores.  [default: 20000]")
def quality(
    data: Path | None,
    categories: str | None,
    seeds: str,
    methods: str,
    out: Path,
    minutes: float | None,
    epochs: int | None,
    changed: tuple[str, ...],
    size: str | None,
    patches: int | None,
) -> None:
    """Train and judge the presets and the baselines on the same images, and print a table. Continues where it stopped."""
    from vtad.fitting.device import keep_memory

    with no_traceback(), library_errors_as_lines():
        keep_memory()
        data = data or default_data_dir()
        there = find_categories(data)
        if not there:
            raise DataError(f"{data}: expected a folder of categories (NAME/train/good), got none: name it by --data")
        if minutes is not None and epochs is not None:
            raise ConfigError("expected either --minutes or --epochs, got both")
        plan = Plan(data, out, minutes, _size(size), patches, epochs, _changes(changed))
        chosen = _names(categories, there, "--categories") if categories is not None else there
        rows = fill(plan, chosen, _seeds(seeds), _names(methods, METHODS, "--methods"))
        text = markdown(rows)
        write_text(out / "quality.md", text + "\n")
        click.echo(f"\n{text}\n\n{out / 'quality.md'}")


if __name__ == "__main__":
    quality()
