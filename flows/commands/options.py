"""What several commands share: options, and the look of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Root = Annotated[Path, typer.Option(help="Folder with params.yaml and dvc.yaml.", show_default="this one")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts, and nothing else on stdout.")]


def open_group(**settings: Any) -> typer.Typer:
    """Make a group of commands that looks and behaves as all of ``dsrg`` does."""
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown", **settings)


def list_examples(*examples: tuple[str, str]) -> str:
    """Format examples of use for the end of a command's help: command and what it does."""
    width = max(len(command) for command, _ in examples)
    lines = (f"    {command:{width}}   {what}".rstrip() for command, what in examples)
    return "Examples:\n\n" + "\n".join(lines)
