"""A comparison as Markdown (tables of GitHub) and LaTeX (booktabs)."""

import re
from collections.abc import Sequence

from dinoforge.evaluation.compare.comparison import Comparison
from dinoforge.evaluation.compare.texts import TextCell, TextTable, legend, text_tables

__all__ = ["as_latex", "as_markdown"]

_MOST_COLUMNS = 6  # of benchmarks beside each other; more are rows


def as_markdown(comparison: Comparison) -> str:
    """Return the tables, what the marks mean, and the notes."""
    parts = [
        f"**{_markdown(table.title)}**\n\n{_markdown_table(_readable(table))}"
        for table in text_tables(comparison)
    ]
    lines = [*legend(comparison), *comparison.notes]
    return "\n\n".join([*parts, "\n".join(f"- {_markdown(line)}" for line in lines)]) + "\n"


def _markdown_table(table: TextTable) -> str:
    """Return one table with a line per row."""
    header = ["", *map(_markdown, table.columns)]
    lines = [header, ["---", *["---:"] * len(table.columns)]]
    for name, cells in zip(table.rows, table.body, strict=True):
        lines.append([_markdown(name), *map(_markdown_cell, cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _readable(table: TextTable) -> TextTable:
    return table if len(table.columns) <= _MOST_COLUMNS else table.turned()


def _markdown_cell(cell: TextCell) -> str:
    value = f"**{cell.value}**" if cell.is_bold else cell.value
    return "<br>".join(filter(None, [value, cell.interval, _markdown(cell.more)]))


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~#&$])", r"\\\1", text)


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "↓": r"$\downarrow$",
    "–": "--",
}


def as_latex(comparison: Comparison) -> str:
    """Return one table environment for the scores and one for the differences.

    Tables wider than the text are scaled to it. The caption states numbers of images, intervals
    and correction; notes are comments.
    """
    marks = "; ".join(legend(comparison))
    tables = [_latex_table(_readable(table), marks) for table in text_tables(comparison)]
    other = {c for text in tables for c in text if ord(c) > 0x17F}  # pdfLaTeX has no glyphs
    lines = [
        r"\documentclass{article}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
        *comparison.notes,
        *([f"compile with lualatex and a font that has {' '.join(sorted(other))}"] * bool(other)),
    ]
    return "\n".join([*(f"% {line}" for line in lines), *tables, r"% \end{document}"]) + "\n"


def _latex_table(table: TextTable, marks: str) -> str:
    lines = [
        "\\begin{table}",
        f"\\caption{{{_latex(f'{table.title}; {marks}.')}}}",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_row(["", *map(_latex, table.columns)]),
        "\\midrule",
    ]
    for name, cells in zip(table.rows, table.body, strict=True):
        first = "{}" * name.startswith(("[", "*"))  # else an argument of the \\ before it
        lines.append(_latex_row([first + _latex(name), *map(_latex_cell, cells)]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}}", "\\end{table}"])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: TextCell) -> str:
    value, *more = (
        re.sub(r"-(?=\d)", "$-$", _latex(text)) for text in (cell.value, cell.interval, cell.more)
    )
    value = f"\\textbf{{{value}}}" if cell.is_bold else value
    return " ".join([value, *(f"{{\\scriptsize {text}}}" for text in more if text)])


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
