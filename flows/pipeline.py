"""The method, top to bottom, as one Prefect flow.

Every line is a stage of ``dvc.yaml``. DVC knows what is done; Prefect shows, limits and retries. Each
task asks DVC whether its stage is up to date and otherwise has DVC run it, so that what one of the
two made, the other never makes again. No array passes through here.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, runtime
from prefect.client.schemas import State

from flows.stages import conclude, has_run, run_stage
from tasks.params import check_source, read_params


def chain_stages(root: str) -> dict[str, State]:
    """Run every stage after those it reads from; return how each ended.

    Parameters
    ----------
    root : str
        Folder with ``params.yaml`` and ``dvc.yaml``.
    """
    params = read_params(Path(root) / "params.yaml")
    check_source(params, Path(root))
    states: dict[str, State] = {}

    def run(stage: str, *after: State) -> State:
        expect_work = any(map(has_run, after))
        states[stage] = run_stage(
            stage, root=root, expect_work=expect_work, wait_for=after, return_state=True
        )
        return states[stage]

    # pictures and their image-level labels -> trusted pixels
    ingest = run("ingest")
    classify = run("classify", ingest)
    cams = run("cams", ingest, classify)
    cues = run("cues", ingest, cams)

    # rounds: train on the labels so far, grow the cues by what was learnt, refine into new labels
    labels, weights = cues, classify
    scores: list[State] = []
    for r in params.round_keys:
        train = run(f"train@{r}", ingest, labels, weights)
        relabel = run(f"relabel@{r}", ingest, cues, train)
        refine = run(f"refine@{r}", ingest, relabel)
        evaluate = run(f"evaluate@{r}", ingest, cams, cues, train, relabel, refine)
        labels, weights = refine, train
        scores += [train, evaluate]

    # what the numbers are compared with: no training at all, and training on the true masks
    baseline = run("baseline", ingest, cams, cues)
    reference = run("reference", ingest, classify)
    run("report", ingest, classify, cues, *scores, baseline, reference)
    return states


def name_run() -> str:
    """Name a run after its data and rounds: ``butterfly10-r2``."""
    params = read_params(Path(runtime.flow_run.parameters["root"]) / "params.yaml")
    return f"{params.source.name}-r{len(params.rounds)}"


@flow(name="dsrg", flow_run_name=name_run, validate_parameters=True)
def run_pipeline(root: str = ".") -> State:
    """Pictures with image-level labels in; pseudo-labels of every round and a segmenter out.

    Parameters
    ----------
    root : str
        Folder with ``params.yaml`` and ``dvc.yaml``, as an absolute path or relative to the current one.
    """
    return conclude(Path(root), chain_stages(root))
