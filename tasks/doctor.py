"""What this machine lacks: Python, packages, GPU, disk, rights, servers; each with its remedy.

Nothing is made, started or changed, and nothing that might be broken is imported here: torch, numba and
pydensecrf are tried in processes of their own, DVC, Prefect and MLflow are asked by their files and over
HTTP. A check that fails itself is a finding as well. Where `dsrg` itself does not start, because typer,
rich or pydantic are the broken part, ``python -m tasks.doctor`` does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import UserError

if TYPE_CHECKING:
    from tasks.params import Params

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    about : str
        What was looked at: one or two words.
    state : {'ok', 'warning', 'problem'}
        A warning is worth knowing; a problem keeps something from working.
    text : str
        What is so.
    remedy : str
        What to do; empty where all is well.
    """

    about: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Patient:
    """What is looked at.

    Attributes
    ----------
    root : Path
        The workspace.
    params : Params or None
        Of its ``params.yaml``, None where that cannot be read.
    environ : mapping
        The environment.
    """

    root: Path
    params: Params | None = None
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def show(self, place: Path) -> Path:
        """Shorten a path within the workspace, for people."""
        return place.relative_to(self.root) if place.is_relative_to(self.root) else place


Check = Callable[[Patient], Iterable[Finding]]


def examine(root: Path) -> Iterator[Finding]:
    """Examine a machine and a workspace; findings come as they are made.

    Parameters
    ----------
    root : Path
        The workspace; need not be one.
    """
    from tasks.doctor_packages import check_packages, check_python, check_weights
    from tasks.doctor_places import (
        check_disk,
        check_locks,
        check_machine,
        check_permissions,
        check_source,
        check_stores,
    )
    from tasks.doctor_programs import check_programs, start_programs
    from tasks.doctor_servers import check_mlflow, check_ports, check_prefect
    from tasks.doctor_versioning import check_dvc, check_git, check_path

    programs = start_programs()  # take seconds: they run while everything else is looked at
    try:
        params, findings = read_params_anyhow(root)
        patient = Patient(root.resolve(), params)
        checks: tuple[tuple[str, Check], ...] = (
            ("Python", check_python),
            ("packages", check_packages),
            ("programs", lambda patient: check_programs(patient, programs)),
            ("weights", check_weights),
        )
        for name, check in checks:
            yield from guard(name, check, patient)
        yield from findings
        checks = (
            ("source", check_source),
            ("stores", check_stores),
            ("lock", check_locks),
            ("permissions", check_permissions),
            ("disk", check_disk),
            ("machine", check_machine),
            ("git", check_git),
            ("DVC", check_dvc),
            ("PATH", check_path),
            ("Prefect", check_prefect),
            ("MLflow", check_mlflow),
            ("ports", check_ports),
        )
        for name, check in checks:
            yield from guard(name, check, patient)
    finally:
        for program in programs.values():
            program.kill()


def guard(name: str, check: Check, patient: Patient) -> Iterator[Finding]:
    """Run a check; its own failure is a finding."""
    try:
        yield from check(patient)
    except Exception as error:  # noqa: BLE001 - on a broken machine anything may be raised anywhere
        yield Finding(name, "problem", f"could not be looked at: {shorten(error)}", "mend what stands there")


def read_params_anyhow(root: Path) -> tuple[Params | None, list[Finding]]:
    """Read ``params.yaml`` if it can be, and tell what is wrong with it."""
    about = "params.yaml"
    if not (root / about).exists():
        text = f"`{root.resolve()}` holds none: no project"
        return None, [Finding(about, "problem", text, "go to the project's folder, or name it with --root")]
    try:
        from tasks.params import read_params

        params = read_params(root / about)
    except UserError as error:
        lines = [line.removeprefix(f"{about}: ") for line in str(error).splitlines()]
        return None, [Finding(about, "problem", line, "correct that line") for line in lines]
    except Exception as error:  # noqa: BLE001 - pydantic or ruamel.yaml may be the broken part
        return None, [Finding(about, "problem", f"could not be read: {shorten(error)}", "see packages above")]
    text = f"{params.source.name}, {params.backbone.name}, rounds {', '.join(params.rounds)}"
    return params, [Finding(about, "ok", text)]


def shorten(error: BaseException) -> str:
    """Shorten an error to one line that names its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def count_states(findings: Iterable[Finding]) -> dict[str, int]:
    """Count the findings of each state."""
    counts = {"ok": 0, "warning": 0, "problem": 0}
    for finding in findings:
        counts[finding.state] += 1
    return counts


def sum_up(findings: Iterable[Finding]) -> str:
    """Sum findings up in a few words.

    Examples
    --------
    >>> sum_up([Finding("disk", "warning", "nearly full", "free some")])
    'no problem, 1 warning'
    """
    counts = count_states(findings)
    words = [f"{counts[s] or 'no'} {s}{'s' if counts[s] > 1 else ''}" for s in ("problem", "warning")]
    return ", ".join(words)


def to_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Collect findings for JSON."""
    listed = list(findings)
    return {"findings": [asdict(finding) for finding in listed], "counts": count_states(listed)}


def main() -> int:
    """Examine the current folder and print the findings with nothing but the standard library."""
    findings = []
    for finding in examine(Path()):
        findings.append(finding)
        remedy = f"\n{'':21} -> {finding.remedy}" if finding.remedy else ""
        sys.stdout.write(f"{finding.state:8} {finding.about:12} {finding.text}{remedy}\n")
    return 1 if count_states(findings)["problem"] else 0


if __name__ == "__main__":
    sys.exit(main())
