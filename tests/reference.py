"""The libraries our numbers must agree with: torchaudio's Kaldi fbank and transformers' AST.

Import them from here only. Beside a CPU build of torch, torchaudio's own extension does not load, and once that has
failed transformers' AST fails too. The parts used here are plain torch: a stand-in for the extension is all they need.
"""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def _no_extension() -> ModuleType:
    module = ModuleType("torchaudio._extension")
    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _IS_RIR_AVAILABLE=False,
        fail_if_no_align=lambda function: function,
        _check_cuda_version=lambda: None,
        lazy_import_sox_ext=lambda: None,
    )
    return module


sys.modules.setdefault("torchaudio._extension", _no_extension())

import transformers  # noqa: E402
from torchaudio.compliance import kaldi  # type: ignore[import-untyped]  # noqa: E402

ACTIVATIONS: Any = transformers.activations.ACT2FN
ASTConfig: Any = transformers.ASTConfig
ASTFeatureExtractor: Any = transformers.ASTFeatureExtractor
ASTModel: Any = transformers.ASTModel
ASTForAudioClassification: Any = transformers.ASTForAudioClassification

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def kaldi_fbank(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-mel (T, 128) of a clip (n,) at 16 kHz, as the reference extractor asks torchaudio for it."""
    frames: npt.NDArray[np.float32] = kaldi.fbank(
        torch.from_numpy(samples)[None], sample_frequency=16000, window_type="hanning", num_mel_bins=128
    ).numpy()
    return frames
