"""The command line: parse, call, print, exit code. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..schemas.errors import DefectError, G4ConvertError, HubError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from tqdm import tqdm

    from .pipeline import Conversion
    from .publication.run import Publication
    from .shards import Progress

INTERRUPTED = 130
ALL_MODALITIES = "text,image,audio,video"

Command = Callable[..., None]

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes, written like `400MB` or `1.5GiB`."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B?)", value.upper())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"{value!r} is not a size", where=param.opts[0], fix="write it like 400MB or 5GB")
    return int(Decimal(match[1]) * UNITS[match[2]])


def names(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Several names, separated by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


image_tokens = click.option(
    "--image-tokens", type=int, help="Most tokens of a picture: 70, 140, 280, 560 or 1120.  [default: the model's]"
)
MEDIA_OPTIONS = (
    image_tokens,
    click.option(
        "--fps",
        type=float,
        help="Frames of a clip a second, up to --max-frames.  [default: the model's number, evenly spaced]",
    ),
    click.option("--max-frames", type=int, help="Most frames of a clip.  [default: the model's]"),
    click.option(
        "--timestamps",
        type=click.Choice(["true", "index"]),
        default="true",
        show_default=True,
        help="When a frame is shown, or its number over the average rate, as transformers has it.",
    ),
    click.option("--split-audio", is_flag=True, help="Split a sound that is too long instead of refusing it."),
)


def media_options(command: Command) -> Command:
    """Add the options that say how media are read."""
    for option in reversed(MEDIA_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="g4convert")
def cli() -> None:
    """Convert Hugging Face Gemma 4 checkpoints to MLX, verify, run, serve and publish them."""


def main() -> None:
    """Run the command line; every error a user can meet is one line and status 2."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # the shell has it ignored
        _run()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        _run()
    finally:  # nothing is left to clean up but the interpreter itself, which would say where it was interrupted
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run() -> NoReturn:
    try:
        # Not cli.main(): click's own handlers would print more than one line, and give a closed pipe status 1.
        with warnings.catch_warnings(), cli.make_context("g4convert", sys.argv[1:]) as context:
            warnings.showwarning = _warn
            cli.invoke(context)
        sys.stdout.flush()
        sys.exit(0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except G4ConvertError as error:
        _quit(str(error), 1 if isinstance(error, DefectError) else 2)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        hint = f"; see {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else ""
        _quit(error.format_message().rstrip(".") + hint, 2)
    except KeyboardInterrupt as interruption:
        _quit(str(interruption) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader has seen enough; the interpreter must not complain when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # what no command foresaw, an unreadable file for one
        _quit(f"{error.filename or 'system'}: {error.strerror or error}", 2)


def _interrupt(*_: object) -> None:
    """The first Ctrl-C lets the program clean up, the next one ends it at once; the output is sound either way."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    # Names of strangers stand in warnings, too: as an error, it is one line that no terminal acts on.
    click.echo(f"g4convert: {G4ConvertError(f'warning: {message}')}", err=True)


def _quit(message: str, status: int) -> NoReturn:
    # Of whatever error it is: no more than a line, and nothing that a terminal would act on.
    click.echo(f"g4convert: {G4ConvertError(message)}", err=True)
    sys.exit(status)


@cli.command("hf-to-mlx", epilog="Example: g4convert hf-to-mlx google/gemma-4-E2B-it gemma-4-E2B-it-4bit")
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path), required=False)
@click.option("--bits", type=int, help="Bits of a weight: 2, 3, 4, 5, 6 or 8 in affine mode.  [default: 4]")
@click.option("--group-size", type=int, help="Weights that share a scale: 32, 64 or 128 in affine mode.  [default: 64]")
@click.option("--mode", help="affine, mxfp4, mxfp8 or nvfp4.  [default: affine]")
@click.option("--no-quantize", is_flag=True, help="Keep the weights in floating point.")
@click.option("--recipe", help="auto, balanced, high, uniform, small, or a TOML file.  [default: auto]")
@click.option("--target-size", callback=size, metavar="SIZE", help="Most bytes of weights, for --recipe small.")
@click.option("--rounding", help="search for the best scales, or min-max: several times faster.  [default: search]")
@click.option("--dtype", help="bfloat16, float16 or float32 for what stays floating.  [default: the source's]")
@click.option(
    "--modalities", callback=names, metavar="NAMES", default=ALL_MODALITIES, show_default=True, help="What to keep."
)
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--max-shard-size", callback=size, metavar="SIZE", default="5GB", show_default=True, help="Largest file.")
@click.option(
    "--max-memory",
    callback=size,
    metavar="SIZE",
    default="1GB",
    show_default=True,
    help="Largest resident size of the process; with --dask, of each worker that has one thread.",
)
@click.option("--workers", type=int, help="Threads that work on a shard.  [default: two more than cores, at most 8]")
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Make the shards on the workers of this Dask scheduler, tcp://host:port; --max-shard-size says how many.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be written, to the byte, and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that stands at OUTPUT, or at --upload.")
@click.option("--upload", metavar="REPO_ID", help="Verify OUTPUT and publish it on the Hub, all in one.")
@click.option("--private", is_flag=True, help="Hide the repository that --upload makes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def hf_to_mlx(
    source: str,
    output: Path | None,
    max_memory: int,
    workers: int | None,
    dask: str | None,
    dry_run: bool,
    overwrite: bool,
    upload: str | None,
    private: bool,
    as_json: bool,
    quiet: bool,
    revision: str | None,
    no_quantize: bool,
    **options: Any,
) -> None:
    """Convert SOURCE, a folder or a Hub id, to an MLX checkpoint in the folder OUTPUT."""
    from . import report
    from .options import Options
    from .pipeline import DEFAULT_WORKERS, prepare, write

    if private and upload is None:
        raise UsageError("it is about the repository of --upload", where="--private", fix="give --upload too")

    if output is None and not dry_run:
        raise UsageError("the folder to write is missing", where="OUTPUT", fix="name it after SOURCE, or say --dry-run")
    publish_there = None if upload is None else _publisher(upload, private=private, overwrite=overwrite, quiet=quiet)
    with _executor(None if dry_run else dask) as executor:
        with _line(quiet=quiet) as say:
            asked = Options(quantize=not no_quantize, **options)
            conversion = prepare(source, asked, revision=revision, measuring=partial(say, "measuring"))
        if dry_run or output is None:
            _say(lambda: report.dry_run(conversion), lambda: report.as_json(conversion), as_json=as_json, quiet=quiet)
            return
        output = Path(os.path.expanduser(output))  # noqa: PTH111  # Path.expanduser() fails on ~nobody
        with _resumable(), _bar(conversion, quiet=quiet) as progress:
            write(
                conversion,
                output,
                max_memory=max_memory,
                workers=DEFAULT_WORKERS if workers is None else workers,
                executor=executor,
                overwrite=overwrite,
                progress=progress,
            )
    document = {**report.as_json(conversion), "output": str(output)}
    if publish_there is None:
        _say(lambda: report.written(conversion, output), lambda: document, as_json=as_json, quiet=quiet)
        return
    from .publication import text

    published = publish_there(output, conversion.source.name)
    _say(
        lambda: f"{report.written(conversion, output)}\n{text.uploaded(published)}",
        lambda: {**document, "published": text.as_json(published)},
        as_json=as_json,
        quiet=quiet,
    )


def _executor(address: str | None) -> AbstractContextManager[Executor | None]:
    if address is None:
        return nullcontext()
    from .cluster import cluster

    return cluster(address)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on where it stopped") from None


def _publisher(repo_id: str, *, private: bool, overwrite: bool, quiet: bool) -> Callable[[Path, str], Publication]:
    """Check name and token before the work begins; gives the function to call with the output and its source."""
    from .publication.run import publish
    from .publication.target import Target
    from .publication.upload import open_upload

    target = Target(repo_id, private=private, overwrite=overwrite)
    open_upload(target)

    def call(output: Path, source: str) -> Publication:
        try:
            with _line(quiet=quiet) as progress:
                return publish(output, target, source=source, quiet=quiet, progress=progress)
        except HubError as error:
            again = shlex.join(["g4convert", "publish", str(output), repo_id, "--source", source])
            fix = f"{output} is whole; go on with: {again}"
            raise HubError(error.what, where=error.where, fix=fix) from None

    return call


@cli.command(epilog="Example: g4convert run gemma-4-E2B-it-4bit -p 'What is the capital of France?'")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", help="A question; for a base model the text to continue.")
@click.option("--image", multiple=True, metavar="FILE", help="A picture to ask about. May be given several times.")
@click.option("--audio", multiple=True, metavar="FILE", help="A sound, likewise; comes after the pictures.")
@click.option("--video", multiple=True, metavar="FILE", help="A clip, likewise; comes after the sounds.")
@click.option(
    "--messages",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="A conversation to answer, in OpenAI's form; its media in any order, relative to its folder.",
)
@click.option("--max-tokens", type=int, default=256, show_default=True, help="The most tokens to generate.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the most likely token.")
@click.option("--seed", type=int, help="Repeats the answer of a temperature above 0.")
@media_options
@click.option(
    "--allow-host", multiple=True, metavar="HOST", help="Fetch media from this host; localhost allows file: URLs."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def run(
    model: Path,
    prompt: str | None,
    messages: Path | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    allow_host: tuple[str, ...],
    as_json: bool,
    image: tuple[str, ...],
    audio: tuple[str, ...],
    video: tuple[str, ...],
    **options: Any,
) -> None:
    """Answer a prompt with the converted checkpoint in the folder MODEL, and say how fast."""
    from ..loaders import Sampling
    from ..loaders import run as answer
    from ..loaders.media import MediaOptions, Reach
    from ..loaders.messages import attachments
    from .report import rates

    question = messages if prompt is None else prompt
    if question is None or (prompt is not None and messages is not None):
        raise UsageError("one prompt is needed", where="run", fix="give either -p TEXT or --messages FILE.json")
    generation = answer(
        model,
        prompt=question,
        attachments=attachments(images=image, sounds=audio, videos=video),
        options=MediaOptions(reach=Reach(hosts=frozenset(allow_host)), **options),
        max_tokens=max_tokens,
        sampling=Sampling(temperature=temperature, seed=seed),
        write=None if as_json else lambda piece: click.echo(piece, nl=False),
    )
    if as_json:
        click.echo(json.dumps(generation.to_dict(), indent=2, ensure_ascii=False))
        return
    click.echo()
    click.echo(rates(generation), err=True)


@cli.command(epilog="Example: g4convert serve gemma-4-E2B-it-4bit --port 8080")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 is any free one.")
@click.option("--api-key", envvar="G4CONVERT_API_KEY", show_envvar=True, metavar="KEY", help="Requests must bring it.")
@click.option("--queue", type=int, default=16, show_default=True, help="Requests that may wait while one is answered.")
@click.option("--max-tokens", type=int, default=4096, show_default=True, help="The most tokens of an answer.")
@click.option("--allow-host", "hosts", multiple=True, metavar="HOST", help="Fetch media from this host.")
@click.option(
    "--allow-folder", "folders", multiple=True, type=click.Path(path_type=Path), help="Read media from this folder."
)
@click.option("--allow-private", "private", is_flag=True, help="Let hosts have addresses of private networks.")
@media_options
def serve(model: Path, host: str, port: int, hosts: tuple[str, ...], folders: tuple[Path, ...], **options: Any) -> None:
    """Answer requests in OpenAI's protocol with the converted checkpoint in the folder MODEL.

    Clients reach it at http://HOST:PORT/v1; Ctrl-C ends it. Media come as data: URIs, and else from where the options
    that begin with --allow say.
    """
    from ..loaders.serving import ServeOptions
    from ..loaders.serving import serve as answer

    asked = ServeOptions(hosts=frozenset(hosts), folders=folders, **options)
    answer(model, host=host, port=port, options=asked, say=partial(click.echo, err=True))


@cli.command(epilog="Example: g4convert verify gemma-4-E2B-it-4bit --source google/gemma-4-E2B-it --report report.html")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", help="What it was made from, a folder or a Hub id; without it, less can be checked.")
@click.option("--revision", help="Branch, tag or commit of the source on the Hub.")
@click.option("--reference", metavar="transformers", help="Compute with transformers in float32 besides.")
@click.option(
    "--max-kl", type=float, help="Largest mean divergence from the source, in nats.  [default: depends on the bits]"
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a report, .html for people or .json for programs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def verify(
    model: Path,
    source: str | None,
    revision: str | None,
    reference: str | None,
    max_kl: float | None,
    report_file: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Verify the converted checkpoint in the folder MODEL: files, tensors, numbers, answers.

    The exit status is 1 if something is wrong with it.
    """
    from .verification import run
    from .verification.limits import Limits
    from .verification.outcome import Status
    from .verification.report import check_report, write_report
    from .verification.text import text

    if report_file is not None:
        check_report(report_file, model)
    with _line(quiet=quiet) as progress:
        found = run.verify(
            model,
            source=source,
            revision=revision,
            reference=reference,
            limits=Limits(max_kl=max_kl),
            progress=progress,
        )
    if report_file is not None:
        write_report(found, report_file)
    _say(lambda: text(found), found.to_dict, as_json=as_json, quiet=quiet)
    if found.status is Status.FAIL:
        raise click.exceptions.Exit(1)


@cli.command(epilog="Example: g4convert diff google/gemma-4-E2B-it gemma-4-E2B-it-4bit")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def diff(a: str, b: str, as_json: bool, quiet: bool) -> None:
    """Compare two checkpoints, A and B, each a folder or a Hub id, converted or not: files, then every weight.

    The exit status is 1 if they differ, be it in form only.
    """
    from .comparison import run
    from .comparison.text import text

    with _line(quiet=quiet) as progress:
        found = run.diff(a, b, progress=progress)
    _say(lambda: text(found), found.to_dict, as_json=as_json, quiet=quiet)
    if not found.equal:
        raise click.exceptions.Exit(1)


@cli.command(epilog="Example: g4convert inspect google/gemma-4-E2B-it --budget 6144MB --context 4096 --frames 8")
@click.argument("path")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--budget", callback=size, metavar="SIZE", help="Bytes that the model may take, like 6144MB or 6GiB.")
@click.option("--context", type=int, help="Tokens of prompt and answer, media included.  [default: 4096]")
@click.option("--images", type=int, default=0, metavar="N", help="Pictures in the prompt.")
@image_tokens
@click.option("--frames", type=int, default=0, metavar="N", help="Frames of clips in the prompt.")
@click.option("--audio", type=float, default=0.0, metavar="SECONDS", help="Sound in the prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(path: str, revision: str | None, budget: int | None, as_json: bool, **wish: Any) -> None:
    """Say what PATH is, a folder or a Hub id, converted or not, and what it takes; only headers are read.

    With --budget, an estimate of the memory that mlx takes for it on Metal: the weights, keys and values, and the
    worst moment of each tower and of the prompt. What is not converted is estimated as by default it would be. The
    exit status is 1 if it does not fit.
    """
    from .inspection import run
    from .inspection.text import text

    found = run.inspect(path, revision=revision, budget=budget, wish=run.Wish(**wish))
    _say(lambda: text(found), found.to_dict, as_json=as_json, quiet=False)
    if found.fit is not None and not found.fit.fits:
        raise click.exceptions.Exit(1)


@cli.command(
    epilog="Example: g4convert publish gemma-4-E2B-it-4bit me/gemma-4-E2B-it-4bit --source google/gemma-4-E2B-it"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--source", help="What it was made from: verify everything, and put the numbers into the card.")
@click.option(
    "--base-model", metavar="REPO_ID", help="What it was made from, for the card, if the conversion does not say."
)
@click.option("--private", is_flag=True, help="Hide the repository, if it is a new one.")
@click.option(
    "--revision", metavar="BRANCH", help="Upload to this branch, or to a pull request that is open: refs/pr/1."
)
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of changing the repository.")
@click.option("--overwrite", is_flag=True, help="Replace another conversion that is there.")
@click.option("--allow-defects", is_flag=True, help="Publish what verification finds fault with; the card says so.")
@click.option("--dry-run", is_flag=True, help="Say what would be uploaded, show the card, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def publish(
    model: Path,
    repo_id: str,
    source: str | None,
    base_model: str | None,
    private: bool,
    revision: str | None,
    create_pr: bool,
    overwrite: bool,
    allow_defects: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Verify the converted checkpoint in the folder MODEL, and upload it to REPO_ID on the Hub.

    Uses the token of `hf auth login`, or HF_TOKEN. What is on the Hub already is not sent again.
    """
    from .publication import run, text
    from .publication.target import Target

    if create_pr and revision is not None:
        raise UsageError("a pull request has a branch of its own", where="--revision", fix="leave out --create-pr")
    target = Target(repo_id, private, revision, create_pr, overwrite)
    with _line(quiet=quiet) as progress:
        call = partial(run.prepare, model, repo_id) if dry_run else partial(run.publish, model, target, quiet=quiet)
        found = call(source=source, base_model=base_model, allow_defects=allow_defects, progress=progress)
    show = text.dry_run if dry_run else text.uploaded
    _say(lambda: show(found), lambda: text.as_json(found), as_json=as_json, quiet=quiet)


def _say(text: Callable[[], str], document: Callable[[], Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(document(), indent=2))
    elif not quiet:
        click.echo(text())


class _bar:  # noqa: N801
    """A progress bar on standard error, if that is a terminal; gives the function to call with bytes done."""

    def __init__(self, conversion: Conversion, *, quiet: bool) -> None:
        total = sum(step.parameters * _itemsize(step.source.dtype) for step in conversion.plan.steps)
        hidden = True if quiet else None
        self._tqdm = _tqdm(total=total, unit="B", unit_scale=True, desc="converting", disable=hidden, leave=False)

    def __enter__(self) -> Progress:
        def progress(count: int) -> None:
            self._tqdm.update(count)

        return progress

    def __exit__(self, *_: object) -> None:
        self._tqdm.close()


class _line:  # noqa: N801
    """A line on standard error that says what is being done, if that is a terminal; gives the function to call."""

    def __init__(self, *, quiet: bool) -> None:
        self._tqdm = _tqdm(bar_format="{desc}", disable=True if quiet else None, leave=False)

    def __enter__(self) -> Callable[[str, str], object]:
        # Names of tensors come from strangers: nothing that a terminal would act on.
        return lambda step, what: self._tqdm.set_description_str(str(G4ConvertError(f"{step}: {what}")))

    def __exit__(self, *_: object) -> None:
        self._tqdm.close()


def _tqdm(**options: Any) -> tqdm[Any]:
    """A bar whose lock is that of threads; tqdm's own, for processes as well, can outlive one that is killed."""
    from threading import RLock

    from tqdm import tqdm

    tqdm.set_lock(RLock())
    return tqdm(**options)


def _itemsize(dtype: str) -> int:
    from ..loaders.checkpoint import DTYPE_BYTES

    return DTYPE_BYTES[dtype]
