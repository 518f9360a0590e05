"""Recurrent networks: language models of text, classifiers of images that are read piece by piece.

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
from dlrun.types import PositiveInt, Range

CellName = Literal["tanh", "relu", "lstm", "gru", "mut1", "mut2", "mut3", "highway"]
RecurrentInit = Literal["orthogonal", "xavier", "identity", "default"]
Rate = Annotated[float, Range(ge=0, lt=1)]
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
    """

    def __init__(self, recurrent: Recurrent, read: Literal["rows", "pixels"], dropout: float) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.read = read
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O): of both directions, each the output of its own last step."""
        pieces = images.permute(0, 2, 3, 1)
        outputs, _ = self.recurrent(pieces.flatten(2) if self.read == "rows" else pieces.flatten(1, 2))
        last: Tensor = outputs[:, -1]
        if self.recurrent.bidirectional:
            half = self.recurrent.output_size // 2
            last = torch.cat([last[:, :half], outputs[:, 0, half:]], dim=1)
        dropped: Tensor = self.dropout(last)
        return dropped


@MODELS.register
def rnn(
    input_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    vocabulary_size: int | None = None,
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
) -> nn.Module:
    """Recurrent network: of text the next token at every step, of images the class after the last row or pixel.

    On text it maps tokens (B, T) and a state to scores (B, T, V) and the next state; on images (B, C, H, W) to class
    scores (B, K).

    Args:
        input_shape: (C, H, W) of one image, where the data are images.
        num_classes: K, where the data are images.
        vocabulary_size: V, where the data are text.
        cell: what a step computes; tanh, relu, lstm and gru run in the library's kernels.
        layers: recurrent layers, one on top of the other.
        hidden_size: units of each layer and direction.
        embedding_size: E, numbers that stand for a token; null: hidden_size.
        dropout: probability of dropping an output of a layer on its way up, in [0, 1); not from step to step.
        layer_norm: layer norm behind each product with a matrix; slower, as the steps are then taken one by one.
        bidirectional: read images in both directions; refused on text, where it would see what it has to predict.
        tied: one matrix is the embedding and the head; needs embedding_size = hidden_size.
        forget_bias: bias of the gate of lstm and highway that keeps the state, at the start; 1 remembers at first.
        recurrent_init: matrices from step to step: orthogonal, xavier, identity (for relu), or default (torch's own).
        read: of an image, one step reads a row, or a pixel.

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

    if vocabulary_size is not None:
        if bidirectional:
            raise ValueError(
                "bidirectional=true reads text from its end too, and would see the token it has to predict"
            )
        if read != "rows":
            raise ValueError(f"read={read} is for images; text is read token by token")
        size = hidden_size if embedding_size is None else embedding_size
        if tied and size != hidden_size:
            raise ValueError(
                f"tied=true needs embedding_size = hidden_size, got {size} and {hidden_size}; set them equal"
            )
        return LanguageModel(vocabulary_size, size, recurrent(size), dropout, tied=tied)
    if input_shape is None or num_classes is None:
        raise ValueError("it needs images or text")
    if tied or embedding_size is not None:
        raise ValueError("tied and embedding_size are for text; images have no embedding")
    channels, _, width = input_shape
    reader = ImageReader(recurrent(channels * width if read == "rows" else channels), read, dropout)
    return classifier(reader, reader.recurrent.output_size, num_classes, "default")
