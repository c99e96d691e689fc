"""Sound files, read from front to back."""

import os
from pathlib import Path

import soundfile


class SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read in blocks, or whole with `read(frames)`; nothing seeks in it.

    soundfile seeks after each read where it can, and after a seek libsndfile decodes MP3 wrongly for a while (its
    frames borrow bits from those before): read in blocks, an MP3 would be noise.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(os.fsencode(path) if os.name == "posix" else path)  # soundfile takes text in UTF-8 alone

    def seekable(self) -> bool:
        """Never, as far as `read` is concerned."""
        return False
