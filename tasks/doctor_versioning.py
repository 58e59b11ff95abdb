"""git and DVC, by their files and by git's own command; DVC is not imported."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.doctor import Finding, Patient

_SECONDS = 10.0
_LINKS = ("hardlink", "reflink")


def check_git(patient: Patient) -> Iterator[Finding]:
    """Check git, the repository, and who commits."""
    if shutil.which("git", path=patient.environ.get("PATH")) is None:
        text = "not found: runs are not kept, and the Prefect UI starts none"
        yield Finding("git", "warning", text, "apt-get install git, or what your system has for it")
        return
    status, said = _ask_git(patient, "rev-parse", "--show-toplevel")
    if status and "dubious ownership" in said:
        remedy = f"git config --global --add safe.directory '{patient.root}'"
        yield Finding("git", "problem", "refuses this folder: another user owns it", remedy)
    elif status:
        text = "this folder is in no repository: only the last run is kept"
        yield Finding("git", "warning", text, "git init && git add -A && git commit -m start")
    else:
        _, version = _ask_git(patient, "--version")
        number = re.search(r"\d[\d.]*\d", version)
        text = f"{number[0] if number else version}, repository {said.splitlines()[0]}"
        without, commit = _ask_git(patient, "describe", "--always", "--dirty=, changed since")
        yield Finding("git", "ok", text + (", no commit yet" if without else f" at {commit}"))
        unknown, _ = _ask_git(patient, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
        if unknown:
            remedy = "git config --global user.name NAME; git config --global user.email ADDRESS"
            yield Finding("git", "warning", "does not know who you are: it may refuse to commit", remedy)


def _ask_git(patient: Patient, *arguments: str) -> tuple[int, str]:
    environment = {**patient.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=patient.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, "no answer"
    return done.returncode, (done.stdout + done.stderr).strip()


def check_dvc(patient: Patient) -> Iterator[Finding]:
    """Check DVC's project, its cache, and how files come out of the cache."""
    from tasks.doctor_programs import may_write

    if not (patient.root / "dvc.yaml").exists():
        remedy = "go to the project's folder, or name it with --root"
        yield Finding("DVC", "problem", f"`{patient.root}` has no dvc.yaml", remedy)
        return
    if not (patient.root / ".dvc").is_dir():
        yield Finding(
            "DVC", "problem", "no .dvc here: the clone is not whole", "git checkout -- .dvc, or dvc init"
        )
        return
    cache = locate_cache(patient)
    if not may_write(cache):
        remedy = "chown it, or name another: dvc cache dir --local PATH"
        yield Finding("DVC", "problem", f"the cache {patient.show(cache)} may not be written", remedy)
        return
    kinds = [kind.strip() for kind in read_config(patient).get("cache.type", "reflink,copy").split(",")]
    apart = _find_device(cache) != _find_device(patient.root)
    text = f"cache {patient.show(cache)}, files come out by {', '.join(kinds)}"
    if apart and set(kinds) & set(_LINKS) and "copy" not in kinds and "symlink" not in kinds:
        remedy = "dvc config --local cache.type copy, or a cache on the disk of the workspace"
        yield Finding("DVC", "problem", f"{text}, which does not reach another disk", remedy)
    else:
        yield Finding("DVC", "ok", text + (" (on another disk: copied)" if apart else ""))


def read_config(patient: Patient) -> dict[str, str]:
    """Read DVC's settings from its files: of the system's user, of the project, and of this clone."""
    home = Path(patient.environ.get("XDG_CONFIG_HOME") or Path(patient.environ.get("HOME", "/")) / ".config")
    found: dict[str, str] = {}
    for place in (home / "dvc" / "config", *(patient.root / ".dvc" / n for n in ("config", "config.local"))):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(_strip_lines(place.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        for section in parser.sections():
            found |= {f"{section}.{key}": value for key, value in parser[section].items()}
            if section == "cache" and "dir" in parser[section]:
                found["cache.dir"] = str(place.parent / parser[section]["dir"])  # relative to its own file
    return found


def _strip_lines(text: str) -> str:
    """Take the indentation away, which to configparser would mean that a line goes on."""
    return "\n".join(line.strip() for line in text.splitlines())


def locate_cache(patient: Patient) -> Path:
    """Locate DVC's cache."""
    named = read_config(patient).get("cache.dir")
    return Path(named) if named else patient.root / ".dvc" / "cache"


def _find_device(place: Path) -> int:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.stat().st_dev


def check_path(patient: Patient) -> Iterator[Finding]:
    """Check that the `python` that ``dvc repro`` starts stages with is this one."""
    found = shutil.which("python", path=patient.environ.get("PATH"))
    here = Path(sys.executable).parent
    if found is not None and Path(found).parent.resolve() == here.resolve():
        yield Finding("PATH", "ok", f"`python` is {found}")
        return
    text = f"`python` is {found}, not that of {here}" if found else "there is no `python`"
    remedy = f"source '{here / 'activate'}'"
    if not os.access(here / "activate", os.R_OK):
        remedy = f'export PATH="{here}:$PATH"'
    text += ": a bare `dvc repro` would start stages with it; `dsrg run` does not mind"
    yield Finding("PATH", "warning", text, remedy)
