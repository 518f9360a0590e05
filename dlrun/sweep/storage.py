"""Where the trials of a sweep are coordinated: a journal in its folder, or a database that machines share."""

from __future__ import annotations

import importlib.util
import time
import warnings
from pathlib import Path

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalRedisBackend

from dlrun.addresses import masked
from dlrun.errors import UserError, did_you_mean
from dlrun.sweep.folder import JOURNAL
from dlrun.sweep.journal import Journal

_DRIVERS = {
    "postgresql": ("psycopg2", "psycopg"),
    "mysql": ("pymysql", "MySQLdb"),
    "mariadb": ("pymysql", "MySQLdb"),
    "redis": ("redis",),
    "rediss": ("redis",),
}
"""Scheme of an address -> modules that speak it, the first preferred."""
_ATTEMPTS = 10
_AGAIN_SECONDS = 0.5
_DIALECTS = {"MySQLdb": "mysqldb"}


def open_storage(address: str | None, folder: Path) -> BaseStorage:
    """The storage of a sweep.

    Args:
        address: of a database (``postgresql://``, ``mysql://``, ``redis://``); None: a journal in ``folder``.
        folder: of the sweep.

    Raises:
        UserError: if the address is of no known kind, its driver is missing, or nobody answers.
    """
    if address is None:
        return JournalStorage(Journal(folder / JOURNAL))
    shown = masked(address)
    known = with_driver(address)
    for attempt in range(_ATTEMPTS):
        try:
            return _open(known)
        except Exception as error:
            reason = said(error)
            # Machines that begin at the same time make the tables of an empty database at the same time.
            if attempt + 1 == _ATTEMPTS or not any(word in reason for word in ("already exists", "uplicate")):
                raise UserError(f"sweep.storage={shown}: cannot be opened: {reason}") from None
        time.sleep(_AGAIN_SECONDS)
    raise AssertionError("unreachable")


def _open(address: str) -> BaseStorage:
    if address.startswith("redis"):
        with warnings.catch_warnings():
            # What Optuna calls experimental has not changed since its version 3.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return JournalStorage(JournalRedisBackend(address, prefix="dlrun"))
    return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})


def with_driver(address: str) -> str:
    """The address with the name of a driver that is installed.

    Raises:
        UserError: if it is of no known kind, or its driver is missing.
    """
    head, mark, rest = address.partition("://")
    scheme, plus, _ = head.partition("+")
    shown = masked(address)
    if not mark or scheme not in _DRIVERS:
        raise UserError(
            f"sweep.storage={shown}: must be an address such as postgresql://user@host/database, mysql://... or "
            f"redis://host:6379; {did_you_mean(scheme, _DRIVERS)}"
        )
    if plus:
        return address
    for driver in _DRIVERS[scheme]:
        if importlib.util.find_spec(driver) is not None:
            return address if scheme.startswith("redis") else f"{scheme}+{_DIALECTS.get(driver, driver)}://{rest}"
    raise UserError(
        f"sweep.storage={shown}: the Python package {_DRIVERS[scheme][0]} that speaks to it is not installed; install "
        "dlrun[storage]"
    )


def failed(error: Exception) -> bool:
    """Whether an error says that a database cannot be used any more."""
    return isinstance(error, StorageInternalError) or type(error).__module__.split(".")[0] in ("redis", "sqlalchemy")


def said(error: BaseException) -> str:
    """What an error of a database says, in one line, without a password."""
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    return masked(" ".join(str(innermost).split()))[:300]
