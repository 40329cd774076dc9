"""What is written is there in full or as it was before."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rankbench.writing import fresh_file, fresh_folder, put_in_place, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def made(folder, **files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_an_interrupted_file_is_as_it_was(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), fresh_file(tmp_path / "a") as new:
        new.write_text("ne")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_two_writers_do_not_meet(tmp_path):
    with fresh_file(tmp_path / "a") as one, fresh_file(str(tmp_path / "a")) as two:
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "a").read_text() == "one" and names(tmp_path) == ["a"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_json(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_text() == "1\n"


def test_a_device_is_written_to_at_once():
    with fresh_file("/dev/null") as new:
        assert new == Path("/dev/null")


def test_json_that_cannot_be_written_leaves_the_file(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"é": [1.5]})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "new" / "a.json", {"é": object()})
    with pytest.raises(UnicodeEncodeError):
        write_json(tmp_path / "new" / "a.json", "half a character: \ud800")
    assert (tmp_path / "new" / "a.json").read_text("utf-8") == '{\n "é": [\n  1.5\n ]\n}\n'
    assert names(tmp_path / "new") == ["a.json"]


def test_what_is_written_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    made(tmp_path / "shared").chmod(0o770)
    made(tmp_path / "usual")
    for name, rights in {"shared": 0o770, "new": (tmp_path / "usual").stat().st_mode}.items():
        with fresh_folder(tmp_path / name):
            pass
        assert (tmp_path / name).stat().st_mode & 0o777 == rights & 0o777


@pytest.mark.parametrize("replace", [True, False])
def test_an_interrupted_folder_leaves_nothing(tmp_path, replace):
    with pytest.raises(KeyboardInterrupt), fresh_folder(tmp_path / "a" / "b", None, replace) as new:
        (new / "x").touch()
        raise KeyboardInterrupt
    assert names(tmp_path / "a") == []


def test_a_folder_is_replaced_but_for_what_is_kept(tmp_path):
    folder = made(tmp_path / "a", x="old", y="old", z="old")
    with fresh_folder(folder, keep=lambda path: path.name in ("x", "y")) as new:
        (new / "x").write_text("new")
        assert names(folder) == ["x", "y", "z"]
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"x": "new", "y": "old"}
    assert names(tmp_path) == ["a"]


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="a is a file; expected a folder"):
        with fresh_folder(tmp_path / "a"):
            pass
    assert (tmp_path / "a").is_file() and names(tmp_path) == ["a"]


def test_the_first_of_two_stays_where_nothing_is_replaced(tmp_path):
    with pytest.raises(OSError), fresh_folder(tmp_path / "a", replace=False) as slow:
        with fresh_folder(tmp_path / "a", replace=False) as quick:
            (quick / "quick").touch()
        (slow / "slow").touch()
    assert names(tmp_path / "a") == ["quick"] and names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_old_folder_comes_back_if_the_new_one_cannot_move(tmp_path, monkeypatch, error):
    new, folder = made(tmp_path / "new", x="new"), made(tmp_path / "a", x="old")
    plain = Path.rename

    def broken(self, target):
        if self == new:
            raise error
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(error):
        put_in_place(new, folder)
    assert (folder / "x").read_text() == "old" and names(tmp_path) == ["a", "new"]


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    new, folder = made(tmp_path / "new", x="ours"), made(tmp_path / "a", x="old", notes="old")
    plain = Path.rename

    def overtaken(self, target):
        if self == new:
            made(folder, x="theirs")
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(OSError):
        put_in_place(new, folder, keep=lambda path: path.name == "notes")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"x": "theirs", "notes": "old"}
    assert names(tmp_path) == ["a", "new"]


def test_the_only_copy_is_never_deleted(tmp_path, monkeypatch):
    new, folder = made(tmp_path / "new", x="new"), made(tmp_path / "a", x="old")
    plain, moves = Path.rename, []

    def once(self, target):
        moves.append(self)
        if len(moves) > 1:
            raise OSError("the disk is gone")
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(OSError, match="the disk is gone"):
        put_in_place(new, folder)
    aside = next(path for path in tmp_path.iterdir() if path.name.startswith(".a-"))
    assert (aside / "x").read_text() == "old"


KILLED = """
import os, signal, sys
from rankbench.writing import fresh_folder
with fresh_folder(sys.argv[1]) as new:
    (new / "x").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_folder(tmp_path):
    folder = made(tmp_path / "a", x="old")
    done = subprocess.run([sys.executable, "-c", KILLED, folder])
    assert done.returncode == -signal.SIGKILL and (folder / "x").read_text() == "old"
    with fresh_folder(folder) as new:
        (new / "x").write_text("newer")
    assert (folder / "x").read_text() == "newer"
