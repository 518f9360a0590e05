"""Recurrent networks: language models, readers of sequences, classifiers of images that are read piece by piece.

Shapes: B batch, T steps, V symbols, E embedding, O outputs of the recurrent layers, C channels, H height, W width, K
classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dlrun.models.blocks import classifier
from dlrun.models.init import HEAD_GAIN
from dlrun.models.recurrent import Recurrent
from dlrun.registry import MODELS
from dlrun.types import PositiveInt, Range, Rate

CellName = Literal["tanh", "relu", "lstm", "gru", "mut1", "mut2", "mut3", "highway"]
RecurrentInit = Literal["orthogonal", "xavier", "identity", "default"]
Pooling = Literal["last", "mean"]
Number = Annotated[float, Range(ge=-100, le=100)]


class LanguageModel(nn.Module):
    """Scores of the next token at every position.

    Args:
        vocabulary_size: V.
        embedding_size: E.
        recurrent: layers that take inputs of size E.
        dropout: probability of dropping an output of the last layer.
        tied: use the embedding as the matrix of the head too; O must be E.

    Source: Zaremba, Sutskever and Vinyals 2014, "Recurrent neural network regularization" (dropout); Press and Wolf
        2017, "Using the output embedding to improve language models" (tied weights)
    """

    def __init__(
        self, vocabulary_size: int, embedding_size: int, recurrent: Recurrent, dropout: float, *, tied: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.features = recurrent
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(recurrent.output_size, vocabulary_size)
        nn.init.zeros_(self.head.bias)
        if tied:
            # Of length one, so that the first scores are small.
            nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=HEAD_GAIN / recurrent.output_size**0.5)

    def forward(self, tokens: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read a chunk of each stream.

        Args:
            tokens: int64 (B, T) in [0, V).
            state: what the chunk before left; None at the beginning of the streams.

        Returns:
            Scores (B, T, V), and the state for the next chunk.
        """
        outputs, state = self.features(self.embedding(tokens), state)
        return self.head(self.dropout(outputs)), state


class ImageReader(nn.Module):
    """Reads images from the top left to the bottom right and gives what is known at the end.

    Args:
        recurrent: layers that take inputs of the size of a row (W C values) or of a pixel (C values).
        read: what one step reads.
        dropout: probability of dropping an output.
        pooling: what is given: the last output of each direction, or the mean of all.
    """

    def __init__(self, recurrent: Recurrent, read: Literal["rows", "pixels"], dropout: float, pooling: Pooling) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.read = read
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O): of both directions, each the output of its own last step, or the mean of all."""
        pieces = images.permute(0, 2, 3, 1)
        outputs, _ = self.recurrent(pieces.flatten(2) if self.read == "rows" else pieces.flatten(1, 2))
        dropped: Tensor = self.dropout(_pooled(outputs, self.recurrent, self.pooling, None))
        return dropped


def _pooled(outputs: Tensor, recurrent: Recurrent, pooling: Pooling, lengths: Tensor | None) -> Tensor:
    """Outputs (B, T, O), zero beyond the lengths (B), as one vector (B, O)."""
    if pooling == "mean":
        return outputs.mean(1) if lengths is None else outputs.sum(1) / lengths[:, None]
    if lengths is None:
        last = outputs[:, -1]
    else:
        rows = (lengths - 1)[:, None, None].expand(-1, 1, outputs.shape[2])
        last = outputs.gather(1, rows).squeeze(1)
    if not recurrent.bidirectional:
        return last
    half = recurrent.output_size // 2
    return torch.cat([last[:, :half], outputs[:, 0, half:]], dim=1)


class SequenceReader(nn.Module):
    """Scores of the classes of whole sequences, or of the tags of their tokens.

    Args:
        token_count: V.
        embedding_size: E.
        recurrent: layers that take inputs of size E.
        dropout: probability of dropping an output of the last layer.
        scores: K.
        pooling: what the class is read from: the last output of each direction, or the mean of all; None: every token
            has scores of its own.
    """

    def __init__(
        self,
        token_count: int,
        embedding_size: int,
        recurrent: Recurrent,
        dropout: float,
        scores: int,
        pooling: Pooling | None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(token_count, embedding_size)
        self.features = recurrent
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(recurrent.output_size, scores)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=HEAD_GAIN / recurrent.output_size**0.5)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Read whole sequences.

        Args:
            tokens: int64 (B, T) in [0, V); beyond the length they have no effect.
            lengths: int64 (B) on the CPU, each from 1 to T; None: all are T.

        Returns:
            Scores (B, K) of the classes, or (B, T, K) of the tags.
        """
        outputs, _ = self.features(self.embedding(tokens), None, lengths)
        if self.pooling is not None:
            here = None if lengths is None else lengths.to(outputs.device)
            outputs = _pooled(outputs, self.features, self.pooling, here)
        scores: Tensor = self.head(self.dropout(outputs))
        return scores


