"""What `fsl classify` ends with: how many images got each label and, where folders name the truth, how many rightly."""

from collections import Counter
from pathlib import PurePath
from typing import Any

from fewshot_cli.runtime.render import between

NONE = "none of these"
CONFUSIONS = 10  # that are listed, the most frequent first


def truth(result: dict[str, Any]) -> list[str] | None:
    """The class of each image by the folder that it lies in; None where one lies in a folder of another name."""
    folders = [PurePath(row["picture"]).parent.name for row in result["pictures"]]
    return folders if folders and set(folders) <= set(result["support"]) else None


def sentence(result: dict[str, Any]) -> str:
    """The result in words: how many images were labelled, and how many rightly where that is known."""
    from fewshot_cli.evaluation.stats import share_ends

    labels, right = [row["label"] for row in result["pictures"]], truth(result)
    images = f"{len(labels)} {'image' if len(labels) == 1 else 'images'}"
    if right is None:
        found = len({label for label in labels if label is not None})
        return f"{images}, {len(labels) - labels.count(None)} labelled with {found} of {len(result['support'])} classes"
    correct = sum(label == name for label, name in zip(labels, right, strict=True))
    share = between(100 * correct / len(labels), *share_ends(correct, len(labels)))
    return f"{images}, {correct} labelled like their folders: {share} %"


def told(result: dict[str, Any]) -> list[str]:
    """Notes at the end: the images of each label, and what was taken for what."""
    labels = [row["label"] or NONE for row in result["pictures"]]
    notes = [f"labels: {_counted(Counter(labels))}"]
    if (right := truth(result)) is not None:
        pairs = Counter((name, label) for name, label in zip(right, labels, strict=True) if name != label)
        of_class = Counter(right)
        correct = Counter(name for name, label in zip(right, labels, strict=True) if name == label)
        notes.append("right: " + ", ".join(f"{name} {correct[name]} of {of_class[name]}" for name in sorted(of_class)))
        if pairs:
            listed = [f"{name} taken for {label} {count}" for (name, label), count in pairs.most_common(CONFUSIONS)]
            more = f", and {len(pairs) - CONFUSIONS} more" if len(pairs) > CONFUSIONS else ""
            notes.append(f"confused: {', '.join(listed)}{more}")
    return ["\n".join(notes)]


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common())
