"""The search without trainings: its space, which trials count, its storage, and workers that share one."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from tiny_run import error

from vtad.commands.sweep import sweep as vtad_sweep
from vtad.config import Config, preset
from vtad.fitting.loop import Interrupted
from vtad.run_folder import Run
from vtad.search import storage, tracked
from vtad.search.attempts import ERROR, SLOT, STOPPED, SURPLUS, WHY, may_begin, standing
from vtad.search.space import DEFAULT, SEARCHED, Space, read_space
from vtad.search.storage import StorageError, beating, next_trial, open_storage, sqlite_url
from vtad.search.study import START, Settings, StudyError, found_in, join
from vtad.search.tracked import Tracker
from vtad.search.trial import NoFigure
from vtad.search.worker import Worker
from vtad.toml_file import TomlFileError

SPACE = "learning_rate = { low = 1e-4, high = 1e-2, log = true }\nregisters = { low = 0, high = 4 }\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "space.toml"


def space_of(file: Path, text: str = SPACE, config: Config | None = None) -> Space:
    file.write_text(text)
    return read_space(file, config or preset("default", "pill"))


class TestTheSpace:
    """The file that says what is searched."""

    @pytest.mark.parametrize("name", ["default", "scratch"])
    def test_that_comes_with_vtad_holds_what_a_preset_has(self, name: Any) -> None:
        config = preset(name, "pill")
        values = read_space(DEFAULT, config).values_in(config)
        assert values is not None
        assert values["learning_rate"] == config.learning_rate

    def test_takes_every_choice_of_the_method_and_what_it_does_not_take_is_named_here(self) -> None:
        found_or_given = {"size", "fit", "bits", "symmetries", "shift", "backbone", "backbone_file", "backbone_shape"}
        of_a_run = {"category", "data", "out", "preset", "preset_file", "device", "backbone_sha256"}
        would_ease_the_question = {"seed", "val_split", "synthetic_defects", "false_alarms", "threshold_rule"}
        how_long = {"minutes", "epochs", "patience"}
        of_the_paper = {"published_mixture"}
        of_older_runs = {"query_key_norm"}
        others = found_or_given | of_a_run | would_ease_the_question | how_long | of_the_paper | of_older_runs
        assert {field.name for field in dataclasses.fields(Config)} - set(SEARCHED) == others

    def test_draws_values_of_the_type_that_the_option_has(self, file: Path) -> None:
        space = space_of(
            file,
            "noise = { low = 0, high = 0.5, step = 0.25 }\n[embed_dim]\nchoices = [96, 192]\n"
            '[optimizer]\nchoices = ["adam", "sgd"]\n[feature_dim]\nlow = 64\nhigh = 96\nstep = 16\n',
        )
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
        drawn = [space.draw(study.ask()) for _ in range(60)]
        assert {values["noise"] for values in drawn} == {0.0, 0.25, 0.5}
        assert {values["embed_dim"] for values in drawn} == {96, 192}
        assert {values["optimizer"] for values in drawn} == {"adam", "sgd"}
        assert {values["feature_dim"] for values in drawn} == {64, 80, 96}
        assert {type(value) for values in drawn for value in values.values()} == {float, int, str}

    def test_knows_whether_it_holds_a_value(self, file: Path) -> None:
        space = space_of(file, "noise = { low = 0.1, high = 0.5, step = 0.1 }\n")
        assert space.values_in(preset("default", "pill", noise=0.3)) == {"noise": 0.3}
        assert space.values_in(preset("default", "pill", noise=0.25)) is None
        assert space.values_in(preset("default", "pill", noise=0.0)) is None

    def test_may_hold_the_input_and_its_largest_is_what_all_are_judged_at(self, file: Path) -> None:
        text = "image_height = { low = 256, high = 512, step = 64 }\nimage_width = { choices = [320, 256] }\n"
        largest = space_of(file, text).largest(preset("default", "pill"))
        assert (largest.image_height, largest.image_width) == (512, 320)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                "noise = { low = 0.1, high = 0.2 }\nnoize = 1",
                "line 2: noize: expected an option of a training; searched are",
            ),
            (
                "seed = { low = 0, high = 3 }",
                "line 1: seed: this option is not searched: it is the same for all trials",
            ),
            (
                "\nsynthetic_defects = { choices = [true, false] }",
                "line 2: synthetic_defects: this option is not searched",
            ),
            ("noise = 0.1", "line 1: noise: expected { low = ..., high = ... } or { choices = [...] }, got 0.1"),
            ("noise = { low = 0.1 }", "line 1: noise: expected low and high, got no high"),
            (
                "[noise]\nlow = 0.1\nhigh = 0.2\nhi = 1",
                "line 4: noise: expected low, high, step, log or choices, got hi",
            ),
            (
                "[depth]\nlow = 1\nhigh = 4\n[noise]\nlow = 0.1\nhigh = 'x'",
                "line 6: noise.high: expected float, got 'x'",
            ),
            ("depth = { low = 1, high = 2.5 }", "line 1: depth.high: expected int, got 2.5"),
            ("noise = { low = 0.3, high = 0.3 }", "line 1: noise: expected low < high, got 0.3 and 0.3"),
            ("noise = { low = 0.0, high = 0.3, log = true }", "line 1: noise.log: expected low above 0, and no step"),
            ("noise = { low = 0.1, high = 0.3, log = 1 }", "line 1: noise.log: expected true or false, got 1"),
            ("noise = { low = 0.1, high = inf }", "line 1: noise.high: expected a finite number, got inf"),
            ("noise = { low = 0.1, high = 0.3, step = 0.3 }", "line 1: noise.step: expected more than 0 and at most"),
            (
                "feature_dim = { low = 8, high = 30, step = 8 }",
                "line 1: feature_dim: expected high to be low and a whole",
            ),
            ("embed_dim = { choices = [] }", "line 1: embed_dim.choices: expected a list of values, got []"),
            ("embed_dim = { choices = [96, 96] }", "line 1: embed_dim.choices: expected each value once"),
            ("embed_dim = { choices = [96, 1.5] }", "line 1: embed_dim.choices: expected int, got 1.5"),
            ("depth = { choices = [1], low = 1 }", "line 1: depth: expected choices alone, got low beside them"),
            ("optimizer = { low = 1, high = 2 }", "line 1: optimizer: expected choices, some of adam, adamw"),
            ("optimizer = { choices = ['adam', 'lion'] }", "line 1: optimizer.choices: expected"),
            (
                "noise = { low = 0.1, high = 0.2 }\nembed_dim = { low = 96, high = 192 }",
                "line 2: embed_dim 97: embed_dim 97",
            ),
            ("noise = { low = 0.5, high = 1.0 }", "line 1: noise 1.0: noise: expected 0 or more and below 1"),
            ("image_height = { choices = [256] }", "line 1: image_height and image_width: expected both or neither"),
            ("", "expected options with ranges"),
            ("# nothing\nnoise = {", "line 2: expected TOML"),
        ],
    )
    def test_that_is_wrong_is_one_line_that_names_the_line(self, file: Path, text: str, says: str) -> None:
        with pytest.raises(TomlFileError) as caught:
            space_of(file, text)
        assert str(caught.value).startswith(str(file))
        assert says in str(caught.value)

    def test_of_input_sizes_wants_pictures_that_are_stretched(self, file: Path) -> None:
        sizes = "image_height = { choices = [256, 384] }\nimage_width = { choices = [256, 384] }"
        with pytest.raises(TomlFileError, match="line 1: image_height: expected pictures that are stretched"):
            space_of(file, sizes, preset("default", "pill", fit="letterbox"))


def trials(*each: str) -> list[FrozenTrial]:
    """Trials in words: the state, what it was an attempt at after @, and why it failed after a colon."""
    found = []
    for number, words in enumerate(each):
        text, _, why = words.partition(":")
        state, _, first = text.partition("@")
        attributes: dict[str, Any] = {WHY: why} if why else {}
        value = 0.5 if state == "complete" else None
        trial = create_trial(
            state=TrialState[state.upper()],
            value=value,
            user_attrs={**attributes, **({SLOT: int(first)} if first else {})},
        )
        trial.number = number
        found.append(trial)
    return found


@pytest.mark.parametrize(
    ("each", "counts"),  # ended, running, waiting, again, given up, missing; three are wanted
    [
        ([], (0, 0, 0, [], 0, 3)),
        (["complete", "pruned", "complete"], (3, 0, 0, [], 0, 0)),
        (["complete", "running", "waiting"], (1, 1, 1, [], 0, 0)),
        (["complete", "fail"], (1, 0, 0, [1], 0, 1)),
        (["complete", "fail", "waiting@1"], (1, 0, 1, [], 0, 1)),
        (["complete", "fail", "complete@1", "running"], (2, 1, 0, [], 0, 0)),
        (["complete", "fail", "fail@1", "running"], (1, 1, 0, [], 1, 0)),  # killed twice
        ([f"fail:{STOPPED}", f"fail@0:{STOPPED}", f"fail@0:{ERROR}"], (0, 0, 0, [2], 0, 2)),  # as often as people like
        (["fail", f"fail@0:{STOPPED}"], (0, 0, 0, [1], 0, 2)),
        (["running", "running", "running", f"fail:{SURPLUS}"], (0, 3, 0, [], 0, 0)),
        (["running", "fail", "running@1", f"fail@1:{SURPLUS}"], (0, 2, 0, [], 0, 1)),
        (["complete", "complete", "complete", "complete"], (3, 0, 0, [], 0, 0)),  # more were wanted before
    ],
)
def test_the_standing_of_a_study_follows_from_its_trials(each: list[str], counts: tuple[Any, ...]) -> None:
    now = standing(trials(*each), 3)
    again = [trial.number for trial in now.again]
    assert (len(now.ended), len(now.running), now.waiting, again, len(now.given_up), now.missing) == counts
    assert now.done == (counts[1:4] == (0, 0, []) and not now.missing)


@pytest.mark.parametrize(
    ("each", "begins"),
    [
        (["complete", "running", "running"], True),
        (["complete", "running", "complete", "running"], False),  # two workers took the last slot: the first one has it
        (["complete", "fail", "complete", "running@1"], True),
        (["complete", "fail", "waiting@1", "running@1"], False),  # two workers saw that 1 was killed
        (["complete", "fail", "complete@1", "running@1"], False),
        (["complete", "fail", "fail@1:surplus", "running@1"], True),
        (["complete", "complete", "complete", "fail", "running@3"], False),  # fewer are wanted by now
    ],
)
def test_whether_a_trial_may_begin_follows_from_the_trials_before_it(each: list[str], begins: bool) -> None:
    of_all = trials(*each)
    last = of_all[-1].number
    assert may_begin(last, of_all, 3) == begins
    later = [*of_all, *trials(*each, "running", "complete")[last + 1 :]]
    assert may_begin(last, later, 3) == begins


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("postgresql+psycopg://ann:s3cret@127.0.0.1:9/sweeps", "the storage cannot be used: connection"),
        ("postgresql+nosuch://ann:s3cret@host/sweeps", "expected the address of a database, sqlite:///FILE.db or"),
        ("postgresql://ann:s3cret@host:port/sweeps", "expected the address of a database"),
        ("sweeps", "expected the address of a database"),
        ("mysql+nosuch://ann:s3cret@host/sweeps", "expected the address of a database"),
        ("postgresql+psycopg2://ann:s3cret@host/sweeps", "expected its driver, the Python module psycopg2, got none"),
        ("sqlite:////nowhere/s.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(
    address: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StorageError) as caught:
        open_storage(address)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_storage_that_cannot_be_used_leaves_no_folder_of_a_study(
    make_category: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = make_category("part", train=16)
    monkeypatch.chdir(tmp_path)
    said = error(2, vtad_sweep, "--category", "part", "--data", data, "--storage", "sweeps", "--preset", "scratch")
    assert "expected the address of a database" in said
    assert not Path("sweeps").exists()


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    file.write_text("mine" * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(sqlite_url(file))


@pytest.fixture
def settings(file: Path) -> Settings:
    config = preset("default", "pill", minutes=3.0, data="here", out="there")
    return Settings(space_of(file), config, "f00")


def test_a_study_is_joined_with_the_same_settings_only(settings: Settings, file: Path, tmp_path: Path) -> None:
    opened = open_storage(sqlite_url(tmp_path / "s.db"))
    join(opened, "pill", settings)
    elsewhere = preset("default", "pill", minutes=3.0, data="/elsewhere", out="runs", device="cpu")
    study = join(opened, "pill", Settings(settings.space, elsewhere, "f00"))
    (first,) = study.get_trials()
    assert first.user_attrs == {START: True}
    wider = space_of(file, SPACE.replace("high = 4", "high = 8"))
    with pytest.raises(
        StudyError, match="study pill: its space is another one, which differs in registers: name another"
    ):
        join(opened, "pill", Settings(wider, settings.config, "f00"))
    longer = preset("default", "pill", minutes=5.0)
    with pytest.raises(StudyError, match=r"study pill: its trials have minutes 3\.0, got 5\.0: name another"):
        join(opened, "pill", Settings(settings.space, longer, "f00"))
    with pytest.raises(StudyError, match="study pill: its good pictures are others"):
        join(opened, "pill", Settings(settings.space, settings.config, "ba2"))
    join(opened, "another", Settings(wider, settings.config, "f00"))


class Trainings:
    """In the place of trainings: each does what the next word says."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.seen: list[dict[str, Any]] = []

    def run(self, trial: optuna.Trial, report: object, stop: Callable[[], bool]) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        self.seen.append({"number": trial.number, "learning_rate": rate})
        word = self.words.pop(0) if self.words else "complete"
        match word:
            case "pruned":
                raise optuna.TrialPruned("at 40%")
            case "diverged":
                raise NoFigure("the loss is not a number")
            case "stopped":
                raise Interrupted(Run(Path("0000")))
            case "fault":
                raise ZeroDivisionError
        return rate


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Callable[..., Worker]:
    """worker(trainings, trials) -> one more worker of one study, with a connection of its own."""

    def make(trainings: Trainings, trials: int, said: list[str] | None = None) -> Worker:
        opened = open_storage(sqlite_url(tmp_path / "s.db"))
        heard = [] if said is None else said
        return Worker(join(opened, "pill", settings), opened, trainings, trials, heard.append, lambda: False)

    return make


