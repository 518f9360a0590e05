"""``dlrun train``: compose, check, build, train, report."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.commands.request import Request
from dlrun.commands.resuming import folder_to_resume, newest_checkpoint, saved_config
from dlrun.config.explain import explain
from dlrun.config.load import load_config
from dlrun.config.schema import Config
from dlrun.data.batch_sizes import batch_sizes
from dlrun.errors import EXIT_DONE, EXIT_RESUMABLE, ConfigError, NonFiniteError, UserError
from dlrun.logs import start_console, start_file, stop_file
from dlrun.optim.scaling import scaling_text
from dlrun.runfolder import RunFolder, create_run_folder
from dlrun.yaml_text import as_yaml

if TYPE_CHECKING:
    from dlrun.train.fit import Fit
    from dlrun.train.state import State

log = logging.getLogger("dlrun")


def train(request: Request) -> int:
    """Train, or resume, one run.

    Returns:
        0 when the training is done, 75 when it was stopped and can be resumed.

    Raises:
        UserError: for wrong input, and when the loss became NaN.
    """
    started = time.time()
    start_console()
    resume = request.reserved.get("resume")
    if resume is not None and "config" in request.reserved:
        raise ConfigError(["resume= and config= exclude each other: a resumed run has its own configuration"])
    folder = None if resume is None else folder_to_resume(resume, request.overrides)
    if folder is None:
        config, composed = load_config(request.reserved.get("config"), request.overrides)
    else:
        config, composed = saved_config(folder, request.overrides)
    if request.print_config:
        print(explain(config.to_tree(), composed.provenance.where))
        return EXIT_DONE
    if config.is_series:
        from dlrun.commands.series import train_series

        return train_series(config, composed.name, folder, request)
    name = config.run.name or composed.name
    create = partial(create_run_folder, config.run.root, name, config.to_tree())
    return train_run(config, request, started, folder=folder, create=create)


def train_run(
    config: Config,
    request: Request,
    started: float,
    *,
    folder: RunFolder | None,
    create: Callable[[], RunFolder],
    data: Any = None,
    whole: State | None = None,
) -> int:
    """Train one run.

    Args:
        config: of the run.
        request: what was typed.
        started: time at which the run began, in seconds since 1970.
        folder: of the run to go on with; None for a new one.
        create: makes the folder of a new one.
        data: what :func:`dlrun.assembly.read_data` gave, to be shared with other runs; None to read it.
        whole: of several runs, hears the signals too; what it heard before stops this run.

    Returns:
        0 when the training is done, 75 when it was stopped and can be resumed.

    Raises:
        UserError: for wrong input, and when the loss became NaN.
    """
    # torch is imported here: a mistake in the configuration was told before, within half a second.
    from dlrun.assembly import build_fit, prepare
    from dlrun.commands.explaining import explaining
    from dlrun.train.loop import train as run_loop
    from dlrun.train.signals import stop_on_signal

    found = None
    with explaining(config):
        if folder is not None:
            folder.lock()
            found = newest_checkpoint(folder, config)
        prepared = prepare(config, None if found is None else found[1], data)
        if folder is None:
            fit = build_fit(config, prepared, create)
            fit.run.lock()
        else:
            existing = folder
            fit = build_fit(config, prepared, lambda: existing)
    run = fit.run
    handler = start_file(run.path / "log.txt")
    try:
        with stop_on_signal(*([fit.state] if whole is None else [fit.state, whole])), explaining(config):
            if whole is not None and whole.stop is not None:
                fit.state.request_stop(whole.stop.reason, whole.stop.message)
            if folder is None:
                _record_start(fit, request)
            else:
                _resume(fit, request, None if found is None else found[1])
            _announce(fit, resumed=folder is not None)
            try:
                run_loop(fit)
            finally:
                fit.train.close()
                if fit.val is not None:
                    fit.val.close()
            return _end(fit, started)
    except Exception as error:
        handler.emit(
            log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s: %s", (type(error).__name__, error), _info(error))
        )
        raise
    finally:
        stop_file(handler)
        run.unlock()


def _info(error: Exception) -> Any:
    """The traceback goes to log.txt, except for the user's own mistakes."""
    return None if isinstance(error, UserError) else (type(error), error, error.__traceback__)


