"""An API key as people paste it."""

import unicodedata


def clean_key(key: str, source: str) -> str | None:
    """Returns a key without the invisible characters that copying leaves at its ends; None for an empty one.

    Args:
        key: as it was given.
        source: where, for the message.

    Raises:
        ValueError: other characters than visible ASCII are left, which no key has; the message names them and not the key.
    """
    invisible = ("Cc", "Cf", "Zs", "Zl", "Zp")
    places = [
        place for place, char in enumerate(key) if unicodedata.category(char) not in invisible
    ]
    key = key[places[0] : places[-1] + 1] if places else ""
    for place, char in enumerate(key):
        if not "!" <= char <= "~" or char in "\"'`":
            name = unicodedata.name(char, "a control character")
            raise ValueError(
                f"decode: the key in {source} holds {name} (U+{ord(char):04X}) as character {place + 1} of {len(key)}; a key is visible "
                "ASCII without quotes. Copy it anew."
            )
    return key or None
