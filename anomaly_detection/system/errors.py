"""What a user can mend, told in one line."""


class UserError(Exception):
    """A mistake in the input: a setting, a path, an image.

    The message is one line that says what is wrong, where, and how to mend it. The command line prints it and exits with code 2.
    """