def _record_start(fit: Fit, request: Request) -> None:
    from dlrun.reproducibility import environment

    words = [*(f"{key}={value}" for key, value in request.reserved.items()), *request.overrides]
    try:
        fit.run.write_text("overrides.txt", "".join(f"{word}\n" for word in words))
        fit.run.write_json("env.json", {"seed": fit.config.seed, **environment(fit.device), "resumed": []})
        # Last: a folder with a config.yaml is a run that can be resumed.
        fit.run.write_text("config.yaml", as_yaml(fit.config.to_tree()))
    except OSError as error:
        raise UserError(f"run folder {fit.run.path}: cannot be written: {error.strerror}") from None


def _resume(fit: Fit, request: Request, payload: Mapping[str, Any] | None) -> None:
    import json

    import torch

    from dlrun.reproducibility import environment

    if payload is None:
        return
    fit.resume(payload)
    if fit.state.step > fit.total_steps:
        trained = fit.state.epoch + (fit.state.batch > 0)
        raise UserError(f"trainer.epochs={fit.config.trainer.epochs} is less than the {trained} epochs already trained")
    record = fit.run.path / "env.json"
    env = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"resumed": []}
    threads = torch.get_num_threads()
    if fit.device.type == "cpu" and env.get("threads", threads) != threads:
        log.warning(
            "the run was started with %d CPU threads and goes on with %d, so its numbers can differ in the last bits; "
            "set trainer.threads=%d for an exact continuation",
            env["threads"],
            threads,
            env["threads"],
        )
    env["resumed"].append({"step": fit.state.step, "overrides": list(request.overrides), **environment(fit.device)})
    try:
        fit.run.write_json("env.json", env)
        if request.overrides:
            fit.run.write_text("config.yaml", as_yaml(fit.config.to_tree()))
    except OSError as error:
        raise UserError(f"run folder {fit.run.path}: cannot be written: {error.strerror}") from None


def _announce(fit: Fit, *, resumed: bool) -> None:
    from dlrun.reproducibility import warn_of_slow_precision

    config, state = fit.config, fit.state
    parameters = sum(parameter.numel() for parameter in fit.model.parameters())
    sizes = [f"{size:,} {split}" for split, size in fit.feed.sizes().items()]
    log.info("run folder  %s", _shown(fit.run.path))
    log.info(
        "model       %s, %s parameters; data %s (%s; %s); %s",
        config.model.name,
        f"{parameters:,}",
        config.data.name,
        " / ".join(sizes),
        fit.feed.describe(),
        fit.device,
    )
    warn_of_slow_precision(config.trainer.precision, fit.device)
    if scaling_text(config):
        log.info("lr          %s (optimizer.lr_scaling=%s)", scaling_text(config), config.optimizer.lr_scaling)
    if config.data.batch_growth is not None:
        grown = ", ".join(f"{size} from epoch {epoch + 1}" for epoch, size in batch_sizes(config).sizes)
        log.info("batches     %s; %s steps in all", grown, f"{fit.total_steps:,}")
    if fit.origin:
        log.info("weights     %s", fit.origin)
    trained = sum(parameter.numel() for parameter in fit.model.parameters() if parameter.requires_grad)
    if trained < parameters:
        cached = ", on features computed once" if config.model.cache_features else ""
        log.info("trained     %s parameters, %s frozen%s", f"{trained:,}", f"{parameters - trained:,}", cached)
    if fit.average is not None:
        judged = "evaluated" if config.averaging.evaluate else "saved beside the others"
        log.info("averaging   %s of the weights, %s", config.averaging.name, judged)
    if resumed and state.step:
        log.info("resumed     at step %d of %d (epoch %d)", state.step, fit.total_steps, state.epoch + 1)