@MODELS.register
def rnn(
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    vocabulary_size: int | None = None,
    token_count: int | None = None,
    class_count: int | None = None,
    tag_count: int | None = None,
    *,
    cell: CellName = "lstm",
    layers: PositiveInt = 2,
    hidden_size: PositiveInt = 128,
    embedding_size: PositiveInt | None = None,
    dropout: Rate = 0.0,
    layer_norm: bool = False,
    bidirectional: bool = False,
    tied: bool = False,
    forget_bias: Number = 1.0,
    recurrent_init: RecurrentInit = "orthogonal",
    read: Literal["rows", "pixels"] = "rows",
    pooling: Pooling = "last",
) -> nn.Module:
    """Recurrent network: of text the next token at every step, of sequences and images the class, or a tag per token.

    On text it maps tokens (B, T) and a state to scores (B, T, V) and the next state; on images (B, C, H, W) to class
    scores (B, K); on labelled sequences (B, T) of different lengths to class scores (B, K) or scores of tags (B, T, K).

    Args:
        input_shape: (C, H, W) of one image, where the data are images.
        num_classes: K, where the data are images.
        vocabulary_size: V, where the data are text.
        token_count: V, where the data are labelled sequences.
        class_count: K, where each sequence has a class.
        tag_count: K, where each token has a tag.
        cell: what a step computes; tanh, relu, lstm and gru run in the library's kernels.
        layers: recurrent layers, one on top of the other.
        hidden_size: units of each layer and direction.
        embedding_size: E, numbers that stand for a token; null: hidden_size.
        dropout: probability of dropping an output of a layer on its way up, in [0, 1); not from step to step.
        layer_norm: layer norm behind each product with a matrix; slower, as the steps are then taken one by one.
        bidirectional: read images and labelled sequences in both directions; refused on text, where it would see what
            it has to predict.
        tied: one matrix is the embedding and the head; needs embedding_size = hidden_size.
        forget_bias: bias of the gate of lstm and highway that keeps the state, at the start; 1 remembers at first.
        recurrent_init: matrices from step to step: orthogonal, xavier, identity (for relu), or default (torch's own).
        read: of an image, one step reads a row, or a pixel.
        pooling: what a class is read from: the last output (of each direction its own), or the mean of all outputs.

    Raises:
        ValueError: if an option does not fit the data, or tied sizes differ.

    Source: Hochreiter and Schmidhuber 1997, "Long short-term memory"; Cho et al. 2014, "Learning phrase
        representations using RNN encoder-decoder"; Jozefowicz, Zaremba and Sutskever 2015, "An empirical exploration of
        recurrent network architectures" (mut1 to mut3, forget bias)
    """

    def recurrent(input_size: int) -> Recurrent:
        return Recurrent(
            input_size,
            hidden_size,
            cell=cell,
            layers=layers,
            dropout=dropout,
            layer_norm=layer_norm,
            bidirectional=bidirectional,
            forget_bias=forget_bias,
            recurrent_init=recurrent_init,
        )

    size = hidden_size if embedding_size is None else embedding_size
    if pooling != "last" and (vocabulary_size is not None or tag_count is not None):
        raise ValueError(f"pooling={pooling} is for one class per sequence or image; here every token has scores")
    if read != "rows" and input_shape is None:
        raise ValueError(f"read={read} is for images; text is read token by token")
    if tied and vocabulary_size is None:
        raise ValueError("tied is for text: nothing else has the same symbols before and behind the network")
    if vocabulary_size is not None:
        if bidirectional:
            raise ValueError(
                "bidirectional=true reads text from its end too, and would see the token it has to predict"
            )
        if tied and size != hidden_size:
            raise ValueError(
                f"tied=true needs embedding_size = hidden_size, got {size} and {hidden_size}; set them equal"
            )
        return LanguageModel(vocabulary_size, size, recurrent(size), dropout, tied=tied)
    if token_count is not None:
        scores = class_count if class_count is not None else tag_count
        assert scores is not None
        pooled = pooling if tag_count is None else None
        return SequenceReader(token_count, size, recurrent(size), dropout, scores, pooled)
    if input_shape is None or num_classes is None:
        raise ValueError("it needs images, text or labelled sequences")
    if embedding_size is not None:
        raise ValueError("embedding_size is for text; images have no embedding")
    channels, _, width = input_shape
    reader = ImageReader(recurrent(channels * width if read == "rows" else channels), read, dropout, pooling)
    return classifier(reader, reader.recurrent.output_size, num_classes, "default")
