"""``dinoforge demo``: a page on this machine that shows what a network sees in a collection."""

import argparse
import contextlib
import ipaddress
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import Command, add_output_arguments, path_argument, print_json
from dinoforge.errors import Fault, UsageError

if TYPE_CHECKING:
    from dinoforge.demo.network import Network
    from dinoforge.demo.server.heads import Head
    from dinoforge.demo.server.site import Decision, Explain

__all__ = ["COMMAND"]

_TOKEN = "DINOFORGE_TOKEN"  # noqa: S105 - the name of a variable
_is_token = re.compile(r"[A-Za-z0-9._~-]{16,}").fullmatch  # in addresses and cookies as it is
_PACKAGES = ("jsonschema", "python_multipart", "starlette", "uvicorn")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    index = "folder of `dinoforge index`, or run of a quickstart, which is indexed first"
    add("index", type=path_argument, metavar="INDEX", help=index)
    model = "where the network of the index is now (default: where it was)"
    add("--model", type=path_argument, metavar="SPEC", help=model)
    second = "a second index, built with another network, shown beside the first"
    add("--second", type=path_argument, metavar="INDEX", help=second)
    explained = "curation run that explains why images were kept (default: a source of the index)"
    add("--curation", type=path_argument, metavar="RUN", help=explained)
    head = "segmentation or depth: a file `*.head-*.safetensors` of an evaluation; may be repeated"
    add("--head", type=path_argument, action="append", default=[], metavar="FILE", help=head)
    size = "pictures enter the network with the area of a square of this side, for patches"
    default = "default: 37 patches, 518 for patches of 14"
    add("--size", type=int, default=0, metavar="PIXELS", help=f"{size} ({default})")
    add(
        "--threads", type=int, default=0, metavar="N", help="threads for the network (default: all)"
    )
    faces = parser.add_argument_group("faces")
    modes = ["refuse", "blur", "off"]
    uploads = "what to do with uploads that show a face (default: refuse)"
    faces.add_argument("--faces", choices=modes, default="refuse", help=uploads)
    blurred = "blur faces in images of the collection when they are shown"
    faces.add_argument("--blur-collection", action="store_true", help=blurred)
    web = parser.add_argument_group("where it listens")
    add = web.add_argument
    add("--port", type=int, default=8765, metavar="N", help="default: 8765; 0: any free one")
    add("--host", default="127.0.0.1", help="address (default: 127.0.0.1, this machine only)")
    token = f"what others need to connect, with --host (default: ${_TOKEN}, or a random one)"
    add("--token", nargs="?", const="", metavar="TEXT", help=token)
    add("--no-browser", action="store_true", help="print the address only")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    token = _token(args)
    from dinoforge.packages import import_extra

    for package in _PACKAGES:
        import_extra(package, extra="demo", where="dinoforge demo")
    from dinoforge.demo.server.app import make_app
    from dinoforge.demo.server.opening import open_site
    from dinoforge.demo.server.serving import listen, serve

    with contextlib.closing(listen(args.host, args.port)) as opened:
        index = _index_of(Path(args.index))
        site = open_site(
            [index, Path(args.second)] if args.second else [index],
            model=args.model,
            size=args.size,
            threads=args.threads,
            faces=args.faces,
            blur_collection=args.blur_collection,
        )
        heads = _open_heads(args.head, site.sides[0].network)
        site = replace(site, explain=_explainer(index, args.curation), heads=heads)
        _announce(args, opened.getsockname()[1], token)
        with contextlib.suppress(KeyboardInterrupt):  # how it ends: no failure
            serve(make_app(site, host=args.host, token=token), opened)
    return 0


def _announce(args: argparse.Namespace, port: int, token: str) -> None:
    """Print the address, and open it on a terminal."""
    shown = f"[{args.host}]" if ":" in args.host else args.host
    url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    whom = "whoever has this address" if token else "this machine only"
    print(f"open {url}  ({whom}; Ctrl-C ends)", file=sys.stderr, flush=True)
    if args.json:
        print_json({"url": url, "pid": os.getpid()})
        sys.stdout.flush()
    if sys.stderr.isatty() and not args.no_browser:
        import webbrowser

        webbrowser.open(url)


