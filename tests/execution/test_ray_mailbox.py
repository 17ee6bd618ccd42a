"""The mailbox as a plain object: news are taken once, the newest state stays, checkpoints go with their trial."""

from earsight.execution.ray_mailbox import Mailbox

EMPTY = {"steps": {}, "notes": [], "states": {}, "ended": [], "wanted": []}


def test_news_are_taken_once_and_a_note_is_passed_on_once():
    mailbox = Mailbox()
    mailbox.report(0, 1, 9, 2.0)
    mailbox.report(0, 2, 9, 1.5)
    mailbox.note("a node")
    mailbox.end(1, {"DONE": b""})
    assert mailbox.take_news() == EMPTY | {
        "steps": {0: (2, 9, 1.5)},
        "notes": ["a node"],
        "ended": [(1, {"DONE": b""})],
    }
    mailbox.note("a node")
    assert mailbox.take_news() == EMPTY


def test_states_are_merged_and_only_fresh_files_are_news():
    mailbox = Mailbox()
    mailbox.put_state(0, {"trial.json": b"1", "checkpoint.safetensors": b"old"}, fresh=False)
    assert mailbox.take_news() == EMPTY
    mailbox.put_state(0, {"checkpoint.safetensors": b"new"})
    assert mailbox.state(0) == {"trial.json": b"1", "checkpoint.safetensors": b"new"}
    mailbox.put_state(0, {"history.jsonl": b"2"})
    mailbox.forget_state(0)
    assert mailbox.take_news()["states"] == {0: {"history.jsonl": b"2"}}
    assert mailbox.state(0) == mailbox.state(1) == {}


def test_a_history_is_kept_and_says_whether_its_trial_has_ended():
    mailbox = Mailbox()
    assert mailbox.history(0) == ([], False)
    mailbox.put_history(0, [{"epoch": 1}])
    mailbox.put_history(1, [], done=True)
    assert [mailbox.history(number) for number in (0, 1)] == [([{"epoch": 1}], False), ([], True)]
    mailbox.end(0, RuntimeError("no memory"))
    assert mailbox.history(0) == ([{"epoch": 1}], True)


def test_an_artifact_is_asked_for_once():
    mailbox = Mailbox()
    assert mailbox.artifact("store") is None
    assert mailbox.artifact("store") is None
    assert mailbox.take_news()["wanted"] == ["store"]
    mailbox.put_artifact("store", ["part"])
    assert mailbox.artifact("store") == ["part"]
    assert mailbox.take_news() == EMPTY
