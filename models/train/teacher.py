"""A convolutional net that teaches the small AST: it learns from few recordings what a transformer would need many for.

Its features are hints for the transformer's tokens (Romero et al. 2015, "FitNets"), its scores are what the
transformer should answer (Hinton et al. 2015); that a convolutional teacher suits an AST is from Gong et al. 2022,
"CMKD". Both see the same windows, and a column of its last features is a column of patches: 16 frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.audio_spectrogram_transformer import ASTConfig, ASTForAudioClassification
from models.train.training import placed

WIDTH = 48  # of the first block; each next one is twice as wide
SMOOTHING = 0.02  # how far targets keep away from 0 and 1
OWN_SHARE = 0.5  # of the truth in what the pupil is to answer; the rest is what the teacher answered
HINTS = 0.5  # weight of the hints in the pupil's loss


class Teacher(nn.Module):
    """Four blocks of two 3 × 3 convolutions, each half as fine; (B, T, M) windows of any T that 16 divides.

    `config` is that of the pupil: both are fed alike.
    """

    def __init__(self, config: ASTConfig) -> None:
        super().__init__()
        self.config = config
        widths = [WIDTH * 2**i for i in range(4)]
        self.blocks = nn.ModuleList(
            nn.Sequential(*_convolution(narrow, wide, 2 if narrow == 1 else 1), *_convolution(wide, wide))
            for narrow, wide in zip((1, *widths), widths, strict=False)
        )
        self.dropout = nn.Dropout(0.3)
        self.window = nn.Linear(2 * widths[-1], config.num_labels)
        self.column = nn.Linear(2 * widths[-1], config.num_labels)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits of windows (B, C) and of their columns (B, S, C); features of two depths at each patch (B, N, D)."""
        x = windows.unsqueeze(1).to(memory_format=torch.channels_last)  # B 1 T M
        features = []
        for i, block in enumerate(self.blocks):
            x = block(functional.max_pool2d(x, 2) if i else x)
            features.append(x)
        columns = self.dropout(torch.cat((x.mean(3), x.amax(3)), 1).transpose(1, 2))  # B S 2D
        pooled = (columns.mean(1) + columns.amax(1)) / 2
        hints = [functional.pixel_unshuffle(features[2], 2), features[3]]  # both B D S F now
        return self.window(pooled), self.column(columns), [each.float().transpose(2, 3).flatten(2).mT for each in hints]


def _convolution(narrow: int, wide: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()


class Pupil(nn.Module):
    """The transformer, and what foretells the teacher's features from its tokens, half way up and at the top."""

    def __init__(self, ast: ASTForAudioClassification) -> None:
        super().__init__()
        self.ast = ast
        self.config = ast.config
        width = self.config.hidden_size
        self.depths = (self.config.num_hidden_layers // 2, self.config.num_hidden_layers)
        self.hints = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size)) for size in (16 * WIDTH, 8 * WIDTH)
        )

    def forward(self, windows: Tensor, keep: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, C), and at each patch that is kept the foretold features of both depths (B, N, D)."""
        output = self.ast(windows, keep=keep, output_hidden_states=True)
        tokens = [output.hidden_states[depth][:, 2:] for depth in self.depths]
        return output.logits, [hint(each) for hint, each in zip(self.hints, tokens, strict=True)]


def teach(model: nn.Module, batch: Sequence[Tensor], view: slice, keep: Tensor | None) -> Tensor:
    """Loss of a `Teacher`: what sounds in the windows, and in each of their columns."""
    windows, labels, columns = batch
    of_window, of_column, _ = model(windows)
    return _error(of_window, labels) + _error(of_column, columns)


class Learn:
    """Loss of a `Pupil` of this teacher, which is in evaluation mode."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def __call__(self, model: nn.Module, batch: Sequence[Tensor], view: slice, keep: Tensor | None) -> Tensor:
        """Half the truth and half the teacher's answer for the window; the teacher's features for each patch."""
        windows, labels = batch
        with torch.no_grad():
            answer, _, hints = self.teacher(windows)
        logits, foretold = model(placed(windows, view, self.teacher.config), keep)
        wanted = OWN_SHARE * labels + (1 - OWN_SHARE) * answer.float().sigmoid()
        loss = _error(logits, wanted)
        for mine, hint in zip(foretold, hints, strict=True):
            scaled = (hint - hint.mean((0, 1))) / (hint.std((0, 1)) + 1e-3)
            loss = loss + HINTS * functional.mse_loss(mine.float(), _kept(scaled, keep, view, self.teacher.config))
        return loss


class Correct:
    """Loss of a classifier that goes on with what it got wrong: the truth for those labels, else also what it answered.

    Args:
        before: the classifier as it was, in evaluation mode.
        wrong: positions of the labels.
    """

    def __init__(self, before: ASTForAudioClassification, wrong: list[int]) -> None:
        self.before = before
        self.wrong = wrong

    def __call__(self, model: nn.Module, batch: Sequence[Tensor], view: slice, keep: Tensor | None) -> Tensor:
        """Half the truth and half its earlier answer, but for the labels it got wrong."""
        windows, labels = batch
        whole = placed(windows, view, self.before.config)
        with torch.no_grad():
            answer = self.before(whole, keep=keep).logits.float().sigmoid()
        answer[:, self.wrong] = labels[:, self.wrong]
        return _error(model(whole, keep=keep).logits, OWN_SHARE * labels + (1 - OWN_SHARE) * answer)


def _kept(hint: Tensor, keep: Tensor | None, view: slice, config: ASTConfig) -> Tensor:
    """Of a view's patches (B, F * S, D), time fastest, those in `keep`, which counts the whole window's patches."""
    if keep is None:
        return hint
    first, n_columns = view.start // config.time_stride, hint.shape[1] // config.grid[0]
    row, column = keep // config.grid[1], keep % config.grid[1] - first
    return hint[:, row * n_columns + column]


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    soft = targets * (1 - SMOOTHING) + SMOOTHING / 2
    return functional.binary_cross_entropy_with_logits(logits.float(), soft)