def _end(fit: Fit, started: float) -> int:
    """What comes after the loop: say why it ended, test the best checkpoint once, report."""
    stop = fit.state.stop
    run = _shown(fit.run.path)
    if stop is not None and stop.reason == "diverged":
        saved = (
            "the last good checkpoint is kept" if (fit.run.checkpoints / "last.pt").is_file() else "nothing was saved"
        )
        raise NonFiniteError(f"{stop.message}. Run folder {run} ({saved})", fit.state.step)
    if stop is not None and stop.reason in ("signal", "max_time"):
        step = fit.state.saved_step
        note = "no checkpoint is saved" if step is None else f"the checkpoint of step {step} is saved"
        log.info("stopped     %s at step %d of %d; %s", stop.message, fit.state.step, fit.total_steps, note)
        log.info("go on with  dlrun train resume=%s", shlex.quote(run))
        _write_report(fit, {"status": "stopped", "stop": stop.message, "step": fit.state.step})
        return EXIT_RESUMABLE
    if stop is not None:
        log.info("stopped     early: %s", stop.message)
    results = _results(fit, started)
    try:
        fit.run.write_json("results.json", results)
    except OSError as error:
        log.warning("results.json cannot be written: %s", error.strerror)
    _summary(fit, results, run)
    _write_report(fit, results)
    return EXIT_DONE


def _results(fit: Fit, started: float) -> dict[str, Any]:
    from dlrun.checkpoint import load
    from dlrun.errors import CheckpointError
    from dlrun.train.evaluate import evaluate
    from dlrun.weights import load_weights, saved_weights

    results: dict[str, Any] = {
        "status": "done",
        "stop": None if fit.state.stop is None else fit.state.stop.message,
        "step": fit.state.step,
        "epochs": fit.state.epoch,
        "seconds": round(time.time() - started, 2),
        "last": dict(fit.state.metrics),
    }
    best = fit.run.checkpoints / "best.pt"
    model, name = fit.model, "last weights"
    if fit.judged is not None:
        model, name = fit.judged.model, "last weights, averaged"
    if best.is_file():
        try:
            payload = load(best)
            weights, kind = saved_weights(payload)
            model, name = fit.model, f"best checkpoint{kind and f', {kind} weights'}"
            load_weights(model, weights)
            results["best"] = {"step": payload["state"]["step"], **payload["state"]["metrics"]}
        except CheckpointError as error:
            log.warning("%s; the last weights are tested instead", error)
    loader = fit.feed.eval_loader("test")
    if loader is not None:
        try:
            results["test"] = evaluate(model, loader, fit.task, fit.config.trainer.precision, fit.device)
        finally:
            loader.close()
        results["tested"] = name
    if fit.config.fold is not None:
        from dlrun.commands.out_of_fold import keep_predictions

        keep_predictions(fit, model)
    return results


def _summary(fit: Fit, results: Mapping[str, Any], run: str) -> None:
    from dlrun.report import score_cell, score_rows

    columns = [(name, max(10, len(name) + 2)) for name in ("loss", *fit.task.metrics)]
    log.info("")
    log.info("  %-18s%s", "", "".join(f"{name:>{width}}" for name, width in columns))
    for label, values, note in score_rows(results):
        cells = "".join(f"{score_cell(name, values.get(name)):>{width}}" for name, width in columns)
        log.info("  %-18s%s   %s", label, cells, note)
    log.info("")
    log.info("done in %.1f s: %s", results["seconds"], run)
    if any(fit.run.checkpoints.glob("*.pt")):
        split = "" if "test" in results else " split=val" if fit.val is not None else " split=train"
        log.info("evaluate    dlrun eval checkpoint=%s%s", shlex.quote(run), split)
    log.info("curves      %s", shlex.quote(f"{run}/report.html"))
    if "tensorboard" in fit.callbacks:
        log.info("            tensorboard --logdir %s", shlex.quote(f"{run}/tensorboard"))


def _write_report(fit: Fit, results: Mapping[str, Any]) -> None:
    from dlrun.report import write_report

    try:
        write_report(fit.run, fit.config.to_tree(), results)
    except Exception as error:
        # Whatever is wrong with drawing: the run is done, and its results are written.
        log.warning("report.html cannot be written: %s", error)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
