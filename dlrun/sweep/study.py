"""What the processes of a stage agree on, in the attributes of Optuna's study."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage

logging.getLogger("alembic").setLevel(logging.WARNING)
log = logging.getLogger("dlrun")

_PATIENCE_SECONDS = 60.0
"""Time that the founder of a study has for writing down what others wait for."""


class Study:
    """The study of one stage.

    Attributes:
        optuna: Optuna's study.
        founder: whether this process made it; if not, it has joined it or goes on with it.

    Args:
        storage: where it is.
        name: of the study.
        mode: whether small or large scores are good.
    """

    def __init__(self, storage: BaseStorage, name: str, mode: str) -> None:
        options: dict[str, Any] = {
            "storage": storage,
            "study_name": name,
            "direction": "minimize" if mode == "min" else "maximize",
        }
        try:
            self.optuna = optuna.create_study(**options)
            self.founder = True
        except DuplicatedStudyError:
            self.optuna = optuna.create_study(**options, load_if_exists=True)
            self.founder = False

    @property
    def id(self) -> int:
        """Its key in the storage."""
        return self.optuna._study_id

    @property
    def known(self) -> Mapping[str, Any]:
        """All that it knows."""
        return self.optuna.user_attrs

    def remember(self, key: str, value: Any) -> Any:
        """What the study knows under a key; ``value``, as JSON, is written if it knows nothing yet."""
        known = self.known
        if key in known:
            return known[key]
        self.overrule(key, value)
        return value

    def overrule(self, key: str, value: Any) -> None:
        """Write ``value`` whatever was known under the key."""
        self.optuna.set_user_attr(key, value)

    def agree(self, key: str, value: Any) -> Any:
        """What the process that began the study says.

        Args:
            key: of what is said.
            value: what this process says, as JSON.
        """
        if not self.founder and not self.wait_for(key):
            log.warning("whoever began this stage did not come far; this process goes on with it")
        return self.remember(key, value)

    def wait_for(self, key: str) -> bool:
        """Wait until the founder has written something under a key; False if it takes too long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while key not in self.known:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True
