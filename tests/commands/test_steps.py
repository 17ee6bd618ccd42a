"""What verbs that train say of a data set before they begin."""

from earsight.commands.steps import say_sources
from earsight.data import open_dataset


def opened(root, labels):
    for number in range(len(labels)):
        (root / f"{number}.wav").touch()
    rows = [f'{number}.wav,"{label}",{1 + number % 2}' for number, label in enumerate(labels)]
    (root / "list.csv").write_text("\n".join(["path,label,fold", *rows]))
    return open_dataset(root / "list.csv")


def test_labels_that_look_alike_are_named_before_training(tmp_path, capsys):
    say_sources(opened(tmp_path, ["1", "1", "1.0", "1.0", "2", "2"]), [1], data=tmp_path)
    assert "  note: classes '1' (2) and '1.0' (2) are one number, written in several ways" in capsys.readouterr().err
    say_sources(opened(tmp_path, ["a", "a", "b", "b"]), [1], data=tmp_path)
    assert "note" not in capsys.readouterr().err


def test_many_odd_labels_are_counted(tmp_path, capsys):
    names = [f"dog {n}\u200b" for n in range(9) for _ in range(2)]
    say_sources(opened(tmp_path, names), [1], data=tmp_path)
    said = capsys.readouterr().err
    assert said.count("has outer blanks or marks that are not seen") == 5
    assert "note: and 4 more such labels, which `earsight check` names" in said