def _token(args: argparse.Namespace) -> str:
    """Return the token, empty if none is needed, after checking the arguments.

    Other machines connect only with a token.
    """
    faults = []
    for name, low, high in (("port", 0, 65535), ("size", 0, 2072), ("threads", 0, 1024)):
        if not low <= (value := getattr(args, name)) <= high:
            do = f"give {low} to {high}"
            faults.append(Fault(f"`--{name}` is {value}", "command line", do))
    try:
        is_open = not ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        is_open = args.host != "localhost"
    if is_open and args.token is None:
        what = f"`--host {args.host}` lets other machines connect"
        faults.append(Fault(what, "command line", "add --token, which they then need"))
    token = ""
    if args.token is not None:
        token = args.token or os.environ.get(_TOKEN, "") or secrets.token_urlsafe(24)
        if not _is_token(token):
            name, where = (
                ("--token", "command line") if args.token else (f"${_TOKEN}", "environment")
            )
            do = "give 16 or more of A-Z a-z 0-9 . _ ~ -, or none for a random one"
            faults.append(Fault(f"`{name}` is too short or has other characters", where, do))
    if faults:
        raise UsageError(faults=faults)
    return token


def _index_of(folder: Path) -> Path:
    """Return the index that a folder is, or that of a quickstart, which is made if it is missing.

    Raises
    ------
    UsageError
        If it cannot be made.
    """
    curation, training, index = (folder / name for name in ("curation", "training", "index"))
    if not (curation.is_dir() and training.is_dir()):
        return folder
    from dinoforge.cli.main import main

    # Again if it is there, which takes no time: the training may have gone on.
    code = main(["index", str(curation), f"encoder={training}", f"out={index}", "--update"])
    if code:
        raise UsageError(
            what="the quickstart was not indexed",
            where=str(index),
            do="see above, or run `dinoforge index` yourself",
        )
    return index


def _open_heads(files: Sequence[str], network: "Network") -> "tuple[Head, ...]":
    if not files:
        return ()  # without reading code of evaluations
    from dinoforge.evaluation.methods.dense.picture_head import open_picture_head

    heads: dict[str, Head] = {}
    for file in files:
        head = open_picture_head(Path(file), network)
        if head.name in heads:
            do = "give one of them"
            raise UsageError(what=f"two heads are named `{head.name}`", where=file, do=do)
        heads[head.name] = head
    return tuple(heads.values())


def _explainer(index: Path, given: str | None) -> "Explain | None":
    """Return what explains decisions of the curation run that the index is of, if there is one."""
    from dinoforge.curated import ledger_path
    from dinoforge.curation.explain import explain
    from dinoforge.demo.server.site import Decision
    from dinoforge.runs import read_recipe

    sources = [given] if given else read_recipe(index).get("sources", [])
    run = next((Path(one) for one in sources if ledger_path(Path(one)).is_file()), None)
    if run is None and given:
        do = "name the run folder of a finished `dinoforge curate`"
        raise UsageError(what="not a curation run", where=given, do=do)
    if run is None:
        return None

    policy = {name: read_recipe(run)["duplicates"][name] for name in ("encoder", "threshold")}

    def decide(facts: Mapping[str, Any]) -> "Decision | None":
        shard, member, key = facts["shard"], facts["member"], facts["key"]
        # Of its own shards, and of tars, by key; of a file by its path.
        try:
            answer = explain(run, key if member else shard)
        except UsageError:
            return None
        group, pairs = (list(map(asdict, some)) for some in (answer.group, answer.neighbors))
        return Decision(answer.decision == "kept", answer.sentences, group, pairs, policy)

    return decide


COMMAND = Command(
    sentence="open a page that shows what a network sees in a collection",
    examples=(
        "dinoforge demo runs/quickstart",
        "dinoforge demo runs/index --second runs/other-index",
        "dinoforge demo runs/index --host 0.0.0.0 --token --no-browser",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
