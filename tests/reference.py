"""The libraries our numbers must agree with: torchaudio's Kaldi fbank and transformers' AST.

Import them from here only. Beside a CPU build of torch, torchaudio's own extension does not load, and once it failed
transformers' AST fails too; its fbank is plain torch, so a stand-in for the extension is all it needs.
"""

import sys
from types import ModuleType


def _without_extension() -> ModuleType:
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


sys.modules.setdefault("torchaudio._extension", _without_extension())

from transformers import (  # noqa: E402
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
)

__all__ = ["ASTConfig", "ASTFeatureExtractor", "ASTForAudioClassification", "kaldi_fbank"]
