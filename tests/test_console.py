"""How signals end a verb: one line that says how to go on, an exit code, and nothing left behind; and disk errors."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import typer

from earsight import console
from earsight.cli import analyze, app, recipe
from earsight.console import bar, verb
from earsight.training.trial import Trial

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
WAITING = """
import time
from earsight.cli import app, main
from earsight.console import bar, verb
@app.command("wait")
@verb
def wait():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("tidy", flush=True)
main()
"""


def start(*words, ignored=(), **options):
    """A process that begins with some signals ignored, and the others as on a terminal."""

    def signals():
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(kind, signal.SIG_IGN if kind in ignored else signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, *map(str, words)], preexec_fn=signals, **pipes, **options)


@pytest.mark.parametrize(("kind", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_verb_tidily(kind, status):
    process = start("-c", WAITING, "wait")
    assert process.stdout.readline() == "ready\n"
    for _ in range(1 if kind == "SIGINT" else 2):  # a second one does not disturb the end
        process.send_signal(getattr(signal, kind))
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "tidy\n"), err
    assert err == "earsight: stopped; all files are whole. The same command goes on from here.\n"


@pytest.mark.parametrize(("kind", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_the_status_is_known_where_a_library_raises_an_interrupt_of_its_own(kind, status):
    """As Ray does while it waits for a task."""
    code = WAITING.replace(
        "        time.sleep(60)\n",
        """        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raised = True
        if raised:
            raise KeyboardInterrupt
""",
    )
    process = start("-c", code, "wait")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, kind))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "tidy\n"), err


def test_a_signal_is_not_lost_where_python_drops_exceptions():
    """In a `__del__`, here one that is at work when the signal comes."""
    code = WAITING.replace("        time.sleep(60)\n", "        Slow()\n        time.sleep(60)\n")
    code = """
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(1)
""" + code.replace('        print("ready", flush=True)\n', "")
    process = start("-c", code, "wait")
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "tidy\n"), err
    assert err == "earsight: stopped; all files are whole. The same command goes on from here.\n"


def test_below_nohup_a_lost_terminal_stops_nothing():
    process = start("-c", WAITING, "wait", ignored=[signal.SIGHUP])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_every_verb_ends_so():
    for group in (app, analyze, recipe):
        for command in group.registered_commands:
            assert hasattr(command.callback, "__wrapped__"), command.callback


def alive_in(session):
    """Processes of a session, as Linux lists them."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "-s", str(session)], capture_output=True, text=True)
    return found.stdout.splitlines()


@pytest.mark.parametrize(("ignored", "name"), [([], "tmp"), ([signal.SIGINT], "t" * 90)])
def test_sigterm_ends_workers_and_leaves_no_file(synthetic_folder, tmp_path, ignored, name):
    """Also where SIGINT is ignored, as below a script's background job, and where no socket fits into TMPDIR."""
    (tmp_path / name).mkdir()
    settings = ["backbone.name=test_resnet", "backbone.weights=none", "training.epochs=4000"]
    settings += ["features.bands=32", "features.frames=32", "augment.pitch_semitones=0"]
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--out", tmp_path / "run", "--jobs", 2, "--threads", 1]
    environment = os.environ | {"TMPDIR": str(tmp_path / name)}
    process = start("-m", "earsight", "crossval", synthetic_folder, *words, ignored=ignored, env=environment)
    begun = [Trial(fold, 0).folder(tmp_path / "run") / "history.jsonl" for fold in (1, 2)]
    while not all(path.is_file() for path in begun):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "earsight: stopped; all files are whole. The same command goes on from here."
    assert "Traceback" not in err
    while alive_in(process.pid):  # the time limit of every test ends the wait
        time.sleep(0.05)
    assert not list((tmp_path / name).iterdir())
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "it was removed while it was in use. Put it back, or give the same command again."),
        (errno.ENOSPC, "make room. What was written is whole"),
        (errno.EDQUOT, "make room. What was written is whole"),
        (errno.EFBIG, "make room. What was written is whole"),
        (errno.EACCES, "mend the access. What was written is whole"),
        (errno.EROFS, "mend the access. What was written is whole"),
        (errno.EIO, "check the path and the disk. What was written is whole"),
        (errno.EMFILE, "allow more open files (ulimit -n). What"),
        (errno.ENAMETOOLONG, "take a shorter name. What"),
    ],
)
def test_the_remedy_fits_what_the_disk_says(capsys, number, words):
    @verb
    def refused() -> None:
        raise OSError(number, os.strerror(number), "some/store.json")

    with pytest.raises(typer.Exit) as ended:
        refused()
    assert ended.value.exit_code == 2
    shown = capsys.readouterr().err
    assert "some/store.json: " in shown
    assert words in shown


@pytest.mark.parametrize("text", ["AF_UNIX path too long", "x: AF_UNIX path length cannot exceed 107 bytes: /long"])
def test_a_long_path_of_a_socket_wants_no_room(capsys, text):
    """Python's words and Ray's; neither has a number."""

    @verb
    def refused() -> None:
        raise OSError(text)

    with pytest.raises(typer.Exit):
        refused()
    shown = capsys.readouterr().err
    assert f"earsight: {text}; the path of the folder for temporary files is too long: set TMPDIR to a short" in shown


def test_a_second_part_of_the_work_has_its_own_name_and_tenths(capsys):
    with bar("first", "clips") as shown:
        then = shown.then("second", "pairs")
        for done in (1, 2):
            shown(done, 2)
        for done in (1, 2):
            then(done, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in lines] == [
        *("first: 1 of 2 clips", "first: 2 of 2 clips", "second: 1 of 2 pairs", "second: 2 of 2 pairs")
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_results_are_printed_above_the_bar_where_both_share_a_terminal(monkeypatch, shared):
    """Elsewhere they go to standard output alone, whatever the bar is shown on."""
    terminal, plain = io.StringIO(), io.StringIO()
    plain.isatty = lambda: shared  # type: ignore[method-assign]
    monkeypatch.setattr(
        console, "err", console._Harmless(file=terminal, force_terminal=True, width=80, highlight=False)
    )
    monkeypatch.setattr(sys, "stdout", plain)
    with console.bar("work", "clips") as shown:
        shown(1, 2)
        shown.above("a result [1]")
    assert re.search(r"work .*1/2\S* clips ", terminal.getvalue())
    assert ("a result [1]" in terminal.getvalue()) == shared
    assert plain.getvalue() == ("" if shared else "a result [1]\n")


def test_in_a_notebook_lines_are_text_and_no_outputs_of_their_own():
    code = "import rich.console as r; r._is_jupyter = lambda: True; from earsight.console import err, out; "
    code += "print(r.Console().is_jupyter, err.is_jupyter, out.is_jupyter)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
