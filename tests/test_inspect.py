"""Looking at cells: features of a text, the units that tell them, how gates stand, and the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Dlrun
from running import make_fit
from sklearn.metrics import roc_auc_score
from torch import nn

from dlrun import inspection
from dlrun.cell_page import Line, page
from dlrun.models.recurrent import Recurrent
from dlrun.train.callbacks.checkpoint import checkpoint
from dlrun.train.fit import Fit
from dlrun.train.loop import train

SMALL = (
    "data=text",
    "data.sequence_length=8",
    "data.batch_size=5",
    "model=rnn",
    "model.hidden_size=12",
    "task=language_modeling",
    "schedule=constant",
    "schedule.warmup=0ep",
    "augment=none",
    "trainer.epochs=1",
    "trainer.limit_batches=4",
)


def marks(feature: str, text: str) -> str:
    return "".join("x" if value else "." for value in inspection.features(text)[feature])


@pytest.mark.parametrize(
    ("feature", "text", "expected"),
    [
        ("inside quotes", 'a "b c" d', "..xxxx..."),
        ("inside quotes", 'one " alone', "..........."),
        ("inside quotes", "'tis don't 'x y' z", "...........xxxx..."),
        ("inside quotes", "“a” b", "xx..."),
        ("inside quotes", '"a\n\nb" c', "........"),
        ("inside brackets", "f(a[1], b) c", ".xxxxxxxx..."),
        ("inside brackets", ")( a\n\nb", ".xxxx.."),
        ("after a space", "a b", ".x."),
        ("after a line break", "a\nb", ".x."),
        ("upper case", "aBÉ1", ".xx."),
        ("punctuation", "a, b!", ".x..x"),
    ],
)
def test_features_that_are_there_or_not(feature: str, text: str, expected: str) -> None:
    assert marks(feature, text) == expected


def test_features_that_are_numbers() -> None:
    found = inspection.features("ab\n  c d\n")
    assert found["position in the line"].tolist() == [1, 2, 0, 1, 2, 3, 4, 5, 0]
    assert found["indentation"].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 0]
    assert all(values.shape == (0,) for values in inspection.features("").values())


def test_features_at_tokens_of_several_characters_or_none() -> None:
    values = inspection.features("a Bc")["upper case"]
    assert inspection.at_tokens(values, ["a", " B", "c"]).tolist() == [0, 1, 0]
    assert inspection.at_tokens(values, ["", "a", " B", "", "c"]).tolist() == [0, 0, 1, 1, 0]


def test_auc_and_correlation_are_those_of_others() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (200, 4)).astype(float)
    there = rng.random(200) < 0.3
    wanted = [roc_auc_score(there, column) for column in values.T]
    assert inspection.auc(values, there) == pytest.approx(wanted)
    wanted = [np.corrcoef(column, there)[0, 1] for column in values.T]
    assert inspection.correlation(values, there.astype(float)) == pytest.approx(wanted)
    assert inspection.correlation(np.ones((200, 1)), there.astype(float)).tolist() == [0]


def test_a_unit_that_tracks_quotes_is_found() -> None:
    text = "he said “no way” and she said “well, (yes)” then.\n" * 8
    layer = Recurrent(3, 5, cell="tanh")
    opened = torch.tensor([[float(c == "“"), float(c == "”"), 1.0] for c in text])[None]
    with torch.no_grad():
        inputs, recurrent, *_ = layer.kernel.all_weights[0]  # type: ignore[union-attr]
        # Unit 2 is set by an opening mark, reset by a closing one, and holds otherwise; at first it is reset.
        recurrent[2], inputs[2] = 0, torch.tensor([-20.0, 20.0, 0.0])
        recurrent[2, 2] = 4
        opened[0, 0, 1] = 1
    values = inspection.activations(layer.gates(opened))
    told = inspection.describe(values, inspection.features(text))
    best = told["inside quotes"][0]
    assert (best.layer, best.unit, best.auc) == (0, 2, 0)
    assert best.correlation == pytest.approx(-1, abs=0.01)
    assert best.strength == 1
    chosen = inspection.most_informative(told)
    assert chosen[0] == best
    assert len({(row.layer, row.unit) for row in chosen}) == len(chosen) == 5
    assert [row.strength for row in chosen] == sorted((row.strength for row in chosen), reverse=True)
    assert inspection.best_feature(told, 0, 2) == best
    # Five times at least: this text has no capital letter and no indentation.
    assert {"upper case", "indentation"}.isdisjoint(told)


@pytest.mark.parametrize(("cell", "gates"), [("lstm", "ifo"), ("gru", "ru"), ("tanh", "")])
def test_saturation_is_counted(cell: str, gates: str) -> None:
    layers = Recurrent(4, 6, cell=cell, layers=2)  # type: ignore[arg-type]
    with torch.no_grad():
        for weights in layers.parameters():
            weights.mul_(4)
        seen = layers.gates(torch.randn(1, 50, 4))
    found = inspection.saturation(seen)
    assert [(each.layer, each.gate[0]) for each in found] == [(layer, gate) for layer in (0, 1) for gate in gates]
    for each in found:
        for unit in range(6):
            series = seen[each.layer][each.gate][0, :, unit].tolist()
            assert each.left[unit] == sum(value < 0.1 for value in series) / 50
            assert each.right[unit] == sum(value > 0.9 for value in series) / 50
    assert not found or 0 < np.mean([each.right.mean() for each in found]) < 1


class Texts(HTMLParser):
    """What a browser would show inside <pre>."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.shown: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "pre":
            self.shown.append("")
        self._inside = self._inside or tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.shown[-1] += data


