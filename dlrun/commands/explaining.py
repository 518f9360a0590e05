"""Errors of torch that the user can mend, told in the user's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dlrun.config.schema import Config
from dlrun.errors import UserError


@contextmanager
def explaining(config: Config) -> Iterator[None]:
    """Turn torch's errors that a configuration can mend into ones that say what to do.

    Raises:
        UserError: if the block ran out of memory, normalised a batch of one sample, had no deterministic form of an
            operation, or no compiler.
    """
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator: can't allocate" in text:
            raise UserError(
                "out of memory: lower data.batch_size, raise trainer.accumulate "
                f"(now {config.trainer.accumulate}) to split each batch, or set data.resident=false ({text[:120]})"
            ) from error
        if "Expected more than 1 value per channel when training" in text:
            parts = config.trainer.accumulate
            split = (
                f"trainer.accumulate={parts} leaves a part of a batch" if parts > 1 else "the last batch of an epoch"
            )
            remedy = "lower trainer.accumulate, " if parts > 1 else ""
            raise UserError(
                f"{split} with one sample, and batch norm needs two: {remedy}set data.drop_last=true, or another "
                "data.batch_size"
            ) from error
        if "does not have a deterministic implementation" in text:
            operation = text.split(", but you set")[0]
            raise UserError(
                f"trainer.deterministic=true: {operation}; set it to false, or choose another component"
            ) from error
        if "C++ compiler" in text:
            raise UserError(
                "trainer.compile=true: torch.compile found no working C++ compiler; install one (g++), or set it to "
                "false"
            ) from error
        raise
