import hashlib
import io
import stat
import zipfile

import pytest
from one_file_server import serving

from earsight.data import download, open_dataset
from earsight.data.download import download_esc50
from earsight.errors import DataError

ROWS = 10
HEADER = "filename,fold,target,category,esc10,src_file,take"


def archive(*, top="ESC-50-master/", rows=ROWS, extra=(), leave_out=()):
    """A small ESC-50 in a zip, stored uncompressed, so that bytes of its sounds can be found in it."""
    names = [f"{1 + n % 5}-{n}-A-{n // 5}.wav" for n in range(rows)]
    lines = [HEADER, *(f"{name},{1 + n % 5},{n // 5},c{n // 5},FALSE,{n},A" for n, name in enumerate(names))]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr(f"{top}meta/esc50.csv", "\n".join(lines))
        for name in names:
            if name not in leave_out:
                out.writestr(f"{top}audio/{name}", f"sound of {name} ".encode() * 300)
        for name, mode in extra:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            out.writestr(member, "/etc/passwd")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _small_and_direct(monkeypatch):
    monkeypatch.setattr(download, "_CHUNK_BYTES", 1000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(*args, **kwargs):
    with pytest.raises(DataError) as caught:
        download_esc50(*args, **{"rows": ROWS, **kwargs})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sized", [True, False])
def test_whole(tmp_path, sized):
    body, seen = archive(), []
    with serving(body, sized=sized) as (url, _):
        place = download_esc50(tmp_path / "a" / "ESC", progress=lambda *both: seen.append(both), url=url, rows=ROWS)
    data = open_dataset(place)
    assert (data.layout, len(data.clips), data.fold_numbers) == ("esc50", ROWS, (1, 2, 3, 4, 5))
    assert data.file(0).read_bytes().startswith(b"sound of 1-0-A-0.wav")
    assert left(tmp_path / "a") == ["ESC"]
    assert [total for _, total in seen] == [len(body) if sized else None] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == len(body)
    assert stat.S_IMODE(place.stat().st_mode) & 0o055 == stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o055


def test_a_whole_set_is_not_fetched_again(tmp_path):
    with serving(archive()) as (url, state):
        for _ in range(2):
            download_esc50(tmp_path / "ESC", url=url, rows=ROWS)
    assert state["ranges"] == [None]
    next((tmp_path / "ESC" / "audio").iterdir()).unlink()
    assert "1 of its 10 sounds are missing; delete the folder" in refused(tmp_path / "ESC", url="http://127.0.0.1:1/")


def test_an_archive_without_a_top_folder(tmp_path):
    (tmp_path / "ESC").mkdir()
    with serving(archive(top="")) as (url, _):
        assert len(open_dataset(download_esc50(tmp_path / "ESC", url=url, rows=ROWS)).clips) == ROWS


def test_resumed(tmp_path):
    body, seen = archive(), []
    with serving(body, breaks=[5000, 7000]) as (url, state):
        assert "call again" in refused(tmp_path / "ESC", url=url)
        assert left(tmp_path) == ["ESC.zip.part"]
        assert "call again" in refused(tmp_path / "ESC", url=url)
        download_esc50(tmp_path / "ESC", progress=lambda *both: seen.append(both), url=url, rows=ROWS)
    assert state["ranges"] == [None, "bytes=5000-", "bytes=12000-"]
    assert seen[0] == (13000, len(body))
    assert left(tmp_path) == ["ESC"]


def test_a_server_without_ranges_starts_anew(tmp_path):
    with serving(archive(), breaks=[5000], resumes=False) as (url, state):
        refused(tmp_path / "ESC", url=url)
        download_esc50(tmp_path / "ESC", url=url, rows=ROWS)
    assert state["ranges"] == [None, "bytes=5000-"]
    assert len(open_dataset(tmp_path / "ESC").clips) == ROWS


def test_a_part_that_is_already_whole(tmp_path):
    body = archive()
    (tmp_path / "ESC.zip.part").write_bytes(body)
    with serving(body) as (url, _):
        download_esc50(tmp_path / "ESC", url=url, rows=ROWS)
    assert left(tmp_path) == ["ESC"]


def test_a_server_that_sends_another_part(tmp_path):
    (tmp_path / "ESC.zip.part").write_bytes(b"x" * 100)
    with serving(archive(), shift=7) as (url, _):
        assert "another part" in refused(tmp_path / "ESC", url=url)


def test_a_part_of_an_older_archive_is_found_out(tmp_path):
    body = archive()
    (tmp_path / "ESC.zip.part").write_bytes(b"x" * 20000)
    with serving(body) as (url, _):
        assert "damaged" in refused(tmp_path / "ESC", url=url)
        assert left(tmp_path) == []
        download_esc50(tmp_path / "ESC", url=url, rows=ROWS)


@pytest.mark.parametrize(
    "harm",
    [
        lambda body: body.replace(b"sound of 1-5", b"sound of 1-6", 1),
        lambda body: body[:-40],
        lambda body: b"<html>not here</html>",
    ],
)
def test_damaged(tmp_path, harm):
    with serving(harm(archive())) as (url, _):
        assert "damaged" in refused(tmp_path / "ESC", url=url)
    assert left(tmp_path) == []


def test_the_hash_that_the_user_gives(tmp_path):
    body = archive()
    with serving(body) as (url, _):
        assert "expected 00" in refused(tmp_path / "ESC", url=url, sha256="00")
        assert left(tmp_path) == []
        download_esc50(tmp_path / "ESC", url=url, rows=ROWS, sha256=hashlib.sha256(body).hexdigest().upper())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (archive(extra=[("../../evil", 0o100644)]), "may point outside"),
        (archive(extra=[("/evil", 0o100644)]), "may point outside"),
        (archive(extra=[("C:\\evil", 0o100644)]), "may point outside"),
        (archive(extra=[("ESC-50-master/link", stat.S_IFLNK | 0o777)]), "may point outside"),
    ],
)
def test_what_is_not_the_set_is_not_put_in_its_place(tmp_path, body, said):
    with serving(body) as (url, _):
        assert said in refused(tmp_path / "in" / "ESC", url=url)
    assert left(tmp_path) == ["in"]
    assert left(tmp_path / "in") == ["ESC.zip.part"]


def readme_alone():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("readme", "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (archive(rows=9), "9 rows and not 10"),
        (archive(leave_out=("1-0-A-0.wav",)), "1 of its 10 sounds are missing"),
        (readme_alone(), "no meta/esc50.csv"),
    ],
)
def test_an_archive_of_something_else_is_removed(tmp_path, body, said):
    with serving(body) as (url, _):
        message = refused(tmp_path / "ESC", url=url)
        assert said in message
        assert url in message
    assert left(tmp_path) == []


def test_offline_is_one_line(tmp_path):
    with serving(b"") as (url, _):
        pass  # the server is gone: its port refuses
    assert "cannot be reached" in refused(tmp_path / "ESC", url=url)
    assert left(tmp_path) == []


def test_other_answers(tmp_path):
    with serving(archive(), status=404) as (url, _):
        assert "404" in refused(tmp_path / "ESC", url=url)
    assert "not an address" in refused(tmp_path / "ESC", url="nowhere")


def test_a_target_that_holds_something_else(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert "holds something else" in refused(tmp_path)
    assert "holds something else" in refused(tmp_path / "notes.txt")
    assert "cannot be written" in refused(tmp_path / "notes.txt" / "ESC")
