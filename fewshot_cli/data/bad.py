"""Images that cannot be used, one or all that a command has met."""

import re
from collections.abc import Sequence

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.shown import shown


class BadImage(DataError):
    """An image that cannot be used: its name, the reason, and what to do about it."""

    def __init__(self, name: str, reason: str, advice: str = "remove or replace it") -> None:
        super().__init__(f"{shown(name)}: {reason}; {advice}")
        self.name, self.reason, self.advice = name, reason, advice


class BadImages(DataError):
    """All the images of a command that cannot be used."""

    SHOWN = 20

    def __init__(self, found: Sequence[BadImage]) -> None:
        self.found = list({bad.name: bad for bad in found}.values())
        if len(self.found) == 1:
            text = f"{self.found[0]}, or leave it out with --skip-bad"
        else:
            named = "; ".join(f"{shown(bad.name)}: {bad.reason}" for bad in self.found[: self.SHOWN])
            more = f"; and {len(self.found) - self.SHOWN} more" if len(self.found) > self.SHOWN else ""
            advice = list(dict.fromkeys(re.sub(r"\bit\b", "them", bad.advice) for bad in self.found))[:2]
            text = f"{len(self.found)} images cannot be used: {named}{more}. {'; '.join(advice).capitalize()}"
            text += ", or leave them out with --skip-bad"
        super().__init__(text)
