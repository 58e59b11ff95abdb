"""``dsrg doctor``."""

from __future__ import annotations

from pathlib import Path

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group()


@app.command(
    epilog=list_examples(("dsrg doctor", ""), ("dsrg doctor --json", "for scripts"))
    + "\n\nExit status: 0 no problem, warnings or not; 1 problems. Nothing is made, started or changed."
)
def doctor(json: Json = False, root: Root = Path()) -> None:
    """Check Python, packages, GPU, disk, rights, git, DVC, Prefect and MLflow; each fault with its remedy."""
    from tasks.doctor import count_states, examine, sum_up, to_json

    findings = []
    for finding in examine(root):
        findings.append(finding)
        if not json:
            console.print_finding(finding.state, finding.about, finding.text, finding.remedy)
    if json:
        console.print_json(to_json(findings))
    else:
        console.say(sum_up(findings))
    if count_states(findings)["problem"]:
        raise typer.Exit(1)