def states(worker: Worker) -> list[str]:
    return [trial.state.name for trial in worker.study.get_trials()]


def test_trials_that_are_pruned_or_diverge_count_and_say_why(worker: Callable[..., Worker]) -> None:
    said: list[str] = []
    one = worker(Trainings("complete", "pruned", "diverged"), 4, said)
    one.work()
    assert states(one) == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert said[1:3] == ["trial 1: pruned at 40%", "trial 2: no figure: the loss is not a number"]
    start = found_in(one.study, 4).start
    assert start is not None
    assert start.params == {"learning_rate": 2e-3}  # what the preset has
    one.work()
    assert len(states(one)) == 4
    worker(Trainings(), 5).work()
    assert len(states(one)) == 5


def test_the_best_is_that_of_all_trials_also_for_a_worker_that_wants_fewer(worker: Callable[..., Worker]) -> None:
    many = worker(Trainings(), 3)
    many.study.enqueue_trial({"learning_rate": 9e-3})  # better than the first
    many.work()
    best = max(many.study.get_trials(), key=lambda trial: trial.value or 0.0)
    few = worker(Trainings(), 1)
    few.work()
    found = found_in(few.study, 1)
    assert found.best is not None
    assert found.best.number == best.number > 0
    assert len(found.standing.ended) == found.standing.wanted == 3


