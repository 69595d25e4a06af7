"""Which classes of two bird datasets are one species, by their English names."""

import re
import unicodedata

# CUB's short, old or misspelt names and those of the checklists that NABirds follows; the name of a genus stands for
# all its species there
_ALSO = {
    "Artic Tern": ("Arctic Tern",),
    "Cardinal": ("Northern Cardinal",),
    "Florida Jay": ("Florida Scrub-Jay",),
    "Frigatebird": ("Magnificent Frigatebird",),
    "Geococcyx": ("Greater Roadrunner",),
    "Great Grey Shrike": ("Northern Shrike",),  # one species until 2017
    "Mockingbird": ("Northern Mockingbird",),
    "Myrtle Warbler": ("Yellow-rumped Warbler",),
    "Nelson Sharp-tailed Sparrow": ("Nelson's Sparrow",),
    "Nighthawk": ("Common Nighthawk", "Lesser Nighthawk"),
    "Tree Sparrow": ("American Tree Sparrow",),  # what CUB's images show
    "Sayornis": ("Black Phoebe", "Eastern Phoebe", "Say's Phoebe"),
    "Whip-poor-will": ("Eastern Whip-poor-will",),
    "White Pelican": ("American White Pelican",),
}


def shared(classes: list[str], others: list[str]) -> list[str]:
    """Which of the `classes` are a species that `others` also have, in their order.

    Names match whatever their case, hyphens, underscores, spaces, apostrophes, final s of a word, and spelling of grey;
    numbers before a name (`001.`) and notes in parentheses (`(Female/immature)`) do not count. Classes without a name,
    such as `0297`, match none.
    """
    species: set[str] = set().union(*map(_species, others))
    return [name for name in classes if species & _species(name)]


def _species(name: str) -> set[str]:
    """The species that a class's name may mean, as bare letters."""
    bare = _bare(name)
    return {bare, *_KNOWN.get(bare, ())} - {""}


def _bare(name: str) -> str:
    name = re.sub(r"\([^)]*\)?", " ", name)
    name = unicodedata.normalize("NFKD", name).casefold().replace("grey", "gray")
    return "".join(word.rstrip("s") for word in re.findall("[a-z]+", name))


_KNOWN = {_bare(short): tuple(map(_bare, names)) for short, names in _ALSO.items()}
