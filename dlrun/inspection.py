"""What the units of a recurrent model do on a text: which follow features of it, and how their gates stand.

Letters: N tokens, H units of a layer, U units looked at.

Source: Karpathy, Johnson and Fei-Fei 2015, "Visualizing and understanding recurrent networks", sections 4.2 and 4.3
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LOW, HIGH = 0.1, 0.9
"""A gate below the one is saturated on the left (shut), above the other on the right (open)."""
LEAST = 5
"""A feature that is there, or not there, at fewer tokens than this is left out."""

Floats = NDArray[np.float64]

_QUOTED = re.compile(
    r'"""(?:.*?)(?=""")|\'\'\'(?:.*?)(?=\'\'\')|"(?:[^"\n]|\n(?!\n))*(?=")|“[^”]*(?=”)|(?<!\w)\'[^\'\n]+(?=\'(?!\w))',
    re.S,
)


@dataclass(frozen=True)
class Saturation:
    """How often the gates of a layer are shut or open.

    Attributes:
        layer: from 0.
        gate: its name.
        left: of each unit, the share of time below :data:`LOW`, (H,).
        right: of each unit, the share of time above :data:`HIGH`, (H,).
    """

    layer: int
    gate: str
    left: Floats
    right: Floats


@dataclass(frozen=True)
class Found:
    """A unit and the feature that it tells best.

    Attributes:
        layer: from 0.
        unit: from 0.
        feature: its name.
        auc: of a feature that is there or not: how probably the unit is higher where it is there, 0..1; else None.
        correlation: Pearson's r of unit and feature, -1..1.
    """

    layer: int
    unit: int
    feature: str
    auc: float | None
    correlation: float

    @property
    def strength(self) -> float:
        """0 tells nothing, 1 all: abs(2 AUC - 1) of a feature that is there or not, else abs(r)."""
        return abs(self.correlation) if self.auc is None else abs(2 * self.auc - 1)


def activations(seen: Sequence[Mapping[str, Tensor]]) -> list[Floats]:
    """Of each layer what its units hold after each token, (N, H): tanh of the LSTM's cell, else the hidden state.

    Args:
        seen: what :meth:`dlrun.models.recurrent.Recurrent.gates` gives for one text, B = 1.
    """
    values = (layer["cell"].tanh() if "cell" in layer else layer["hidden"] for layer in seen)
    return [value[0].detach().double().cpu().numpy() for value in values]


def saturation(seen: Sequence[Mapping[str, Tensor]]) -> list[Saturation]:
    """Of each layer and gate (candidates are no gates), how often it is shut or open.

    Args:
        seen: as for :func:`activations`.
    """
    result = []
    for layer, series in enumerate(seen):
        for name, values in series.items():
            if name not in ("hidden", "cell", "candidate"):
                open_ = values[0].detach().double().cpu().numpy()
                result.append(Saturation(layer, name, (open_ < LOW).mean(0), (open_ > HIGH).mean(0)))
    return result


def features(text: str) -> dict[str, Floats]:
    """Simple features of a text, each known after its character was read: 0 or 1, or a number.

    Args:
        text: N characters.

    Returns:
        Name -> (N,). Quotes: those that are closed, single ones in one line. Brackets: until they are closed or an
        empty line comes. Indentation: blanks at the beginning of the line so far.
    """
    quoted, bracket, column, indent = (np.zeros(len(text)) for _ in range(4))
    for match in _QUOTED.finditer(text):
        quoted[match.start() : match.end()] = 1
    depth = position = blanks = 0
    for i, character in enumerate(text):
        if character == "\n":
            depth = 0 if text[i - 1 : i] == "\n" else depth
            position = blanks = 0
        else:
            blanks += character in " \t" and blanks == position
            position += 1
        depth = depth + 1 if character in "([{" else max(0, depth - 1) if character in ")]}" else depth
        bracket[i], column[i], indent[i] = depth > 0, position, blanks
    return {
        "inside quotes": quoted,
        "inside brackets": bracket,
        "position in the line": column,
        "indentation": indent,
        "after a space": np.array([c == " " for c in text], dtype=np.float64),
        "after a line break": np.array([c == "\n" for c in text], dtype=np.float64),
        "upper case": np.array([c.isupper() for c in text], dtype=np.float64),
        "punctuation": np.array([not c.isalnum() and not c.isspace() for c in text], dtype=np.float64),
    }


def at_tokens(values: Floats, pieces: Sequence[str]) -> Floats:
    """A feature of characters at the tokens: its value at the last character of each piece.

    Args:
        values: (characters,) of the pieces joined.
        pieces: text of each token; an empty one has the value before it, or 0.

    Returns:
        (N,).
    """
    ends = np.cumsum([len(piece) for piece in pieces])
    padded: Floats = np.concatenate([[0.0], values])
    result: Floats = padded[ends]
    return result


def auc(values: Floats, there: NDArray[np.bool_]) -> Floats:
    """How probably a unit is higher at a token where a feature is there than at one where it is not; ties count half.

    Args:
        values: (N, U).
        there: (N,), neither all nor none.

    Returns:
        (U,) in 0..1.

    Source: the statistic of Mann and Whitney 1947, "On a test of whether one of two random variables is
        stochastically larger than the other"
    """
    hits, total = int(there.sum()), len(there)
    result = np.empty(values.shape[1])
    for unit, column in enumerate(values.T):
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        result[unit] = (ranks[there].sum() - hits * (hits + 1) / 2) / (hits * (total - hits))
    return result


def correlation(values: Floats, feature: Floats) -> Floats:
    """Pearson's r of each unit (N, U) with a feature (N,); 0 for what is constant."""
    centred, other = values - values.mean(0), feature - feature.mean()
    scale = np.sqrt((centred**2).sum(0) * (other**2).sum())
    products: Floats = centred.T @ other
    result: Floats = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    return result


def describe(values: Sequence[Floats], known: Mapping[str, Floats]) -> dict[str, list[Found]]:
    """What every unit tells of every feature.

    Args:
        values: of each layer (N, H).
        known: feature -> (N,); those that hardly vary are left out.

    Returns:
        Feature -> its units, the strongest first.
    """
    places = [(layer, unit) for layer, block in enumerate(values) for unit in range(block.shape[1])]
    whole = np.concatenate(list(values), 1)
    told: dict[str, list[Found]] = {}
    for name, feature in known.items():
        there = feature > 0
        if min(there.sum(), (~there).sum()) < LEAST:
            continue
        areas = auc(whole, there) if feature.max() <= 1 else None
        rows = (
            Found(*place, name, None if areas is None else float(areas[i]), float(r))
            for i, (place, r) in enumerate(zip(places, correlation(whole, feature), strict=True))
        )
        told[name] = sorted(rows, key=lambda row: -row.strength)
    return told


def most_informative(told: Mapping[str, Sequence[Found]]) -> list[Found]:
    """For each feature the unit that tells it best and tells no other feature better; the strongest first."""
    chosen: list[Found] = []
    for rows in sorted(told.values(), key=lambda rows: -rows[0].strength):
        taken = {(row.layer, row.unit) for row in chosen}
        free = next((row for row in rows if (row.layer, row.unit) not in taken), None)
        chosen += [] if free is None else [free]
    return sorted(chosen, key=lambda row: -row.strength)


def best_feature(told: Mapping[str, Sequence[Found]], layer: int, unit: int) -> Found | None:
    """The feature that one unit tells best; None if the text has none."""
    rows = [row for found in told.values() for row in found if (row.layer, row.unit) == (layer, unit)]
    return max(rows, key=lambda row: row.strength, default=None)
