"""Errors a user can cause, and the near-match hint that goes with a wrong name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: its text is one sentence, shown without a traceback.

    The sentence names the file or option, what was found, what was expected and, for a wrong
    name, the nearest right one.
    """

    code = 2  # of the process that ends with it


class RunError(UserError):
    """A run that broke in its algorithm's own code, or ran out of memory: trying it again the same
    way ends the same way, and a grid records it as failed.
    """

    code = 3


class BusyError(UserError):
    """Another process holds what is needed; trying again later may go well."""

    code = 75  # EX_TEMPFAIL of sysexits.h


def unknown_name(kind: str, name: str, choices: Iterable[str], hint: str = "") -> UserError:
    """Error for a name that is not in `choices`, with the nearest valid one:
    `unknown_name("algorithm", "bd", names)`.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        advice = f"did you mean {near[0]!r}?"
    else:
        shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        advice = f"known names: {shown or 'none'}."
    return UserError(f"unknown {kind} {name!r}; {advice}{' ' + hint if hint else ''}")
