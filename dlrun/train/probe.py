"""Training a head on features that were computed once."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from dlrun.data.batch_sizes import BatchSizes, batch_sizes
from dlrun.data.features import FeatureLoader
from dlrun.data.feed import BatchLoader
from dlrun.train.fit import Fit, log
from dlrun.train.step import autocast
from dlrun.transfer import Head, compute_features, head_module, is_random


def train_on_features(fit: Fit, head: Head) -> None:
    """Let a run train and evaluate its head alone, on what the frozen part gives for each sample, computed now.

    Args:
        fit: all but the head is frozen; its loaders, ``forward`` and ``evaluated`` are exchanged.
        head: of the model.

    Raises:
        UserError: if the model does not end in one layer that gives the class scores.
    """
    config, model = fit.config, fit.model.eval()
    plain = fit.feed.eval_loader("train")
    assert plain is not None
    images = next(iter(plain.epoch(0)))[0][:8]
    module = head_module(model, head, images)
    fit.train_mode()
    if is_random(model, module, images):
        log.warning(
            "model.cache_features=true: the dropout before the head does nothing, as features are computed once; set "
            "cache_features=false to train with it"
        )
    model.eval()

    def features(loader: BatchLoader, *, train: bool) -> FeatureLoader:
        try:
            outputs, labels = compute_features(model, module, loader, autocast(config.trainer.precision, fit.device))
        finally:
            loader.close()
        return FeatureLoader(
            outputs,
            labels,
            batch_size=batch_sizes(config) if train else BatchSizes(((0, config.data.eval_batch_size),)),
            seed=config.seed,
            shuffle=train,
            drop_last=train and config.data.drop_last,
            limit=config.trainer.limit_batches if train else None,
        )

    fit.train.close()
    fit.train = features(plain, train=True)
    if fit.val is not None:
        fit.val = features(fit.val, train=False)
    fit.evaluated = module
    if fit.average is not None:
        (name,) = (name for name, known in model.named_modules() if known is module)
        fit.average.evaluated = fit.average.model.get_submodule(name)
    fit.forward = cast(nn.Module, torch.compile(module)) if config.trainer.compile else module
