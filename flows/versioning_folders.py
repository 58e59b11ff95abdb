"""DVC in a run's own folder: the project's cache, and what it holds of the run's results."""

from __future__ import annotations

import contextlib
from pathlib import Path

from flows.versioning import open_repo


def share_cache(project: Path, folder: Path) -> None:
    """Let a run's own `folder` use the DVC cache and the settings of `project`.

    Outputs are linked from the cache where the disk allows it, not copied: stages never write into an
    output in place.
    """
    with open_repo(project) as repo:
        cache = repo.cache.local_cache_dir
    local = project / ".dvc" / "config.local"
    target = folder / ".dvc" / "config.local"
    target.parent.mkdir(exist_ok=True)
    if local.exists():
        target.write_text(local.read_text(encoding="utf-8"), encoding="utf-8")
    from dvc.config import Config

    config = Config(str(target.parent), validate=False)
    with config.edit("local") as settings:
        settings.setdefault("cache", {}).update(dir=cache, type=["reflink", "hardlink", "copy"])


def find_cache(root: Path) -> Path:
    """Find the folder of a project's DVC cache."""
    with open_repo(root) as repo:
        return Path(repo.cache.local_cache_dir)


def restore_outputs(root: Path) -> None:
    """Bring back every output that ``dvc.lock`` names and the cache holds; leave out the rest."""
    from dvc.exceptions import CheckoutError

    with open_repo(root) as repo:
        known = [str(out.fs_path) for stage in repo.index.stages for out in stage.outs if out.hash_info]
        if known:
            with contextlib.suppress(CheckoutError):  # what the cache lacks is made anew
                repo.checkout(known, force=True, allow_missing=True)
