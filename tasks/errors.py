"""Errors that a user can mend: shown as one line each, without a traceback."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """Something a user can mend; the message names file or key, rule, value and the way out.

    Several problems are several lines, one each.
    """


def describe_os_error(error: OSError) -> str | None:
    """Describe what the system refused, by file and reason, in one line; None if it names neither.

    Examples
    --------
    >>> describe_os_error(PermissionError(13, "Permission denied", "data/cues.zarr"))
    '`data/cues.zarr`: Permission denied'
    >>> describe_os_error(OSError(28, "No space left on device"))
    'the disk is full: free some space, then the same command continues where it stopped'
    """
    if error.errno in _FULL:
        where = f" (`{error.filename}`)" if error.filename else ""
        return f"the disk is full{where}: free some space, then the same command continues where it stopped"
    return f"`{error.filename}`: {error.strerror or error}" if error.filename else None
