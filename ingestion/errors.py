"""Errors that a person has to act on."""

from __future__ import annotations


class UserError(Exception):
    """A mistake or fault that the user can mend.

    The message says what happened, to which stream, file or row, and what to do next. Entry points print it as one line
    and exit with status 1; nothing prints a traceback for it.
    """
