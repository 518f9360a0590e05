"""Seeds, random states, devices, and the record of what a run was made with."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlrun import __version__
from dlrun.addresses import masked
from dlrun.errors import UserError
from dlrun.logs import log


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: if CUDA is asked for and absent, or has no device N.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            built = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
            raise UserError(f"device={name}: {built}; use device=cpu or device=auto")
        if (device.index or 0) >= count:
            raise UserError(f"device={name}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", device.index or 0)
    return device


def bf16_kernels() -> bool:
    """Whether the CPU computes in bf16 itself: torch's own way without oneDNN's kernels is several times slower than
    fp32."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def warn_of_slow_precision(precision: str, device: torch.device) -> None:
    """Say so where bf16 costs time instead of saving it.

    Args:
        precision: ``trainer.precision``.
        device: where the run computes.
    """
    if precision == "bf16" and device.type == "cpu" and not bf16_kernels():
        log.warning(
            "trainer.precision=bf16: this CPU has no instructions for bf16, which makes it several times slower than "
            "fp32; set trainer.precision=fp32"
        )


def seed_all(seed: int) -> None:
    """Seed every global generator: torch on all devices, numpy, random."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def set_determinism(*, deterministic: bool, threads: int | None) -> None:
    """Choose algorithms that repeat bit for bit on CUDA, and the number of CPU threads.

    Args:
        deterministic: refuse CUDA operations without a deterministic form. CPU operations always repeat.
        threads: CPU threads, >= 1; None leaves torch's choice.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        # Asked first, because the call itself imports torch's compiler.
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def random_state(device: torch.device) -> dict[str, Any]:
    """State of the global generators as tensors and plain values."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what :func:`random_state` gave."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def environment(device: torch.device) -> dict[str, Any]:
    """What a result depends on beside the configuration: versions, device, command line, state of the git tree."""
    versions = {"dlrun": __version__, "python": platform.python_version(), "torch": torch.__version__}
    versions["numpy"] = np.__version__
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "command": [masked(word) for word in sys.argv],
        "folder": str(Path.cwd()),
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the current folder's repository; None outside of one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
