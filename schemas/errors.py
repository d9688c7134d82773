"""Every error that a user can meet, as one tree.

    G4ConvertError
    ├── UsageError               the call is wrong: an option, a path, a combination
    ├── SourceNotFoundError      neither a folder nor a repository on the Hub
    ├── UnsupportedError         a checkpoint that we recognise and do not take
    │   ├── UnsupportedModelError
    │   └── QuantizedSourceError
    ├── ConfigError              a JSON or TOML file breaks its schema, or contradicts another
    ├── CheckpointError          the files of a checkpoint are damaged
    │   ├── HeaderError          the header of a safetensors file
    │   ├── ShardError           a shard is missing or truncated, or the index is wrong
    │   ├── UnsafeFileError      a pickle, or a path that leaves the folder
    │   └── TensorError          a tensor is not what the config calls for
    │       ├── UnknownTensorError
    │       ├── MissingTensorError
    │       ├── TensorShapeError
    │       └── NonFiniteError
    ├── MediaError               a picture, sound or clip that cannot be read or used
    │   └── PlaceholderError     a prompt has more or fewer places for media than there are
    ├── OutputError              the output cannot be written: it exists, or the disk is full
    ├── ExecutorError            what makes the shards, a pool or a cluster, gave up
    ├── HubError                 the Hub refuses, or cannot be reached
    └── DefectError              a verification found defects: exit status 1

A message is one line: where it happened, what is wrong, and what to do about it.
"""

from __future__ import annotations

from pathlib import Path

# A name from a file may be as long as the file.
LONGEST_LINE = 1000


class G4ConvertError(Exception):
    """What the command line prints as one line before it exits with status 2.

    Args:
        what: what is wrong, without a full stop.
        where: the file, tensor or option at fault.
        fix: what the user can do, an imperative without a full stop.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(self._message())

    def _message(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.fix is not None:
            text = f"{text}; {self.fix}"
        line = " ".join(text.split())
        if len(line) > LONGEST_LINE:
            line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
        # Names come from files of strangers: nothing that a terminal would act on.
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


class UsageError(G4ConvertError):
    """The call itself is wrong."""


class SourceNotFoundError(G4ConvertError):
    """The source is neither a folder nor a repository that the Hub knows."""


class UnsupportedError(G4ConvertError):
    """A checkpoint that we recognise and do not take."""


class UnsupportedModelError(UnsupportedError):
    """The architecture is not one of ours."""


class QuantizedSourceError(UnsupportedError):
    """The source is already quantized."""


class ConfigError(G4ConvertError):
    """A JSON or TOML file breaks its schema, or contradicts another file."""


class CheckpointError(G4ConvertError):
    """The files of a checkpoint are damaged."""


class HeaderError(CheckpointError):
    """The header of a safetensors file is malformed."""


class ShardError(CheckpointError):
    """A shard is missing or truncated, or the index contradicts the shards."""


class UnsafeFileError(CheckpointError):
    """A file that could run code, or a path that leaves the checkpoint's folder."""


class TensorError(CheckpointError):
    """A tensor is not what the config calls for."""


class UnknownTensorError(TensorError):
    """A name that no rule of the family accounts for."""


class MissingTensorError(TensorError):
    """The config calls for a tensor that the checkpoint lacks."""


class TensorShapeError(TensorError):
    """A tensor has another shape or dtype than the config calls for."""


class NonFiniteError(TensorError):
    """A weight is NaN or infinite."""


class MediaError(G4ConvertError):
    """A picture, sound or clip that cannot be read, or that the model cannot take."""


class PlaceholderError(MediaError):
    """A prompt has more or fewer places for a kind of medium than there are media, or features of them."""


class OutputError(G4ConvertError):
    """The output cannot be written."""


class ExecutorError(G4ConvertError):
    """What makes the shards, a pool or a cluster, cannot be reached or gave up; the work that is done stays."""


class HubError(G4ConvertError):
    """The Hub refuses what it is asked for, or cannot be reached."""


class DefectError(G4ConvertError):
    """A checkpoint is not published, for verification found defects in it."""