def test_the_page_shows_the_text_as_it_is_and_needs_nothing_else() -> None:
    text = '<script>alert("&amp;")</script>\n\t</pre> ö'
    values = np.linspace(-2, 2, len(text))
    html = page("a <b>", "x & y", list(text), [Line("0:1", None, values)], [], "h")
    read = Texts()
    read.feed(html)
    assert [shown.replace("↵", "") for shown in read.shown] == [text]
    assert "script" not in read.tags
    assert not re.search(r"https?:|src=|href=|@import", html)
    assert "<h1>a &lt;b&gt;</h1><p>x &amp; y</p>" in html
    # The least value and the greatest have full colour, and nothing is coloured in between.
    assert '<span class="n10">&lt;' in html
    assert html.count('class="p10"') == 1


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    folder = tmp_path_factory.mktemp("run")
    (folder / "book.txt").write_text("".join(f'{i} Green <b>"bottles"</b> (of {i % 3})\n' for i in range(80)))
    words = (*SMALL, f"data.path={folder}/book.txt")
    fit = make_fit(folder, *words, callbacks={"checkpoint": checkpoint(monitor="val/loss", mode="min")})
    train(fit)
    return fit


@pytest.fixture
def dlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dlrun:
    monkeypatch.chdir(tmp_path)
    return Dlrun(capsys)


def test_the_validation_text_is_read_and_the_page_written(dlrun: Dlrun, run: Fit) -> None:
    done = dlrun("inspect", "cells", f"checkpoint={run.run.path}")
    assert done.code == 0, done.text
    assert re.search(r"text        \d+ tokens of the validation text \(book.txt\)\n", done.out)
    assert re.search(r"  0      forget     +\d+\.\d%  +\d+\.\d%\n", done.out)
    # There is no config.yaml in this folder, so the page lies beside the checkpoint.
    html = (run.run.checkpoints / "cells_best.html").read_text()
    read = Texts()
    read.feed(html)
    units = re.findall(r"^  (\d:\d+) +[a-z ]+ \((?:AUC [\d.]+, )?r [+-][\d.]+\)$", done.out, re.M)
    assert len(units) == len(read.shown) >= 4
    assert '<b>"bottles"</b>' in read.shown[0]
    assert html.count("<svg") == 2


def test_chosen_cells_of_a_given_text_for_programs(dlrun: Dlrun, run: Fit) -> None:
    words = ("text=3 Green (of 1) and so on, Ä", "cells=[1:7,0:11]", "output=x.html", "--json")
    done = dlrun("inspect", "cells", f"checkpoint={run.run.path}", *words)
    assert done.code == 0, done.text
    plain = json.loads(done.out)
    assert plain["tokens"] == 27
    assert [cell["cell"] for cell in plain["cells"]] == ["1:7", "0:11"]
    assert [(gate["layer"], gate["gate"]) for gate in plain["gates"]][:3] == [
        (0, "input"),
        (0, "forget"),
        (0, "output"),
    ]
    read = Texts()
    read.feed(Path("x.html").read_text())
    assert read.shown == ["3 Green (of 1) and so on, Ä"] * 2
    assert "of them unknown to the model" in Path("x.html").read_text()


