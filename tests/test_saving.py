import json

import pytest

from rankbench.models.saving import read_json, saved_to, write_modules
from rankbench.writing import write_json


@pytest.fixture
def checkpoint(tmp_path):
    """A saved model beside the state of an optimizer and a folder of checkpoints."""
    folder = tmp_path / "model"
    with saved_to(folder) as new:
        (new / "rankbench.json").write_text("{}")
        (new / "config.json").write_text("first")
        (new / "1_Pooling").mkdir()
    (folder / "optimizer.pt").write_text("state")
    (folder / "checkpoint-3").mkdir()
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_save_leaves_the_previous_model(checkpoint):
    before = names(checkpoint)
    with pytest.raises(KeyboardInterrupt), saved_to(checkpoint) as new:
        (new / "config.json").write_text("second")
        raise KeyboardInterrupt
    assert (checkpoint / "config.json").read_text() == "first"
    assert names(checkpoint) == before
    assert names(checkpoint.parent) == ["model"]


def test_a_move_that_fails_puts_the_old_model_back(checkpoint, monkeypatch):
    from pathlib import Path

    plain = Path.rename

    def broken(self, target):
        if (self / "config.json").is_file() and (self / "config.json").read_text() == "second":
            raise OSError("cannot move")
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="cannot move"), saved_to(checkpoint) as new:
        (new / "config.json").write_text("second")
    assert (checkpoint / "config.json").read_text() == "first"
    assert names(checkpoint.parent) == ["model"]


def test_files_of_the_old_model_go_and_others_stay(checkpoint):
    with saved_to(checkpoint) as new:
        (new / "config.json").write_text("second")
    assert names(checkpoint) == ["checkpoint-3", "config.json", "optimizer.pt"]
    assert (checkpoint / "config.json").read_text() == "second"
    assert names(checkpoint.parent) == ["model"]


def test_what_no_model_of_ours_left_stays(tmp_path):
    (tmp_path / "project" / "document").mkdir(parents=True)
    (tmp_path / "project" / "vocab.txt").touch()
    with saved_to(tmp_path / "project") as new:
        (new / "config.json").touch()
    assert names(tmp_path / "project") == ["config.json", "document", "vocab.txt"]


def test_a_saved_folder_has_the_rights_of_any_new_folder(tmp_path):
    with saved_to(tmp_path / "model"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_model_is_not_saved_over_a_file(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(NotADirectoryError, match="is a file; expected a folder"):
        with saved_to(tmp_path / "model"):
            pass


def test_broken_json_is_reported_with_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n"a": 1,\n')
    with pytest.raises(ValueError, match=r"a.json, line 3: this is no JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match="this is no UTF-8 text"):
        read_json(tmp_path / "a.json")


def test_modules_are_listed_in_their_order(tmp_path):
    write_modules(tmp_path, {"": "a.B", "1_C": "c.D"}, "SentenceTransformer", prompts={"q": "é"})
    listed = json.loads((tmp_path / "modules.json").read_text("utf-8"))
    assert [(m["idx"], m["path"], m["type"]) for m in listed] == [
        (0, "", "sentence_transformers.a.B"),
        (1, "1_C", "sentence_transformers.c.D"),
    ]
    settings = read_json(tmp_path / "config_sentence_transformers.json")
    assert settings == {"model_type": "SentenceTransformer", "prompts": {"q": "é"}}


def test_folders_of_json_files_are_made(tmp_path):
    write_json(tmp_path / "1_Pooling" / "config.json", {"a": [1]})
    assert read_json(tmp_path / "1_Pooling" / "config.json") == {"a": [1]}
