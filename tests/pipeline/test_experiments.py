"""Finished runs as DVC experiments, their labels, a remote; on a machine whose git knows nobody."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from toy_project import build_toy, change_params, run_dvc, take_bodies

from flows.cli import app, guard
from flows.params_file import edit_params
from flows.versioning import is_up_to_date, list_stages, prepare
from flows.versioning_labels import LabelledRun, list_labels, restore_labels
from flows.versioning_runs import save_experiment
from tasks.errors import UserError

pytestmark = pytest.mark.slow

LAST = "data/rounds/2/pseudo_labels.zarr/content.txt"


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(root: Path) -> None:
    git(root, "add", ".")
    git(root, "-c", "user.name=someone", "-c", "user.email=someone@example.org", "commit", "-qm", "start")


@pytest.fixture(autouse=True)
def nobody(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose git knows nobody."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    # what git would make up out of user and host name
    for key, value in (
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "user.useConfigOnly"),
        ("GIT_CONFIG_VALUE_0", "true"),
    ):
        monkeypatch.setenv(key, value)


@pytest.fixture(scope="module")
def two_runs_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a commit, and two runs of it: `first`, and `second` with another CRF."""
    root = build_toy(tmp_path_factory.mktemp("runs") / "toy")
    (root / ".gitignore").write_text((root / ".gitignore").read_text() + "bodies.log\n")
    commit(root)
    run_dvc(root, "repro")
    assert save_experiment(root, "first") == "first"
    change_params(root, refine__crf__bilateral_weight=6.5)
    run_dvc(root, "repro")
    assert save_experiment(root, "second") == "second"
    return root


@pytest.fixture
def two_runs(two_runs_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_runs_once, tmp_path / "toy")


def test_runs_compare_in_dvc(two_runs: Path):
    assert {"first", "second"} <= set(run_dvc(two_runs, "exp", "list", "--name-only").split())
    table = run_dvc(two_runs, "exp", "show", "--csv", "--only-changed").splitlines()
    head = table[0].split(",")
    column = head.index("refine.crf.bilateral_weight")
    values = {row.split(",")[0]: row.split(",")[column] for row in table[1:]}
    assert values["first"] != values["second"] == "6.5"
    assert "metrics/summary.json:value" in head


