"""``dsrg serve`` and ``dsrg serve-model``."""

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


@app.command(
    "serve-model",
    epilog=list_examples(
        ("dsrg serve-model models:/birds@champion", "the best that MLflow knows, on port 5001"),
        ("dsrg serve-model birds --port 8000", "a folder with MLmodel"),
    )
    + "\n\nRequests and answers are those of `mlflow models serve`: docs/mlflow.md.",
)
def serve_model(
    model: Annotated[
        str, typer.Argument(help="models:/NAME@champion, runs:/RUN/segmenter, or a folder with MLmodel.")
    ],
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets other machines in, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5001,
    max_megabytes: Annotated[
        float, typer.Option(min=0.001, help="Requests with larger bodies are refused.")
    ] = 32.0,
    at_once: Annotated[int, typer.Option(min=1, help="Requests at a time; others wait in line.")] = 1,
    root: Root = Path(),
) -> None:
    """Answer pictures with masks over HTTP."""
    from tasks.tracking_server import serve_model as serve

    serve(model, root, host=host, port=port, max_megabytes=max_megabytes, at_once=at_once)
