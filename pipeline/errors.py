"""The one exception for people: bad input, told in one sentence."""


class UserError(Exception):
    """Something the user can mend: the message names the file, key or option, what was found and what is allowed."""