def test_a_stopped_trial_is_tried_again_with_its_options_when_the_command_comes_again(
    worker: Callable[..., Worker],
) -> None:
    trainings = Trainings("complete", "stopped")
    with pytest.raises(Interrupted):
        worker(trainings, 3).work()
    said: list[str] = []
    again = worker(trainings, 3, said)
    again.work()
    assert states(again) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trainings.seen[1] == {"number": 1, "learning_rate": trainings.seen[2]["learning_rate"]}
    assert said[0] == "trial 1 was stopped: it is tried again"


def test_a_trial_that_fails_twice_for_no_known_reason_is_given_up(worker: Callable[..., Worker]) -> None:
    trainings = Trainings("fault", "fault")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            worker(trainings, 2).work()
    last = worker(trainings, 2)
    last.work()
    found = found_in(last.study, 2)
    assert states(last) == ["FAIL", "FAIL", "COMPLETE"]
    assert (len(found.standing.ended), len(found.standing.given_up)) == (1, 1)


@pytest.mark.slow
def test_a_trial_of_a_dead_worker_is_tried_again_once_with_its_options(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storage, "GRACE_S", 1)
    dead = worker(Trainings(), 2)
    trial = next_trial(dead.study)
    with beating(dead.storage, trial):
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    next_trial(dead.study)  # killed before its first heartbeat
    trainings, said = Trainings(), list[str]()
    living = worker(trainings, 2, said)
    living.work()
    assert states(living) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert {"number": 2, "learning_rate": rate} in trainings.seen
    assert said[0] == "waiting for 2 trials of other workers"
    living.work()
    assert len(states(living)) == 4


