"""Addresses of servers, as messages and files may show them."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s/]*@")


def masked(text: str) -> str:
    """``text`` with ``***`` in place of the password of every address in it: ``postgresql://ann:***@host/sweeps``."""
    return _PASSWORD.sub(r"\1:***@", text)
