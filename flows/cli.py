"""The ``dsrg`` command: its groups of commands, and how errors end it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from flows.commands import check, doctor, download, export, labels, pipeline, predict, report, serve, stores
from flows.commands.options import list_examples, open_group
from tasks import console
from tasks.errors import UserError, describe_os_error

EXAMPLES = list_examples(
    ("dsrg run", "what params.yaml says; the first time, drawn pictures"),
    ("dsrg check ~/birds", "your own pictures: what is wrong with them, what would be made of them"),
    ("dsrg run ~/birds", "run on them"),
    ("dsrg run --rounds 3 --set train.lr=0.01", ""),
    ("dsrg stages", "what is up to date, what would run"),
    ("dsrg table", "the numbers of the last run"),
    ("dsrg report --open", "all of it as one page"),
    ("dsrg labels restore birds-r2", "the pseudo-labels of an earlier run"),
)
EXIT_STATUS = """
Exit status: 0 done; 1 a check found something wrong (check, doctor), or a bug, with a traceback; 2 wrong
usage, params or data, one line for each on stderr; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

app = open_group(
    no_args_is_help=True,
    help="Pixel labels and a segmenter from image-level labels.",
    epilog=EXAMPLES + "\n" + EXIT_STATUS,
)
for group in (check, pipeline, report, predict, export, download, serve, labels, stores, doctor):
    app.add_typer(group.app)


def guard(command: Callable[[], Any]) -> int:
    """Call `command`; show an error that a user can mend in one line; return the exit status."""
    try:
        command()
    except UserError as error:
        console.fail(str(error))
        return 2
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        console.fail(message)
        return 2
    except Exception as error:
        if type(error).__module__ != "dsrg.places":  # an object store that refuses
            raise
        console.fail(str(error))
        return 2
    return 0


def main() -> None:
    """Run the command line."""
    sys.exit(guard(lambda: app(prog_name="dsrg")))


if __name__ == "__main__":
    main()
