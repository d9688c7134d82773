"""Where a checkpoint comes from: a folder, or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..loaders.checkpoint import CONFIG_FILE, INDEX_FILE, PICKLES, Checkpoint, TensorInfo, read_config, within
from ..loaders.config import ModelConfig
from ..loaders.consistency import GENERATION_CONFIG, check_generation, check_processor
from ..loaders.template import TEMPLATE_FILE, TOKENIZER_CONFIG, check_template
from ..loaders.tokenizer import TOKENIZER_FILE, open_tokenizer
from ..model_cards.upstream import Upstream
from ..schemas import read_json, validate
from ..schemas.errors import ConfigError, SourceNotFoundError, UsageError
from ..schemas.files import read_whole
from .decoding import check_stated_shapes, open_files
from .encodings import group_tensors
from .hub_errors import asking_hub
from .schemes import Scheme, already_quantized, read_scheme
from .stamps import Stamps, take_stamps

PROCESSOR = "processor_config.json"

# What a sidecar has to look like, and which are programs for the sandbox.
SCHEMAS = {
    PROCESSOR: "processor_config",
    GENERATION_CONFIG: "generation_config",
    TOKENIZER_CONFIG: "tokenizer_config",
}
TEMPLATES = {TEMPLATE_FILE}

# What a checkpoint may hold beside its weights; everything else stays behind, `*.py` above all.
SIDECARS = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "NOTICE*")
CARD, PLOT = "README.md", "verification.svg"
# Bytes of a model card, more than anybody writes.
LARGEST_CARD = 10_000_000
NOT_SIDECARS = frozenset({CONFIG_FILE, INDEX_FILE, CARD, "conversion.json"})

HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
HUB_SNAPSHOT = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")


@dataclass(frozen=True)
class Source:
    """A checkpoint that has been opened, and found to be whole and ours to convert.

    Attributes:
        checkpoint: the validated headers.
        document: `config.json` as parsed.
        config: the same, typed.
        sidecars: files to copy, by name.
        card: the model card, on whose place ours comes.
        repo_id: its name on the Hub, if it came from there.
        commit: the commit on the Hub.
        stamps: of every file of the folder, from before any was read.
    """

    checkpoint: Checkpoint
    document: Mapping[str, Any]
    config: ModelConfig
    sidecars: Mapping[str, Path]
    card: Upstream = field(default_factory=Upstream)
    repo_id: str | None = None
    commit: str | None = None
    stamps: Stamps = field(default_factory=dict, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the output holds."""
        return (self.checkpoint.folder / CONFIG_FILE, *self.checkpoint.shards, *self.sidecars.values())

    @property
    def name(self) -> str:
        """What opens it again: the repository and its commit, or the folder."""
        if self.repo_id is None or self.commit is None:
            return str(self.checkpoint.folder)
        return f"{self.repo_id}@{self.commit}"


def open_source(source: str | Path, revision: str | None = None) -> Source:
    """Find, download if need be, and validate a checkpoint.

    Args:
        source: a folder, `org/name`, or `org/name@revision`.
        revision: a branch, tag or commit on the Hub.

    Raises:
        SourceNotFoundError: there is no such folder or repository.
        UnsupportedError: an architecture or a format that we do not take.
        ConfigError: a JSON file breaks its schema or contradicts another.
        CheckpointError: the weights' files are damaged.
    """
    located = locate(source, revision, check=_check_small_files)
    return _open_folder(located.folder, located.repo_id, located.commit)


@dataclass(frozen=True)
class Located:
    """Where a checkpoint lies on this machine.

    Attributes:
        folder: its own, absolute.
        repo_id: its name on the Hub, if it came from there.
        commit: the commit on the Hub.
    """

    folder: Path
    repo_id: str | None = None
    commit: str | None = None


def locate(source: str | Path, revision: str | None = None, *, check: Callable[[Path], object]) -> Located:
    """Find a checkpoint, and download it if need be.

    Args:
        source: a folder, `org/name`, or `org/name@revision`.
        revision: a branch, tag or commit on the Hub.
        check: called with a folder that holds the small files, before weights are downloaded; may raise.

    Raises:
        SourceNotFoundError: there is no such folder or repository.
    """
    # Absolute, for shards may be made by processes that run elsewhere.
    folder = Path(os.path.expanduser(source)).absolute()  # noqa: PTH111  # Path.expanduser() fails on ~nobody
    if folder.is_dir():
        if revision is not None:
            raise UsageError("a folder has no revisions", where="--revision", fix="leave the option out")
        return Located(folder, *_hub_origin(folder))
    if folder.exists():
        raise UsageError("the source is a file", where=source, fix="give the checkpoint's folder")
    match = HUB_ID.fullmatch(str(source))
    if match is None:
        raise SourceNotFoundError("there is no such folder", where=source, fix="check the path")
    return _download(match["id"], revision or match["revision"], check)


def _hub_origin(folder: Path) -> tuple[str | None, str | None]:
    """A folder inside the Hub's cache tells where it came from."""
    real = folder.resolve()
    match = HUB_SNAPSHOT.fullmatch(real.parent.parent.name)
    if match is None or real.parent.name != "snapshots":
        return None, None
    return f"{match['owner']}/{match['name']}", real.name


def _download(repo_id: str, revision: str | None, check: Callable[[Path], object]) -> Located:
    """Small files first, so that a wrong model is refused before its weights are downloaded."""
    from huggingface_hub import HfApi, snapshot_download

    with asking_hub(repo_id):
        commit = HfApi().model_info(repo_id, revision=revision).sha
        folder = Path(snapshot_download(repo_id, revision=commit, allow_patterns=list(SIDECARS)))
        check(folder)
        snapshot_download(repo_id, revision=commit, allow_patterns=["*.safetensors"])
    return Located(folder, repo_id, commit)


