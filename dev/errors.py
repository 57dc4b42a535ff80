"""What goes wrong in the local stack, told to the person who started it."""


class DevError(Exception):
    """The stack cannot do what was asked.

    The message is printed as it is, so it says what happened and what to do next.
    """
