"""Out-of-fold predictions: what each run of a cross-validation says of the images that it did not learn from.

Letters used below: N images, K classes.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dlrun.data.image_feed import ImageFeed
from dlrun.data.source import SubsetSource
from dlrun.runfolder import RunFolder
from dlrun.tasks.multilabel_classification import multilabel_classification
from dlrun.train.evaluate import predict
from dlrun.train.fit import Fit

FILE = "out_of_fold.npz"
LISTING = "out_of_fold.csv"
Arrays = dict[str, NDArray[Any]]


def keep_predictions(fit: Fit, model: nn.Module) -> None:
    """Write the predictions of a run for its fold into its folder.

    Args:
        fit: the run.
        model: with the weights that are tested.

    Raises:
        OSError: if they cannot be written.
    """
    feed, loader = fit.feed, fit.feed.eval_loader("val")
    if loader is None or not isinstance(feed, ImageFeed):
        return
    try:
        outputs, targets = predict(model, loader, fit.task, fit.config.trainer.precision, fit.device)
    finally:
        loader.close()
    held_out = feed.data.val
    assert isinstance(held_out, SubsetSource)
    several = isinstance(fit.task, multilabel_classification)
    arrays: Arrays = {
        "index": held_out.indices.numpy(),
        "fold": np.full(len(targets), fit.config.fold, dtype=np.int64),
        "label": (targets > 0.5).numpy() if several else targets.numpy(),
        "probabilities": (outputs.sigmoid() if several else outputs.softmax(1)).numpy(),
        "classes": np.array(feed.data.classes),
    }
    if isinstance(fit.task, multilabel_classification):
        arrays["predicted"] = fit.task.predicted(outputs).numpy()
    path = getattr(held_out.source, "path", None)
    if path is not None:
        arrays["path"] = np.array([path(int(index)) for index in held_out.indices])
    fit.run.write_bytes(FILE, _packed(arrays))


def collect(parent: RunFolder, names: Sequence[str]) -> dict[str, float] | None:
    """Join the predictions of all folds, in the order of the images, and write them as npz and csv.

    Args:
        parent: folder of the cross-validation.
        names: of the folders of its runs that are done.

    Returns:
        Samples and accuracy over all of them; None if no run has any.

    Raises:
        OSError: if they cannot be read or written.
    """
    parts: list[Arrays] = []
    for name in names:
        if (parent.path / name / FILE).is_file():
            with np.load(parent.path / name / FILE, allow_pickle=False) as file:
                parts.append(dict(file))
    if not parts:
        return None
    rows = [key for key in parts[0] if key != "classes"]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in rows}
    order = joined["index"].argsort(kind="stable")
    joined = {key: values[order] for key, values in joined.items()}
    predicted = joined.get("predicted", joined["probabilities"].argmax(1))
    parent.write_bytes(FILE, _packed({**joined, "classes": parts[0]["classes"]}))
    parent.write_text(LISTING, _listing(joined, predicted, parts[0]["classes"]))
    right = (predicted == joined["label"]).reshape(len(predicted), -1).all(1)
    return {"samples": len(predicted), "accuracy": float(right.mean())}


def division(path: Path) -> str:
    """A digest of which images a file of predictions is about: their numbers, classes and, of image files, names."""
    with np.load(path, allow_pickle=False) as file:
        found = hashlib.sha256()
        for key in ("index", "label"):
            found.update(f"{key} {file[key].dtype} {file[key].shape}".encode() + file[key].tobytes())
        if "path" in file:
            # With the folder of the class; where the others are may have changed.
            found.update("\n".join("/".join(Path(path).parts[-2:]) for path in file["path"].tolist()).encode())
    return found.hexdigest()


def _packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    # Each array by its name; numpy's zip files carry no time, so equal arrays give equal bytes.
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _listing(joined: Arrays, predicted: NDArray[Any], classes: NDArray[Any]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    with_path = ["path"] if "path" in joined else []
    table.writerow(["index", *with_path, "fold", "label", "predicted", *(f"p({name})" for name in classes)])
    for i, row in enumerate(joined["probabilities"]):
        names = ["; ".join(np.atleast_1d(classes[one[i]])) for one in (joined["label"], predicted)]
        first = [joined["index"][i], *(joined[key][i] for key in with_path), joined["fold"][i]]
        table.writerow([*first, *names, *(f"{value:.6g}" for value in row)])
    return text.getvalue()
