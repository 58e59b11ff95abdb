"""Errors that a user can mend: shown as one line each, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something a user can mend; the message names file or key, rule, value and the way out.

    Several problems are several lines, one each.
    """


def describe_os_error(error: OSError) -> str:
    """Describe what the system refused, by file and reason, in one line.

    Examples
    --------
    >>> describe_os_error(PermissionError(13, "Permission denied", "data/cues.zarr"))
    '`data/cues.zarr`: Permission denied'
    """
    reason = error.strerror or str(error)
    return f"`{error.filename}`: {reason}" if error.filename else reason
