"""Entry point: the list of sub-commands; what each error prints and its exit code."""

import argparse
import codecs
import errno
import importlib
import io
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Any

from dinoforge import __version__
from dinoforge.cli.arguments import Command, HelpFormatter, Parser
from dinoforge.errors import (
    DinoforgeError,
    Interrupted,
    UsageError,
    cannot_write,
    first_line,
    printable,
)

__all__ = ["build_parser", "main"]

# In the order in which a newcomer needs them.
_ON_CURATIONS = ("explain", "leaks", "calibrate", "takedown")
_ON_BACKBONES = ("index", "demo", "export", "attention", "classes")
_ON_CLUSTER = ("status", "logs", "retry", "cancel")
COMMANDS = (
    *("quickstart", "curate", "plan", "train", "evaluate", "embed", "shard", *_ON_BACKBONES),
    *("report", "card", "compare", *_ON_CURATIONS, "runs"),
    *_ON_CLUSTER,
)

_log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command."""
    parser = Parser(
        prog="dinoforge",
        description="From a pile of images to a vision foundation model: curate, train, evaluate.",
        epilog="Start with: dinoforge quickstart",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dinoforge {__version__}")
    parser.add_argument(
        "--print-completion",
        choices=["bash", "zsh", "tcsh"],
        help="print the completion script of a shell and exit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in COMMANDS:
        command = load_command(name)
        child = commands.add_parser(
            name,
            help=command.sentence,
            description=command.sentence[0].upper() + command.sentence[1:] + ".",
            epilog="Examples:\n" + "\n".join(f"  {line}" for line in command.examples),
            formatter_class=HelpFormatter,
        )
        command.add_arguments(child)
    return parser


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def load_command(name: str) -> Command:
    """Import the module of one sub-command."""
    rooms = dict.fromkeys(_ON_CLUSTER, "cli.cluster") | dict.fromkeys(_ON_CURATIONS, "cli.curated")
    rooms |= dict.fromkeys(_ON_BACKBONES, "cli.backbones")
    room = rooms.get(name, "cli")
    module = importlib.import_module(f"dinoforge.{room}.{name}")
    command: Command = module.COMMAND
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, see `dinoforge.errors`."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse does not accept positionals after a flag: `curate r.yaml --on local:2 seed=1`,
    # `explain RUN --json -- -x`.
    if getattr(args, "image", "") is None:
        match rest:
            case ["--", word]:
                args.image, rest = word, []
            case [word] if not word.startswith("-"):
                args.image, rest = word, []
    if rest and not (hasattr(args, "overrides") and all(_is_override(word) for word in rest)):
        parser.error(f"unknown argument `{rest[0]}`")
    if rest:
        args.overrides = [*args.overrides, *rest]
    if args.print_completion:
        import shtab

        print(shtab.complete(parser, shell=args.print_completion))
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from dinoforge.log import set_up_logging
    from dinoforge.processes import keep_freed_memory

    # Read by OpenMP when torch is loaded. Threads that spin while they wait triple the CPU time on
    # a busy machine (two threads on two shared cores, 2026-11) and gain nothing on an idle one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    set_up_logging(verbosity=getattr(args, "verbosity", 0), rank=int(os.environ.get("RANK", "0")))
    as_json = getattr(args, "json", False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("printable", _print_escaped)
        sys.stdout.reconfigure(errors="printable")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = load_command(args.command).run(args)
        sys.stdout.flush()  # a failure is reported here, not at the end of the process
    except DinoforgeError as error:
        return _report(error, as_json=as_json)
    except KeyboardInterrupt:
        text = "stopped; nothing is lost: start the same command again to resume"
        return _report(Interrupted(text), as_json=as_json)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # an internal pipe: a worker died
        # The reader of our output has exited (`| head`): not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        if encoding == "utf-8":
            raise
        what = f"a name cannot be written in {encoding}: {printable(error.object)}"
        do = "export PYTHONUTF8=1, or choose a locale such as C.UTF-8"
        return _report(UsageError(what=what, where="LC_ALL", do=do), as_json=as_json)
    except OSError as error:
        fault = _explain(error)
        if fault is None:
            raise
        return _report(fault, as_json=as_json)
    finally:
        signal.signal(signal.SIGTERM, before)
    return code


def _print_escaped(error: UnicodeError) -> tuple[str, int]:
    """Print what has no encoding, such as bytes of a path that are not UTF-8, as an escape."""
    assert isinstance(error, UnicodeEncodeError), "stdout is only written"
    text = printable(error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode(), error.end


def _explain(error: OSError) -> UsageError | None:
    """Return the error for what the user can fix: no space, no quota, no permission, odd paths."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return cannot_write(error.filename or "the disk of the run or of temporary files", error)
    unusable = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
    if error.filename and error.errno in unusable:
        what, do = first_line(error).lower(), "check the path and its permissions"
        return UsageError(what=what, where=os.fsdecode(error.filename), do=do)
    return None


def _reader_is_gone() -> bool:
    """Return whether the reader of stdout has exited; with nothing to write, ask the kernel."""
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # stdout is not a file, or is closed
        return False


def _interrupt(_number: int, _frame: Any) -> None:
    # A second signal must not break the clean exit.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Not an `Exception`: the decoder treats those as a damaged picture and would continue.
    raise KeyboardInterrupt


def _report(error: DinoforgeError, *, as_json: bool) -> int:
    faults = error.faults if isinstance(error, UsageError) else ()
    if as_json and str(error):  # else another rank reports it
        rows = [{"what": f.what, "where": f.where, "do": f.do} for f in faults]
        print(json.dumps({"error": str(error), "faults": rows, "exit_code": error.exit_code}))
    label = "interrupted" if isinstance(error, Interrupted) else "error"
    for line in [str(fault) for fault in faults] or [printable(str(error))]:
        if line:  # else another rank reports it
            print(f"{label}: {line}", file=sys.stderr)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # A normal exit closes the process group, which would wait for ranks that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
