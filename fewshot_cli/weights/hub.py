"""Weights from the Hugging Face hub, kept in its own cache: `OWNER/NAME[@REVISION][:FILE]`."""

import re
from contextlib import suppress
from pathlib import Path

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^:]+))?")
_USUAL = ("model.safetensors", "weights.safetensors", "pytorch_model.bin")


def fetch(text: str) -> tuple[Path, str]:
    """The cached file of weights on the hub, and `hf:OWNER/NAME@COMMIT:FILE`, which names the same file for ever.

    Without a file, it is one of the usual names, or the only safetensors file there. A sidecar beside it is fetched
    too. Raises `DataError` for a name of another form, a missing package, and whatever the hub refuses.
    """
    name = _NAME.fullmatch(text)
    if name is None:
        raise DataError(f"hf:{text}: write it as hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME:FILE")
    repo, revision = name["repo"], name["revision"]
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as cause:
        raise DataError(
            f"hf:{text}: needs the package huggingface_hub; pip install 'fewshot-cli[hub]' (in a checkout: pip install "
            "'.[hub]')"
        ) from cause
    try:
        file = name["file"] or _only(repo, revision)
        path = Path(hf_hub_download(repo, file, revision=revision))
        commit = path.parts[-1 - len(Path(file).parts)]  # the cache keeps a folder for each commit
        with suppress(errors.EntryNotFoundError):
            hf_hub_download(repo, f"{file}.json", revision=commit)
    except errors.LocalEntryNotFoundError as cause:
        raise DataError(f"hf:{text}: {_UNREACHED}") from cause
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as cause:
        raise DataError(f"hf:{text}: {_reason(cause, repo, revision, name['file'])}") from cause
    source = f"hf:{repo}@{commit}:{file}"
    say(f"weights: {source}")
    return path, source


_UNREACHED = "the hub cannot be reached and its cache does not hold this file; get online, or give a file"


def _only(repo: str, revision: str | None) -> str:
    """The file of weights in a repository that names none."""
    from huggingface_hub import list_repo_files

    files = list_repo_files(repo, revision=revision)
    tensors = [file for file in files if file.endswith(".safetensors")]
    if usual := next((file for file in _USUAL if file in files), None):
        return usual
    if len(tensors) == 1:
        return tensors[0]
    some = f"several files of weights ({', '.join(tensors[:5])})" if tensors else "no .safetensors file"
    raise DataError(f"hf:{repo}: holds {some}; name one, as in hf:{repo}:FILE")


def _reason(cause: Exception, repo: str, revision: str | None, file: str | None) -> str:
    """What the hub's refusal means, and what to do."""
    from huggingface_hub import errors

    if isinstance(cause, errors.GatedRepoError):
        return f"{repo} asks for its terms to be accepted; do so on its page, then `hf auth login`"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"the hub has no {repo}, or it is private; check the name, or `hf auth login`"
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision}; leave it out for the newest"
    if isinstance(cause, errors.EntryNotFoundError):
        return f"{repo} has no file {file}; see its list of files on the hub"
    if isinstance(cause, errors.HFValidationError):
        return f"{str(cause).partition(chr(10))[0]}; write it as hf:OWNER/NAME"
    return _UNREACHED
