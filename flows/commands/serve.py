"""``dsrg serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Root, list_examples, open_group

app = open_group()


@app.command(
    epilog=list_examples(
        ("dsrg serve", "then http://127.0.0.1:4200/deployments"),
        ("dsrg serve --limit 2", "two runs at once"),
        ("dsrg serve --work-pool gpu", "for workers elsewhere"),
    )
)
def serve(
    limit: Annotated[int, typer.Option(min=1, help="Runs that go at once; others wait in line.")] = 1,
    port: Annotated[int, typer.Option(help="Where Prefect's server is started if none is found.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="The same for MLflow's.")] = 5000,
    work_pool: Annotated[
        str | None, typer.Option(help="Only register, for workers of this work pool, and return.")
    ] = None,
    root: Root = Path(),
) -> None:
    """Open the Prefect UI and run what is started there."""
    from flows.serve import serve as serve_project

    serve_project(root, limit=limit, port=port, mlflow_port=mlflow_port, work_pool=work_pool)