def _check_small_files(folder: Path) -> None:
    document, config = read_config(folder)
    read_scheme(document)
    check_sidecars(config, document, find_sidecars(folder))


def _open_folder(folder: Path, repo_id: str | None, commit: str | None) -> Source:
    stamps = take_stamps(path for path in folder.iterdir() if path.is_file())
    document, config = read_config(folder)
    checkpoint = open_weights(folder, read_scheme(document))
    sidecars = find_sidecars(folder)
    check_sidecars(config, document, sidecars)
    return Source(checkpoint, document, config, sidecars, read_card(folder), repo_id, commit, stamps)


def find_sidecars(folder: Path) -> dict[str, Path]:
    """The files that go into the output as they are.

    Raises:
        UnsafeFileError: one is a link that leads out of the checkpoint.
        ConfigError: one is a folder, or a link that leads nowhere.
    """
    found = {path.name: path for pattern in SIDECARS for path in folder.glob(pattern)}
    names = sorted(found.keys() - NOT_SIDECARS)
    return {name: _sidecar(folder, found[name]) for name in names if not name.endswith((".index.json", *PICKLES))}


def read_card(folder: Path) -> Upstream:
    """The model card of a checkpoint; an empty one where there is none.

    Raises:
        UnsafeFileError: it is a link that leads out of the checkpoint.
        ConfigError: it is a folder, or a link that leads nowhere.
    """
    path = folder / CARD
    if not os.path.lexists(path):
        return Upstream()
    return Upstream.parse(read_whole(_sidecar(folder, path), LARGEST_CARD).decode("utf-8", errors="replace"))


def _sidecar(folder: Path, path: Path) -> Path:
    if not path.name.isprintable():  # a manifest and a card name it
        raise ConfigError("the file's name cannot be printed", where=path.name, fix="rename it, or remove it")
    if not within(folder, path).is_file():
        raise ConfigError("not a regular file", where=path.name, fix="download it again, or remove it")
    if not os.access(path, os.R_OK):
        raise ConfigError("cannot be read: Permission denied", where=path.name, fix="make it readable, or remove it")
    return path


def check_sidecars(config: ModelConfig, document: Mapping[str, Any], sidecars: Mapping[str, Path]) -> None:
    """Validate what the output's runtimes will read.

    Raises:
        ConfigError: a file is missing, breaks its schema, or contradicts the config.
    """
    if TOKENIZER_FILE not in sidecars:
        raise ConfigError("the file is missing, and no runtime works without it", where=TOKENIZER_FILE)
    open_tokenizer(sidecars[TOKENIZER_FILE], document)
    documents = {name: _read_sidecar(path) for name, path in sidecars.items() if name in SCHEMAS}
    check_generation(config, documents.get(GENERATION_CONFIG, {}))
    check_template(sidecars.get(TEMPLATE_FILE), documents.get(TOKENIZER_CONFIG, {}))
    if PROCESSOR in documents:
        check_processor(config, documents[PROCESSOR])
    elif config.vision is not None or config.audio is not None:
        raise ConfigError(
            "the file is missing, and the model's pictures and sounds are prepared by it",
            where=PROCESSOR,
            fix="download it from the base model",
        )


def _read_sidecar(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(path)
    validate(document, SCHEMAS[path.name], where=path.name)
    return document


def open_weights(folder: Path, scheme: Scheme | None) -> Checkpoint:
    """The headers of a source; packed weights stand there as the tensors that they decode to.

    Args:
        folder: of the source.
        scheme: how its config says that weights are packed.

    Raises:
        QuantizedSourceError: names the format of weights that are not decoded.
        CheckpointError: the files are damaged, or packed weights are not as the config says.
    """
    checkpoint = Checkpoint.open(folder)
    if scheme is not None:
        checkpoint = replace(checkpoint, tensors=group_tensors(checkpoint.tensors, scheme))
        with open_files(checkpoint.shards) as files:
            check_stated_shapes(checkpoint.tensors.values(), files)
    refuse_quantized(checkpoint.tensors.values())
    return checkpoint


# What gives each format's tensors away, by the last part of the name.
TELLTALES: Mapping[str, str] = {
    "qweight": "GPTQ or AWQ", "qzeros": "GPTQ or AWQ", "g_idx": "GPTQ",
    "absmax": "bitsandbytes", "quant_map": "bitsandbytes", "SCB": "bitsandbytes",
    "weight_packed": "compressed-tensors", "weight_scale": "compressed-tensors or FP8",
    "weight_shape": "compressed-tensors", "weight_zero_point": "compressed-tensors, asymmetric",
    "weight_g_idx": "compressed-tensors with activation order", "weight_global_scale": "compressed-tensors NVFP4",
    "weight_scale_inv": "FP8", "weight_scale_2": "ModelOpt NVFP4", "scales": "MLX",
}  # fmt: skip


def refuse_quantized(tensors: Iterable[TensorInfo]) -> None:
    """Refuse weights that look quantized, whatever the config says.

    Raises:
        QuantizedSourceError: names the format, and the tensor that shows it.
    """
    for info in tensors:
        leaf = info.name.rpartition(".")[2]
        if info.dtype.startswith("F8_"):
            raise already_quantized(f"FP8 (dtype of {info.name})", info.file.name)
        if leaf in TELLTALES:
            raise already_quantized(f"{TELLTALES[leaf]} (tensor {info.name})", info.file.name)
