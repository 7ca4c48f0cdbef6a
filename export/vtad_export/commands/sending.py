"""What vtad-export sends to MLflow, for a run that is tracked there or whose model is to be registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vtad.commands.tracking_options import Store, not_sent, store_named, store_of
from vtad.run_folder import Run
from vtad.tracking.library import prepare
from vtad_export.proof.exporter import Export, Precision
from vtad_runtime.contract.command_line.command import say
from vtad_runtime.contract.credentials import without_credentials
from vtad_runtime.contract.errors import NOT_WRITTEN, VtadError, why

Send = Callable[[Sequence[Export]], None]


def sender(run: Run, registers: Precision | None) -> Send:
    """What takes the exports of a run: certificates, and each ONNX file as an MLflow model.

    `registers`: the precision of the ONNX file that is registered too, if that was made. A store that is away is a warning;
    with `registers` the function raises VtadError. Raises TrackingError where the extra is not installed and a model is to be
    registered.
    """
    if registers:
        prepare()
    store = store_named("", None) if registers and not run.tracked else store_of(run)
    if store is None:
        return lambda made: None

    def send(made: Sequence[Export]) -> None:
        try:
            _send(run, store, made, registers)
        except Exception as e:  # mlflow, requests, sqlalchemy and drivers each have their own
            if not registers:
                not_sent(store.address, e)
                return
            shown, reason = without_credentials(store.address), without_credentials(why(e))
            raise VtadError(f"--register: {shown}: {reason}; the export itself is complete", NOT_WRITTEN) from e

    return send


def _send(run: Run, store: Store, made: Sequence[Export], registers: Precision | None) -> None:
    from vtad.tracking.mirror import Mirror
    from vtad_export.registry.logged import log_model, register, send_export

    mirror = Mirror.new(run, store.address)
    mirror.send()
    category = run.config().category
    for one in made:
        send_export(mirror, one)
        if one.parity.format != "onnx":
            continue
        model = log_model(mirror, one.path)
        if one.parity.precision == registers:
            version = register(mirror, model, category)
            say(f"registered: {category} version {version}, load it by models:/{category}@champion")
            registers = None
    if registers:
        say(f"--register: nothing is registered, for there is no proven onnx {registers}", err=True)
    say(f"tracked: {mirror.page}")