def test_words_that_the_vocabulary_lacks_are_shown_as_they_are(dlrun: Dlrun, run: Fit, tmp_path: Path) -> None:
    book = run.run.path.parent / "book.txt"
    words = (*SMALL, f"data.path={book}", "data.level=word", "trainer.epochs=1")
    fit = make_fit(tmp_path, *words, callbacks={"checkpoint": checkpoint(monitor="val/loss", mode="min")})
    train(fit)
    Path("some.txt").write_text("\ufeff4 Green (of two) blue flasks", encoding="utf-8")
    done = dlrun("inspect", "cells", f"checkpoint={fit.run.path}", "file=some.txt", "output=x.html", "cells=[0:1]")
    assert done.code == 0, done.text
    assert "9 tokens of some.txt, 3 of them unknown to the model" in done.out
    read = Texts()
    read.feed(Path("x.html").read_text())
    assert read.shown == ["4 Green (of two) blue flasks"]


def test_a_model_of_two_stacks_is_told_from_one_of_none(
    dlrun: Dlrun, run: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlrun.models.recurrent.Recurrent", nn.Module)
    done = dlrun("inspect", "cells", f"checkpoint={run.run.path}")
    assert done.code == 2
    assert re.search(
        r"model 'rnn' has \d stacks of recurrent layers, and dlrun inspect cells reads a model with", done.err
    )
    monkeypatch.setattr("dlrun.models.recurrent.Recurrent", nn.Conv2d)
    assert "has no recurrent layers of dlrun" in dlrun("inspect", "cells", f"checkpoint={run.run.path}").err


def test_a_given_file_is_read(dlrun: Dlrun, run: Fit) -> None:
    Path("some.txt").write_text("4 Green (of 2)\n" * 30)
    words = ("file=some.txt", "length=100", "show=20", "output=x.html")
    done = dlrun("inspect", "cells", f"checkpoint={run.run.path}", *words)
    assert "100 tokens of some.txt" in done.out
    read = Texts()
    read.feed(Path("x.html").read_text())
    assert {shown.replace("↵", "") for shown in read.shown} == {"4 Green (of 2)\n4 Gre"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "dlrun inspect needs what to look at; dlrun inspect cells checkpoint=PATH"),
        (("cell",), "dlrun inspect needs what to look at; did you mean cells?"),
        (("cells",), "dlrun inspect cells needs checkpoint=PATH"),
        (("cells", "checkpoint=no.pt"), "checkpoint no.pt: no such file"),
        (("cells", "checkpoint=no.pt", "text=a", "file=b"), "text= and file= exclude each other"),
        (("cells", "checkpoint=no.pt", "cells=3"), "cells=3: must be layer:unit, from 0, such as cells=[1:17,0:3]"),
        (("cells", "checkpoint=no.pt", "length=3"), "length=3: must be a whole number >= 20"),
        (
            ("cells", "checkpoint=RUN", "cells=2:0"),
            "cells: there is no unit 2:0; the model has 0:0 to 0:11, 1:0 to 1:11",
        ),
        (("cells", "checkpoint=RUN", "text=a"), "text=: there is hardly any text to read"),
        (("cells", "checkpoint=RUN", "file=no.txt"), "file=no.txt: cannot be read: No such file or directory"),
        (("cells", "checkpoint=RUN", "file=latin.txt"), "file=latin.txt: is not UTF-8 text (byte at offset 2)"),
        # As Python passes on what is no UTF-8 on the command line.
        (("cells", "checkpoint=RUN", "text=äb\udcff and more"), "text=: is not UTF-8 text (byte at offset 3)"),
        (("cells", "checkpoint=RUN", "data.path=no.txt"), "or give what to read with text=... or file=..."),
        (("cells", "checkpoint=RUN", "output=no/x.html"), "output=no/x.html: cannot be written: No such file"),
    ],
)
def test_wrong_words(dlrun: Dlrun, run: Fit, words: tuple[str, ...], message: str) -> None:
    Path("latin.txt").write_bytes(b"ab\xe9cd")
    done = dlrun("inspect", *(word.replace("RUN", str(run.run.path)) for word in words))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("error:") == 1


def test_a_model_of_images_is_refused(dlrun: Dlrun, tmp_path: Path) -> None:
    fit = make_fit(tmp_path, "trainer.epochs=1", callbacks={"checkpoint": checkpoint()})
    train(fit)
    done = dlrun("inspect", "cells", f"checkpoint={fit.run.path}")
    assert (done.code, done.out) == (2, "")
    assert "dlrun inspect cells is for language models, and this is model 'mlp'" in done.err
