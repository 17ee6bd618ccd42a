"""What a verb prints when the disk refuses."""

from __future__ import annotations

import errno
import os

import pytest
import typer

from earsight.console import verb


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "it was removed while it was in use. Put it back, or give the same command again."),
        (errno.ENOSPC, "make room or mend the access. What was written is whole"),
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
