"""How many files a process may have open: every connection is one, and a machine's default of 1,024 is soon reached."""

import resource
from typing import Final

FILES_MAX: Final = 1_048_576
"""Linux's own bound for one process (fs.nr_open); where nothing else bounds it, more cannot be asked for."""


def raise_limit() -> None:
    """Takes what the machine's owner allows: the hard limit, which the soft one stays below for old programs only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
