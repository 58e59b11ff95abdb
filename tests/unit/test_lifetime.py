"""Processes that end with the one they work for."""

import signal
import subprocess
import sys
import textwrap

import pytest

from tasks.lifetime import WATCHED

PROGRAM = """
    import signal, time
    from tasks import lifetime

    lifetime.GRACE_SECONDS = 0.3
    signal.signal(signal.SIGTERM, signal.{handler})
    lifetime.end_with_starter()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("handler", "ended_by"), [("SIG_DFL", signal.SIGTERM), ("SIG_IGN", signal.SIGKILL)])
def test_a_process_ends_with_its_starter(handler: str, ended_by: signal.Signals):
    program = textwrap.dedent(PROGRAM.format(handler=handler))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as starter:
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            env={WATCHED: str(starter.pid)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert child.poll() is None
        starter.kill()
    with child:
        assert child.wait(20) == -ended_by


def test_a_starter_that_is_gone_already_is_heard_of_at_once():
    with subprocess.Popen([sys.executable, "-c", ""]) as starter:
        starter.wait(20)
    program = textwrap.dedent(PROGRAM.format(handler="SIG_DFL"))
    ended = subprocess.run([sys.executable, "-c", program], env={WATCHED: str(starter.pid)}, timeout=20)
    assert ended.returncode == -signal.SIGTERM
