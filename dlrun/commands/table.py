"""The commands of ``dlrun``: their words, their help, and where they are. Imports none of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from dlrun.commands.request import Request


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        purpose: in a few words.
        example: of the list of all commands.
        target: ``module:function`` in :mod:`dlrun.commands`.
        reserved: keys of its own; all others are overrides of the configuration.
        help: what it does, and its keys.
        examples: lines of its help.
        words: names of its plain words, each of which may be left out.
        many: whether the last of them may be repeated.
        flags: of :data:`FLAGS`.
    """

    purpose: str
    example: str
    target: str
    reserved: tuple[str, ...]
    help: str
    examples: str
    words: tuple[str, ...] = ()
    many: bool = False
    flags: tuple[str, ...] = ()

    @property
    def run(self) -> Callable[[Request], int]:
        """The command itself, which is imported now: request -> exit code."""
        module, _, function = self.target.partition(":")
        found: Callable[[Request], int] = getattr(importlib.import_module(f"dlrun.commands.{module}"), function)
        return found


FLAGS = {
    "--print-config": "print the configuration and where each value came from",
    "--json": "print for programs",
}

COMMANDS = {
    "train": Command(
        purpose="train a model",
        example="dlrun train config=cifar10_resnet20 data.root=~/data/cifar10",
        target="train:train",
        reserved=("config", "resume"),
        flags=("--print-config",),
        help="""\
Train a model. Without config=, it trains a small network on handwritten digits (the recipe digits); with data=NAME for
other data, it starts from the plain defaults instead, which --print-config shows.

  config=NAME|PATH   a recipe (dlrun list recipes), or your own YAML file: only what differs from the defaults
  resume=FOLDER      continue a run exactly where its newest checkpoint stands; resume=auto takes the newest run
  debug=NAME         fast (three batches), overfit (twenty samples must be learned by heart), nan (find the first NaN)
  folds=K            cross-validation: K runs in one folder, with mean, deviation and out-of-fold predictions
  seeds=N            the same with N seeds, and how large the noise between runs is; resume= works for both
  key=value          any value of the configuration, in Hydra's syntax; GROUP=NAME chooses a component
""",
        examples="""\
examples:
  dlrun train
  dlrun train model=mlp optimizer=adamw optimizer.lr=3e-4 trainer.epochs=30
  dlrun train data=cifar10 data.root=~/data model=vgg
  dlrun train config=char_rnn data.path=book.txt
  dlrun train config=cifar10_resnet20 data.root=~/data/cifar10 device=cuda
  dlrun train config=my.yaml seed=3 callbacks.early_stopping.patience=5
  dlrun train config=my.yaml 'augment=[{name: random_crop, padding: 2}, horizontal_flip]'
  dlrun train resume=runs/20260102-120000_my_1a2b3c
  dlrun train config=my.yaml --print-config
  dlrun train config=my.yaml folds=5
  dlrun train config=my.yaml seeds=5
""",
    ),
    "sweep": Command(
        purpose="search hyperparameters",
        example="dlrun sweep config=my.yaml optimizer.lr='log(1e-5, 1)'",
        target="sweep:sweep",
        reserved=("config", "resume", "extend", "retry"),
        flags=("--print-config",),
        help="""\
Search hyperparameters: any value of the configuration may be a distribution. Trials are ordinary runs; what is learned
of each axis is told at the end, and a killed sweep goes on where it stood.

  config=NAME|PATH   a recipe, or your own YAML file
  resume=FOLDER      run what is missing of a sweep: finished trials stay, interrupted ones go on from their checkpoint;
                     resume=auto takes the newest sweep
  extend=true        with resume=, when the space or the configuration was changed
  retry=STATUS,...   with resume=, run again what ended so, from its checkpoint: failed, oom, timeout
  key=DISTRIBUTION   log(a, b), uniform(a, b), int(a, b), int_log(a, b), logit(a, b), choice(x, y, ...)
  sweep.KEY=VALUE    trials, search, metric, mode, jobs, prune, stages, ... (dlrun show sweep default)
""",
        examples="""\
examples:
  dlrun sweep optimizer.lr='log(1e-4, 1)' optimizer.weight_decay='log(1e-6, 1e-2)' sweep.trials=40
  dlrun sweep config=my.yaml 'optimizer=choice(sgd, adamw)' sweep.metric=val/accuracy sweep.mode=max
  dlrun sweep config=my.yaml optimizer.momentum='logit(0.5, 0.999) when optimizer=sgd' sweep.jobs=2
  dlrun sweep resume=sweeps/20260102-120000_my_1a2b3c sweep.trials=80
""",
    ),
    "eval": Command(
        purpose="evaluate checkpoints",
        example="dlrun eval checkpoint=runs/x",
        target="evaluate:evaluate",
        reserved=("checkpoint", "split", "weights", "ensemble", "tta", "crop", "scales", "shift"),
        help="""\
Evaluate one or several checkpoints on a split. Everything is rebuilt from the checkpoint alone.

  checkpoint=PATH    a checkpoint file, or a run folder (its best checkpoint); several as '[a,b,c]'
  split=NAME         test (default), val or train
  weights=KIND       averaged or raw, of a run with averaging; auto (default): averaged where the run evaluated them
  ensemble=true      the checkpoints as one, by the mean of their probabilities, beside each of them alone;
                     ensemble=snapshots: those that callbacks.snapshots kept of the run
  tta=NAME           test-time augmentation, beside the plain images: flip, translate (shift=1 pixels), five_crop,
                     ten_crop (crop=PIXELS wide; 7/8 of the image), multi_scale_ten_crop (scales=[PIXELS,...])
  data.KEY=VALUE     where the data lie now, how they are fed; device=..., plugins=... likewise
  task.beam=K        of pairs, the hypotheses that decoding keeps
""",
        examples="""\
examples:
  dlrun eval checkpoint=runs/x
  dlrun eval checkpoint=runs/x/checkpoints/last.pt split=val
  dlrun eval checkpoint=runs/x data.root=/data/other device=cpu
  dlrun eval checkpoint=runs/x data.path=other.txt data.test_fraction=1
  dlrun eval checkpoint='[runs/x,runs/y]'
  dlrun eval checkpoint='[runs/x,runs/y,runs/z]' ensemble=true tta=flip
  dlrun eval checkpoint=runs/x ensemble=snapshots split=val
  dlrun eval checkpoint=runs/x tta=multi_scale_ten_crop scales=[32,36,40]
""",
    ),
    "compare": Command(
        purpose="two sets of runs",
        example="dlrun compare runs/a runs/b",
        target="compare:compare",
        reserved=("a", "b"),
        words=("a", "b"),
        flags=("--json",),
        help="""\
Tell whether two settings differ by more than the noise between runs. Each is a folder that `dlrun train seeds=n` or
`dlrun train folds=k` made; what is reported is the second less the first, with a 95 % interval.

Seeds are compared by Welch's t test, folds of one division of the data fold by fold.

  --json             print for programs (keys: docs/series.md)
""",
        examples="""\
examples:
  dlrun compare runs/20260102-120000_a_seeds5_1a2b3c runs/20260102-130000_b_seeds5_4d5e6f
  dlrun compare runs/a_folds5 runs/b_folds5 --json
""",
    ),
    "sample": Command(
        purpose="let a model write text",
        example='dlrun sample checkpoint=runs/x prompt="The "',
        target="sample:sample",
        reserved=("checkpoint", "prompt", "length", "temperature", "top_k", "top_p", "samples", "seed", "weights"),
        flags=("--json",),
        help="""\
Let a trained language model write. The text comes token by token; stdout holds the text alone, prompt included, so it
can be piped on. All else, such as the seed, goes to stderr.

  checkpoint=PATH    a checkpoint file, or a run folder (its best checkpoint)
  prompt=TEXT        what the text begins with; without it, it begins as after a line break
  length=N           tokens to write after the prompt; default 500
  temperature=X      below 1 surer, above 1 bolder, 0 always the most probable token; default 1
  top_k=K            only from the K most probable tokens
  top_p=P            only from the most probable tokens that together reach the probability P; after top_k
  weights=KIND       averaged or raw, of a run with averaging; auto (default): averaged where the run evaluated them
  samples=N          several texts at once, an empty line between them; default 1
  seed=N             writes the same text again; without it a new one is drawn, and told on stderr
  device=...         where to run; plugins=... likewise
  --json             print the seed and the texts for programs
""",
        examples="""\
examples:
  dlrun sample checkpoint=runs/x
  dlrun sample checkpoint=runs/x prompt=$'ROMEO:\\n' temperature=0.7 length=1000
  dlrun sample checkpoint=runs/x/checkpoints/last.pt prompt="def " top_k=40 top_p=0.95 seed=1 > sample.py
  dlrun sample checkpoint=runs/x samples=5 length=80 --json
""",
    ),
    "inspect": Command(
        purpose="what single cells do",
        example="dlrun inspect cells checkpoint=runs/x",
        target="inspect:inspect",
        reserved=("checkpoint", "text", "file", "cells", "length", "show", "output", "weights"),
        words=("what",),
        flags=("--json",),
        help="""\
Look at the cells of a recurrent language model while it reads a text: a page (HTML, opens from the disk) colours the
text by the activation of single cells, and tells how often each gate is shut or open.

  checkpoint=PATH    a checkpoint file, or a run folder (its best checkpoint)
  text=TEXT          what it reads; or file=PATH; without both, the validation text of the checkpoint's data
  cells=[L:U,...]    layer:unit, from 0; without it, for each of some features of the text (quotes, brackets, position
                     in the line, indentation, spaces, line breaks, upper case, punctuation) the cell that tells it best
  length=N           tokens that are read; default 10000
  show=N             tokens of these that the page shows; default 1500
  output=PATH        the page; default cells_NAME.html in the run folder
  weights=KIND       averaged or raw, of a run with averaging; auto (default): averaged where the run evaluated them
  data.path=...      where the data lie now; device=..., plugins=... likewise
  --json             print cells and gates for programs
""",
        examples="""\
examples:
  dlrun inspect cells checkpoint=runs/x
  dlrun inspect cells checkpoint=runs/x file=chapter.txt cells=[1:17,0:3] output=cells.html
  dlrun inspect cells checkpoint=runs/x text='He said "no" and went (at once).' --json
""",
    ),
    "summary": Command(
        purpose="look before training",
        example="dlrun summary config=cifar10_resnet20",
        target="summary:summary",
        reserved=("config", "input", "classes"),
        words=("name",),
        many=True,
        flags=("--json",),
        help="""\
Show what a model costs before it is trained: for each layer its output, parameters, multiply-adds, memory and receptive
field, and the totals for a training step on one batch. Nothing is trained and no data are read.

  NAME ...           a model, a recipe or a YAML file; several are compared in one table. A model has its default
                     options; data, batch size and optimizer are those of config=
  config=NAME|PATH   a recipe, or your own YAML file; with every override that train takes
  input=CxHxW        shape of an image, where not that of the configured data
  classes=K          number of classes, likewise; of text, of the symbols in its vocabulary
  --json             print for programs (keys: docs/summary.md)
""",
        examples="""\
examples:
  dlrun summary config=cifar10_resnet20
  dlrun summary config=my.yaml model.depth=32 data.batch_size=256
  dlrun summary model=vgg model.depth=19 input=3x224x224 classes=1000
  dlrun summary alexnet vgg googlenet resnet input=3x224x224 classes=1000
  dlrun summary a.yaml b.yaml --json
""",
    ),
    "export": Command(
        purpose="for use without dlrun",
        example="dlrun export checkpoint=runs/x format=onnx",
        target="export:export",
        reserved=("checkpoint", "format", "output", "input", "steps", "output_scores", "weights"),
        flags=("--json",),
        help="""\
Write a checkpoint as a file that runs without dlrun, for batches of any size. Each file is read again and compared with
PyTorch's scores before it gets its name; if they differ, no file is left.

  checkpoint=PATH    a checkpoint file, or a run folder (its best checkpoint)
  format=NAME        onnx (default), torch_export or safetensors (weights alone); several as '[onnx,safetensors]'
  output=PATH        a file, or a folder (default: export/ in the run folder)
  weights=KIND       averaged or raw, of a run with averaging; auto (default): averaged where the run evaluated them
  input=KIND         pixels (default): uint8 of 0..255, normalised inside the file; or normalized: float32
  output_scores=KIND logits (default) or probabilities
  steps=N            of text: tokens that one call reads (default: 1); what the model carries goes in and comes out
  --json             print for programs (keys: docs/export.md)

onnx needs the packages onnx, onnxscript and onnxruntime, safetensors its own: pip install 'dlrun[export]'
""",
        examples="""\
examples:
  dlrun export checkpoint=runs/x
  dlrun export checkpoint=runs/x output=net.onnx output_scores=probabilities
  dlrun export checkpoint=runs/x/checkpoints/last.pt format=torch_export input=normalized
  dlrun export checkpoint=runs/x format='[onnx,torch_export,safetensors]' output=served/
""",
    ),
    "list": Command(
        purpose="what there is to choose",
        example="dlrun list models",
        target="listing:list_components",
        reserved=("config",),
        words=("kind",),
        help="""\
List the components of a kind, or of every kind: models, data, augment, optimizers, schedules, losses, tasks, averages,
callbacks, and recipes and debug modes. config= or plugins= adds your own.
""",
        examples="""\
examples:
  dlrun list
  dlrun list models
  dlrun list models plugins=[my_net]
""",
    ),
    "show": Command(
        purpose="one component's options",
        example="dlrun show optimizer adamw",
        target="listing:show_component",
        reserved=("config", "output", "images", "draws", "steps"),
        words=("kind", "name"),
        help="""\
Show a component's options with types and defaults and the paper it comes from; or the text of a recipe. `dlrun show
augment` without a name draws training images before and after the augmentation of an experiment, as a PNG.

Of a schedule also the curve of the learning rate over a training is shown.

  config=NAME|PATH   a recipe, or your own YAML file; of augment and of a schedule, with every override of train
  output=PATH        of augment: the file; default augment.png
  images=N           of augment: rows, one image each; default 8
  draws=N            of augment: columns, what became of it each time; default 7
  steps=N            of a schedule: steps of an epoch; without it 100 are assumed, as no data are read
""",
        examples="""\
examples:
  dlrun show model resnet
  dlrun show optimizer adamw
  dlrun show schedule cosine schedule.warmup=5ep trainer.epochs=30 optimizer.lr=0.1
  dlrun show recipe cifar10_resnet20
  dlrun show augment horizontal_flip
  dlrun show augment config=cifar10_resnet20 data.root=~/data/cifar10 augment=mixup output=mixup.png
""",
    ),
}
