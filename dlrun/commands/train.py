"""``dlrun train``: compose, check, build, train, report."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dlrun.commands.request import Request
from dlrun.config.compose import Composed, compose_saved
from dlrun.config.load import finish, load_config
from dlrun.config.rerun import RESUME_MAY_CHANGE, refuse_changes
from dlrun.config.schema import Config
from dlrun.config.sources import read_yaml
from dlrun.config.validate import explain
from dlrun.data.batch_sizes import batch_sizes
from dlrun.errors import EXIT_DONE, EXIT_RESUMABLE, ConfigError, NonFiniteError, UserError
from dlrun.logs import start_console, start_file, stop_file
from dlrun.optim.scaling import scaling_text
from dlrun.runfolder import RunFolder, create_run_folder, newest_run_folder, open_run_folder

if TYPE_CHECKING:
    from dlrun.train.fit import Fit

log = logging.getLogger("dlrun")

_SAME_EXPERIMENT = (
    "a resumed run continues the same experiment; start a new run to change this (dlrun train config={} ...)"
)


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
    folder = None if resume is None else _folder_to_resume(resume, request.overrides)
    if folder is None:
        config, composed = load_config(request.reserved.get("config"), request.overrides)
    else:
        config, composed = _saved_config(folder, request.overrides)
    if request.print_config:
        print(explain(composed, config))
        return EXIT_DONE
    return _train(config, composed, folder, request, started)


def _train(config: Config, composed: Composed, folder: RunFolder | None, request: Request, started: float) -> int:
    # torch is imported here: a mistake in the configuration was told before, within half a second.
    from dlrun.assembly import build_fit, prepare
    from dlrun.commands.explaining import explaining
    from dlrun.train.loop import train as run_loop
    from dlrun.train.signals import stop_on_signal

    found = None
    with explaining(config):
        if folder is not None:
            folder.lock()
            found = _newest(folder, config)
        prepared = prepare(config, None if found is None else found[1])
        if folder is None:
            name = config.run.name or composed.name
            fit = build_fit(config, prepared, lambda: create_run_folder(config.run.root, name, config.to_tree()))
            fit.run.lock()
        else:
            existing = folder
            fit = build_fit(config, prepared, lambda: existing)
    run = fit.run
    handler = start_file(run.path / "log.txt")
    try:
        with stop_on_signal(fit.state), explaining(config):
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


def _folder_to_resume(resume: str, overrides: Sequence[str]) -> RunFolder:
    if resume != "auto":
        path = Path(resume).expanduser()
        return open_run_folder(path.parent if path.name == "config.yaml" else path)
    root = load_config(None, [word for word in overrides if word.startswith("run.root=")])[0].run.root
    return open_run_folder(newest_run_folder(root))


def _saved_config(folder: RunFolder, overrides: Sequence[str]) -> tuple[Config, Composed]:
    path = folder.path / "config.yaml"
    tree, _ = read_yaml(path, str(path))
    # The recorded place of a plug-in may not exist here: the one given now must be used from the first.
    plugins = [word for word in overrides if word.startswith("plugins=")]
    old = finish(compose_saved(tree, str(path), folder.path, plugins))
    composed = compose_saved(tree, str(path), folder.path, overrides)
    new = finish(composed)
    refuse_changes(old.to_tree(), new.to_tree(), RESUME_MAY_CHANGE, _SAME_EXPERIMENT.format(folder.path))
    return new, composed


def _record_start(fit: Fit, request: Request) -> None:
    from dlrun.reproducibility import environment

    words = [*(f"{key}={value}" for key, value in request.reserved.items()), *request.overrides]
    try:
        fit.run.write_text("overrides.txt", "".join(f"{word}\n" for word in words))
        fit.run.write_json("env.json", {"seed": fit.config.seed, **environment(fit.device), "resumed": []})
        # Last: a folder with a config.yaml is a run that can be resumed.
        fit.run.write_text("config.yaml", yaml.safe_dump(fit.config.to_tree(), sort_keys=False))
    except OSError as error:
        raise UserError(f"run folder {fit.run.path}: cannot be written: {error.strerror}") from None


def _newest(folder: RunFolder, config: Config) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run goes on from; None if it was stopped before its first."""
    from dlrun.checkpoint import load_newest

    found = load_newest(folder.checkpoints)
    if found is None:
        log.info("resume: there is no checkpoint yet, so the run starts from its beginning")
        return None
    path, payload, complaints = found
    for complaint in complaints:
        log.warning("%s", complaint)
    if complaints:
        log.warning("going on from %s", path.name)
    refuse_changes(payload["config"], config.to_tree(), RESUME_MAY_CHANGE, _SAME_EXPERIMENT.format(folder.path))
    return path, payload


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
            fit.run.write_text("config.yaml", yaml.safe_dump(fit.config.to_tree(), sort_keys=False))
    except OSError as error:
        raise UserError(f"run folder {fit.run.path}: cannot be written: {error.strerror}") from None


def _announce(fit: Fit, *, resumed: bool) -> None:
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
    from dlrun.weights import load_weights

    results: dict[str, Any] = {
        "status": "done",
        "stop": None if fit.state.stop is None else fit.state.stop.message,
        "step": fit.state.step,
        "epochs": fit.state.epoch,
        "seconds": round(time.time() - started, 2),
        "last": dict(fit.state.metrics),
    }
    best = fit.run.checkpoints / "best.pt"
    name = "last weights"
    if best.is_file():
        try:
            payload = load(best)
            load_weights(fit.model, payload["model"])
            name = "best checkpoint"
            results["best"] = {"step": payload["state"]["step"], **payload["state"]["metrics"]}
        except CheckpointError as error:
            log.warning("%s; the last weights are tested instead", error)
    loader = fit.feed.eval_loader("test")
    if loader is not None:
        try:
            results["test"] = evaluate(fit.model, loader, fit.task, fit.config.trainer.precision, fit.device)
        finally:
            loader.close()
        results["tested"] = name
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
