"""The unlearned model on the Hugging Face hub: private unless asked otherwise, and nothing of the run beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from rkld.errors import UserError
from rkld.models.checks import first_line
from rkld.models.loading import resolve
from rkld.progress import NoProgress
from rkld.runfolder.lock import MODEL
from rkld.settings.unlearning import Settings

LOGIN = "Log in with 'hf auth login', or set HF_TOKEN to a token that may write"


def check_publishing(settings: Settings) -> None:
    """Refuse, before time is spent, what could not be pushed in the end. Nothing is made on the hub.

    Raises:
        UserError: no name of a repository; nobody is logged in, or by a token that may only read; the repository is
            public where a private one is asked for; an adapter whose base nobody else can load.
    """
    repo = settings.push_to_hub
    if repo is None:
        return
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push-to-hub {repo} is no name of a repository: {first_line(error)}.") from None
    if settings.lora and not settings.merge and Path(resolve(settings.model)).is_dir():
        raise UserError(
            "--push-to-hub with --lora: the adapter's base is a folder here, which nobody else can load. Give the base "
            "by its name on the hub, or --merge to push the whole model."
        )
    api = HfApi()
    try:
        user = api.whoami()
    except Exception as error:  # the hub's client raises its HTTP library's errors besides its own
        raise UserError(f"--push-to-hub: the hub does not know you: {first_line(error)}. {LOGIN}.") from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"--push-to-hub: your token of the hub may only read. {LOGIN}.")
    _check_private(api, repo, settings.hub_private)


def _check_private(api: HfApi, repo: str, private: bool) -> None:
    """Refuse a public repository where a private one is asked for; one that is not there yet will be private."""
    try:
        found = api.repo_info(repo, repo_type="model")
    except RepositoryNotFoundError:
        return
    except Exception as error:
        raise UserError(f"--push-to-hub {repo}: the hub cannot be asked: {first_line(error)}.") from None
    if private and found.private is False:
        raise UserError(
            f"--push-to-hub {repo}: this repository is public. Make it private, name another, or allow it with "
            "--no-hub-private."
        )


def publish(folder: Path, settings: Settings, progress: NoProgress) -> Mapping[str, Any]:
    """Push the model folder of a run, with its card, and nothing else. Returns what there is to note of it.

    Pushing the same model again changes nothing.

    Raises:
        UserError: the hub refuses; the model is where it was.
    """
    repo, model = settings.push_to_hub, folder / MODEL
    assert repo is not None
    api = HfApi()
    progress.say(f"Pushing {model} to {repo}{' (private)' if settings.hub_private else ''}")
    try:
        made = api.create_repo(repo, repo_type="model", private=settings.hub_private, exist_ok=True)
        _check_private(api, made.repo_id, settings.hub_private)
        commit = api.upload_folder(
            repo_id=made.repo_id, folder_path=str(model), repo_type="model", commit_message="Unlearned with rkld"
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The model is in {model}, but could not be pushed to {repo}: {first_line(error)}. The same command again "
            "tries that alone."
        ) from None
    return {"repository": made.repo_id, "private": settings.hub_private, "commit": commit.oid}