@pytest.mark.parametrize("reports", [False, True])
def test_a_trial_that_was_taken_for_dead_while_it_went_on_is_not_counted_twice(
    worker: Callable[..., Worker], reports: bool
) -> None:
    others = worker(Trainings(), 1).study

    class Silent(Trainings):
        def run(self, trial: optuna.Trial, report: object, stop: Callable[[], bool]) -> float:
            value = super().run(trial, report, stop)
            if len(self.seen) == 1:  # its machine slept, and another worker came by
                others.tell(trial.number, state=TrialState.FAIL)
                if reports:
                    trial.report(0.5, 1)
            return value

    said: list[str] = []
    one = worker(Silent(), 1, said)
    one.work()
    assert states(one) == ["FAIL", "COMPLETE"]
    assert said[0].startswith("trial 0: not counted, for it was silent so long")


@pytest.mark.slow
def test_workers_at_once_make_exactly_the_trials_that_are_wanted(worker: Callable[..., Worker]) -> None:
    workers = [worker(Trainings(), 9) for _ in range(3)]
    errors: list[BaseException] = []

    def work(one: Worker) -> None:
        try:
            one.work()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = found_in(workers[0].study, 9)
    assert len(found.standing.ended) == 9
    assert states(workers[0]).count("COMPLETE") == 9
    assert found.standing.done


