"""The reference as Markdown, read from the code: recipe keys, commands, recipes, errors, functions.

Nothing here is written by hand, and no page of it is committed: `site_pages` puts the texts into
the pages when the site is built.
"""

import argparse
import ast
import functools
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import dinoforge.errors
from dinoforge.cli.arguments import config_class
from dinoforge.cli.main import COMMANDS, build_parser, load_command
from dinoforge.config import RECIPE_KINDS, KeyHelp, describe_keys, list_recipes
from dinoforge.records import Record
from dinoforge.slurm.profile import Profile

__all__ = ["KEYS", "TEXTS"]

ROOT = Path(__file__).resolve().parents[2]

# Kind of object of the site -> what it describes.
KEYS: dict[str, Callable[[], dict[str, KeyHelp]]] = {
    **{
        f"{command}-key": functools.partial(lambda kind: describe_keys(config_class(kind)), kind)
        for command, kind in RECIPE_KINDS.items()
    },
    "profile-key": lambda: describe_keys(Profile),
    "record-field": lambda: describe_keys(Record),
}


def escape(text: str) -> str:
    """Make plain text with code between back ticks safe for Markdown."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([\\*_\[\]<>{}|#$])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def sentence(text: str) -> str:
    """End a comment or a help text of the code like a sentence."""
    return text if not text or text.endswith(".") else f"{text}."


def summary(docstring: str | None) -> str:
    """Return the first paragraph of a docstring on one line, in Markdown."""
    paragraph = (docstring or "").strip().split("\n\n")[0]
    return escape(" ".join(paragraph.replace("``", "`").split()))


def keys(kind: str) -> str:
    """Describe every key of one kind, below a heading per section."""
    lines, section = [], None
    for help_ in KEYS[kind]().values():
        owner = help_.key.rpartition(".")[0]
        if owner != section and kind != "record-field":
            section = owner
            lines += ["", f"## {section or 'Top level'}".replace("[]", "\\[\\]"), _owner(help_)]
        body = " ".join([sentence(help_.meaning)] + [f"Range: {help_.range}."] * bool(help_.range))
        lines += ["", f"```{{{kind}}} {help_.key}", escape(body), "```"]
    return "\n".join(lines)


def _owner(help_: KeyHelp) -> str:
    module, _, name = help_.where.rpartition(".")
    docstring = getattr(importlib.import_module(module), name).__doc__
    return f"{summary(docstring)}\n(`{help_.where}`)"


def commands() -> str:
    """Describe every command: usage, examples, options by group."""
    parser = build_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = ["## dinoforge", "", *_options(parser)]
    for name in COMMANDS:
        lines += [f"\n(command-{name})=", f"## dinoforge {name}\n", *_command(action.choices[name])]
        lines += ["```sh", *load_command(name).examples, "```\n", *_options(action.choices[name])]
    return "\n".join(lines)


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=76)
    yield f"{escape(parser.description or '')}\n"
    yield f"```\n{parser.format_usage().strip()}\n```\n"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"```{{program}} {parser.prog}\n```\n"
    formatter = argparse.HelpFormatter(parser.prog)
    hidden = argparse._HelpAction | argparse._SubParsersAction
    for action in parser._actions:
        if not isinstance(action, hidden):
            text = sentence(escape(formatter._expand_help(action)))
            yield f"```{{option}} {', '.join(_spellings(action))}\n{text}\n```\n"


def _spellings(action: argparse.Action) -> list[str]:
    """Write an argument as in the help: ``--copy NAME FILE``, ``RECIPE``."""
    metavar = action.metavar or (
        "" if action.choices is None else f"{{{','.join(action.choices)}}}"
    )
    values = " ".join(metavar) if isinstance(metavar, tuple) else metavar or action.dest.upper()
    if not action.option_strings:
        return [values]
    return [name if action.nargs == 0 else f"{name} {values}" for name in action.option_strings]


def recipes() -> str:
    """Show every installed recipe, with the lines of its header as a list."""
    lines = []
    titles = {kind: kind.capitalize() for kind in RECIPE_KINDS.values()}
    for kind, title in (titles | {"slurm": "SLURM profiles"}).items():
        lines.append(f"\n## {title}")
        for name, path in list_recipes(kind).items():
            text = path.read_text(encoding="utf-8")
            head = re.match(r"(?:# .*\n)*", text)
            assert head is not None, path
            header = re.sub(r" {2,}cost:", "\ncost:", head[0])
            rows = [line.lstrip("# ").partition(":") for line in header.splitlines()]
            lines += [f"\n(recipe-{kind}-{name})=\n### {name}\n"]
            lines += [f"- **{word}**: {escape(rest.strip())}" for word, _, rest in rows]
            lines += ["", "```yaml", text[head.end() :].rstrip(), "```"]
    return "\n".join(lines)


def errors() -> str:
    """Describe every exit code, and the error class behind it."""
    lines = []
    for kind in dinoforge.errors.DinoforgeError.__subclasses__():
        if kind.__module__ != "dinoforge.errors":
            continue  # of a stage, with the code of its parent
        name = kind.__name__
        lines.append(f"\n(error-{name})=\n## Exit code {kind.exit_code}\n")
        lines += _python("exception", f"dinoforge.errors.{name}", kind.__doc__)
    return "\n".join(lines)


def functions() -> str:
    """Describe the public functions and classes of every module by their first sentences."""
    lines: list[str] = []
    for path in _modules():
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        module = ".".join(parts if parts[0] == "dinoforge" else ("dinoforge", *parts))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(_public(tree))
        if nodes:
            lines.append(f"\n### {module}\n\n{summary(ast.get_docstring(tree))}\n")
        for node in nodes:
            docstring = ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                lines += _python("class", f"{module}.{node.name}", docstring)
            else:
                lines += _python("function", f"{module}.{node.name}{_arguments(node)}", docstring)
    return "\n".join(lines)


def _python(kind: str, signature: str, docstring: str | None) -> list[str]:
    return [f"```{{py:{kind}}} {signature}", summary(docstring), "```", ""]


def _arguments(node: ast.FunctionDef) -> str:
    """Names of the arguments, without types and defaults."""
    given = node.args
    names = [one.arg for one in (*given.posonlyargs, *given.args)]
    names += [f"*{given.vararg.arg}"] if given.vararg else ["*"] * bool(given.kwonlyargs)
    names += [one.arg for one in given.kwonlyargs]
    names += [f"**{given.kwarg.arg}"] if given.kwarg else []
    return f"({', '.join(names)})"


def _modules() -> list[Path]:
    rooms = ("dinoforge", "curation", "training", "evaluation")
    # The rooms are linked into `dinoforge/`; `rglob` does not follow links. Errors have a page.
    paths = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in paths if path != ROOT / "dinoforge/errors.py"]


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    listed: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed |= set(ast.literal_eval(node.value))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in listed:
            yield node


# What a page asks for by a line `<!-- generated: NAME -->`.
TEXTS: dict[str, Callable[[], str]] = {
    **{kind: functools.partial(keys, kind) for kind in KEYS},
    "commands": commands,
    "recipes": recipes,
    "errors": errors,
    "functions": functions,
}
