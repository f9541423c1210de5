"""Who runs a command, for the histories."""

import getpass
import os


def operator() -> str:
    """Return the name of the user; in a container there may be none for the number that it runs under."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