def test_saving_touches_nothing_of_the_user(two_runs: Path):
    (two_runs / "notes.txt").write_text("not in git")
    (two_runs / "staged.py").write_text("added")
    git(two_runs, "add", "staged.py")
    before = git(two_runs, "status", "--porcelain"), git(two_runs, "rev-parse", "HEAD")
    times = {path: path.stat().st_mtime_ns for path in two_runs.iterdir()}
    assert save_experiment(two_runs, "third") == "third"
    assert (git(two_runs, "status", "--porcelain"), git(two_runs, "rev-parse", "HEAD")) == before
    assert {path: path.stat().st_mtime_ns for path in two_runs.iterdir()} == times | {
        two_runs / ".git": (two_runs / ".git").stat().st_mtime_ns
    }
    place = git(two_runs, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/third").strip()
    files = set(git(two_runs, "ls-tree", "-r", "--name-only", place).split())
    assert {"dvc.lock", "metrics/summary.json", "metrics/plots/loss.json", "staged.py"} < files
    assert not {file for file in files if file.startswith(("data/", "reports/", ".work", "notes"))}
    assert git(two_runs, "show", "-s", "--format=%an", place) == "dsrg\n"


def test_names_are_valid_and_unique(two_runs: Path):
    assert save_experiment(two_runs, "second") == "second", "the same files under the same name"
    change_params(two_runs, compute__workers=3)
    assert save_experiment(two_runs, "second") == "second-2"
    assert save_experiment(two_runs, "second") == "second-2"
    change_params(two_runs, compute__workers=4)
    assert save_experiment(two_runs, "second") == "second-3"
    assert save_experiment(two_runs, "my birds/r2..lock") == "my-birds-r2"


def test_a_run_that_made_nothing_new_is_the_experiment_that_is_there(two_runs: Path):
    assert save_experiment(two_runs, "toy-r2", by_content=True) == "second"
    change_params(two_runs, compute__workers=3)
    name = save_experiment(two_runs, "toy-r2", by_content=True)
    assert name is not None
    assert len(name) == len("toy-r2-3f9c")
    assert save_experiment(two_runs, "toy-r2", by_content=True) == name


def test_what_does_not_belong_together_is_no_experiment(two_runs: Path):
    change_params(two_runs, cams__flip=False)
    said: list[str] = []
    assert save_experiment(two_runs, "third", say=said.append) is None
    assert said[0].startswith("not kept as a DVC experiment: cams, report changed since: `dsrg run`")


def test_without_git_or_commit_the_reason_is_told(toy_project: Path):
    said: list[str] = []
    assert save_experiment(toy_project, "run", say=said.append) is None
    assert "the repository has no commit yet" in said[-1]
    shutil.rmtree(toy_project / ".git")
    prepare(toy_project)
    assert save_experiment(toy_project, "run", say=said.append) is None
    assert "the project is in no git repository" in said[-1]


def test_an_experiment_of_a_worktree_shows_in_the_main_copy(two_runs: Path, tmp_path: Path):
    other = tmp_path / "worktree"
    git(two_runs, "worktree", "add", "--detach", str(other))
    run_dvc(other, "cache", "dir", "--local", str(two_runs / ".dvc" / "cache"))
    for name in ("dvc.lock", "params.yaml"):
        shutil.copy(two_runs / name, other)
    shutil.copytree(two_runs / "metrics", other / "metrics")
    run_dvc(other, "checkout")
    assert save_experiment(other, "elsewhere") == "elsewhere"
    assert "elsewhere" in run_dvc(two_runs, "exp", "list", "--name-only").split()


def test_labels_of_any_run_and_round_come_back(two_runs: Path, tmp_path: Path):
    now = (two_runs / LAST).read_text()
    runs = [LabelledRun(name, ("1", "2"), ("1", "2")) for name in ("workspace", "first", "second")]
    assert list_labels(two_runs) == runs
    place = restore_labels(two_runs, "first")
    assert place == two_runs / "restored/first/round-2/pseudo_labels.zarr"
    assert (place / "content.txt").read_text() != now
    assert (two_runs / LAST).read_text() == now
    assert (restore_labels(two_runs, "second") / "content.txt").read_text() == now
    other = restore_labels(two_runs, "second", round_key="1", folder=tmp_path / "there")
    assert other == tmp_path / "there/pseudo_labels.zarr"
    assert (other / "content.txt").read_text() not in {now, (place / "content.txt").read_text()}
    with pytest.raises(UserError, match=r"is there already: remove it, or name another place with --out"):
        restore_labels(two_runs, "first")
    with pytest.raises(UserError, match=r"^no run, tag or commit `nope`; kept runs: first, second$"):
        restore_labels(two_runs, "nope")
    with pytest.raises(UserError, match=r"^`first` has no round 7, only 1, 2$"):
        restore_labels(two_runs, "first", round_key="7")
    with pytest.raises(UserError, match=r"^`HEAD` holds no pseudo-labels"):
        restore_labels(two_runs, "HEAD")
    assert not list(two_runs.glob("restored/nope*"))


def test_labels_that_are_gone_are_told(two_runs: Path):
    shutil.rmtree(two_runs / ".dvc/cache/files")
    assert [run.here for run in list_labels(two_runs)] == [()] * 3
    with pytest.raises(
        UserError, match=r"the labels of `first`, round 2, are neither in the cache nor in a remote"
    ):
        restore_labels(two_runs, "first")
    assert not list((two_runs / "restored").rglob("*.zarr*"))


def test_a_remote_holds_every_round(two_runs: Path, tmp_path: Path):
    """Pushed, lost, pulled: everything is up to date."""
    run_dvc(two_runs, "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    run_dvc(two_runs, "push", "--run-cache")
    content = (two_runs / LAST).read_text()
    for place in (".dvc/cache", "data", "reports"):
        shutil.rmtree(two_runs / place)
    take_bodies(two_runs)
    run_dvc(two_runs, "pull", "--run-cache")
    assert (two_runs / LAST).read_text() == content
    assert all(is_up_to_date(two_runs, stage) for stage in list_stages(two_runs))
    run_dvc(two_runs, "repro")
    assert take_bodies(two_runs) == []


def test_another_copy_runs_nothing_that_was_pushed(two_runs: Path, tmp_path: Path):
    """What is committed, by `dvc pull`; runs before it, by `dvc exp pull`, which brings their data too."""
    commit(two_runs)
    shared, other = tmp_path / "shared.git", tmp_path / "other"
    git(two_runs, "init", "-q", "--bare", str(shared))
    git(two_runs, "remote", "add", "origin", str(shared))
    git(two_runs, "push", "-q", "origin", "HEAD")
    store = ("remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    run_dvc(two_runs, *store)
    run_dvc(two_runs, "push", "--run-cache")
    run_dvc(two_runs, "exp", "push", "origin", "first")

    git(tmp_path, "clone", "-q", str(shared), str(other))
    run_dvc(other, *store)
    run_dvc(other, "pull", "--run-cache")
    run_dvc(other, "repro")
    assert take_bodies(other) == []
    assert (other / LAST).read_text() == (two_runs / LAST).read_text()
    run_dvc(other, "exp", "pull", "origin", "first")
    run_dvc(other, "exp", "apply", "first")
    run_dvc(other, "repro")
    assert take_bodies(other) == []
    assert (other / LAST).read_text() != (two_runs / LAST).read_text()


def test_a_run_travels_to_another_copy(two_runs: Path, tmp_path: Path):
    """By the git remote and the DVC remote, as docs/versioning.md tells."""
    shared, other = tmp_path / "shared.git", tmp_path / "other"
    git(two_runs, "init", "-q", "--bare", str(shared))
    git(two_runs, "remote", "add", "origin", str(shared))
    git(two_runs, "push", "-q", "origin", "HEAD")
    run_dvc(two_runs, "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    run_dvc(two_runs, "exp", "push", "origin", "first")
    git(tmp_path, "clone", "-q", str(shared), str(other))
    run_dvc(other, "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    run_dvc(other, "exp", "pull", "origin", "first")
    assert restore_labels(other, "first").exists()
    git(
        other,
        "checkout",
        "-q",
        git(other, "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/first").strip(),
    )
    run_dvc(other, "checkout")
    assert all(is_up_to_date(other, stage) for stage in list_stages(other))
    run_dvc(other, "repro")
    assert take_bodies(other) == []


def test_the_final_model_is_an_artifact(two_runs: Path, tmp_path: Path):
    """Whatever the number of rounds; a version is a git tag, as GTO names it."""
    edit_params(two_runs, rounds=1)
    run_dvc(two_runs, "repro")
    commit(two_runs)
    tag = ("tag", "-a", "segmenter@v1.0.0", "-m", "one round")
    git(two_runs, "-c", "user.name=someone", "-c", "user.email=someone@example.org", *tag)
    run_dvc(
        two_runs, "artifacts", "get", ".", "segmenter", "--rev", "v1.0.0", "--out", str(tmp_path / "model")
    )
    expected = two_runs / "data/rounds/1/segmenter.safetensors"
    assert (tmp_path / "model").read_bytes() == expected.read_bytes()


def test_an_archive_without_git_gives_sensible_answers(
    two_runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(two_runs / ".git")

    def run_dsrg(*arguments: str) -> int:
        return guard(lambda: app([*arguments, "--root", str(two_runs)], standalone_mode=False))

    assert run_dsrg("labels", "restore", "first") == 2
    assert "error: this project is in no git repository, so no runs are kept" in capsys.readouterr().err
    assert run_dsrg("labels", "list") == 0
    assert [run.name for run in list_labels(two_runs)] == ["workspace"]
    assert run_dsrg("stages") == 0
    assert "up to date" in capsys.readouterr().out
    before = (two_runs / LAST).read_text()
    take_bodies(two_runs)
    change_params(two_runs, refine__crf__bilateral_weight=4.0)  # as in the run before
    run_dvc(two_runs, "repro")
    assert take_bodies(two_runs) == []
    assert (two_runs / LAST).read_text() != before
    git(two_runs, "init", "-q")
    prepare(two_runs)
    assert not (two_runs / ".dvc/config.local").exists()