def test_a_study_has_a_run_in_each_store_that_it_is_tracked_in_and_one_that_is_stopped_ends_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    ends: list[tuple[str, str, str | None]] = []

    def new_parent(address: str, *_: object) -> str:
        made.append(address)
        return f"run {len(made)}"

    def add_to_parent(address: str, run_id: str, *, status: str | None = None, **_: object) -> None:
        ends.append((address, run_id, status))

    monkeypatch.setattr(tracked, "new_parent", new_parent)
    monkeypatch.setattr(tracked, "add_to_parent", add_to_parent)
    study = optuna.create_study()
    first, other, again = "http://user:word@here:5000", "http://there:5000", "http://here:5000"
    parents = [Tracker.of((address, None), study, "pill").parent for address in (first, other, again)]
    assert (parents, made) == (["run 1", "run 2", "run 1"], [first, other])
    tracker = Tracker.of((other, None), study, "pill")
    for cause, status in ((Interrupted(Run(Path("0000"))), "KILLED"), (ZeroDivisionError(), "FAILED")):
        with pytest.raises(type(cause)), tracker.study():
            raise cause
        assert ends.pop() == (other, "run 2", status)


def test_without_optuna_the_command_names_the_extra(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith("vtad.search")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = error(2, vtad_sweep, "--category", "pill", "--data", pills)
    assert line == "Error: this command needs optuna, which is not installed: pip install 'vtad[sweep]'"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "expected --category NAME, got none; "),
        (["--category", "nut"], "nut: expected a folder in the MVTec AD layout, got none"),
        (["--category", "pill", "--space", "absent.toml"], "absent.toml: expected a file in TOML, got No such file"),
        (
            ["--category", "pill", "--space", "space.toml"],
            "space.toml, line 2: noize: expected an option of a training",
        ),
        (["--category", "pill", "--preset", "fast"], "--preset: expected default, scratch, paper"),
        (["--category", "pill", "--study", "../pill"], "--study: expected a name that a folder can have"),
        (
            ["--category", "pill", "--storage", "postgresql://ann:s3cret@127.0.0.1:9/x"],
            "***@127.0.0.1:9/x: the storage",
        ),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_tried(
    pills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.toml").write_text("noise = { low = 0.1, high = 0.2 }\nnoize = { low = 0.1, high = 0.2 }\n")
    line = error(2, vtad_sweep, "--data", pills, *options)
    assert says in line
    assert "s3cret" not in line
    assert not list(tmp_path.glob("sweeps/*/*"))
