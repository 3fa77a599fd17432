"""audit-relay file: JSON lines, for replays and recovery."""

import json
import os
import subprocess

import pytest
from conftest import CORPUS, batch, lines, server, server_away, until
from relay_helpers import PROGRAM, Relay, exactly, messages, role, run, stored, url

pytestmark = pytest.mark.once


def replay(db, *arguments, text=None):
    role(db)
    return run("file", *arguments, text=text, AUDIT_RELAY_DATABASE=url(db))


def test_lines_of_every_shape(db, tmp_path):
    one, two, three, four = messages(4)
    file = tmp_path / "messages.jsonl"
    file.write_text("\n".join([one, "", batch([two, three]), "  ", f"[{four}]\r", batch([one])]))
    done = replay(db, file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" in ")[0] == "5 messages" and done.stdout.endswith("4 inserted, 1 duplicates, 0 rejected\n")
    exactly(db, 4)


def test_standard_input_and_several_files(db, tmp_path):
    (tmp_path / "a").write_text("\n".join(messages(1_500)))
    (tmp_path / "b").write_text("\n".join(messages(1_000, 1_000)) + "\n")
    assert replay(db, tmp_path / "a", tmp_path / "b", "--batch-messages", "70").returncode == 0
    exactly(db, 2_000)
    done = replay(db, "-", text="\n".join(messages(2_500)))
    assert done.returncode == 0 and "500 inserted, 2000 duplicates" in done.stdout
    exactly(db, 2_500)


def test_what_is_rejected_is_kept_and_spoils_nothing(db, tmp_path):
    (tmp_path / "a").write_bytes("\n".join(messages(3)).encode() + b'\n{"id": 1}\n{"broken\n\xff\n')
    done = replay(db, tmp_path / "a")
    assert done.returncode == 0 and "3 inserted, 0 duplicates, 3 rejected" in done.stdout
    assert "see audit_rejects" in done.stderr
    assert stored(db) == 3


def test_what_the_database_refuses_is_told_with_its_line(db, tmp_path):
    role(db)
    db.run(f"ALTER ROLE tested_relay IN DATABASE {db.name} SET audit_cdc.on_reject = error")
    (tmp_path / "a").write_text("\n".join([*messages(2), '{"id": 1}', *messages(2, 2)]))
    done = replay(db, tmp_path / "a")
    assert done.returncode == 1 and "1 lines were refused" in done.stdout and f"{tmp_path / 'a'}:3 is refused" in done.stderr
    exactly(db, 4)


def test_the_corpus_as_the_database_takes_it_itself(db, tmp_path):
    """The same messages through the relay and straight: the log is the same."""
    names = sorted(path.name for path in (CORPUS / "batches").iterdir() if path.suffix == ".json")
    assert names
    bodies = [json.dumps(json.loads((CORPUS / "batches" / name).read_text())) for name in names]
    (tmp_path / "corpus.jsonl").write_text("\n".join(bodies))
    done = replay(db, tmp_path / "corpus.jsonl", "--connections", "4")
    assert done.returncode == 0, done.stderr
    relayed = db.rows("SELECT to_jsonb(l) - '{id,created_at,log_id}'::text[] FROM audit_logs l ORDER BY 1")
    db.run("SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE; CREATE EXTENSION audit_cdc")
    for body in bodies:
        db.ingest(body)
    assert relayed == db.rows("SELECT to_jsonb(l) - '{id,created_at,log_id}'::text[] FROM audit_logs l ORDER BY 1")
    assert len(relayed) > 100


def test_a_database_that_is_away_is_waited_for(db, tmp_path):
    (tmp_path / "a").write_text("\n".join(messages(5_000)))
    with server_away():
        with_relay = Relay.__new__(Relay)
        with_relay.arguments = [str(PROGRAM), "file", str(tmp_path / "a")]
        with_relay.environment = {**os.environ, "AUDIT_RELAY_DATABASE": url(db, user="postgres")}
        with_relay.start()
        with with_relay as relay:
            relay.says("not stored")
            server("start")
            assert relay.ended() == 0
    exactly(db, 5_000)


def test_stopped_in_the_middle_and_run_again(db, tmp_path):
    (tmp_path / "a").write_text("\n".join(messages(60_000)))
    with Relay(db, "file", tmp_path / "a", "--batch-messages", "100") as relay:
        until(lambda: stored(db) > 0)
        assert relay.stop() == 1
        assert "run it again" in relay.log
    assert stored(db) < 60_000
    with Relay(db, "file", tmp_path / "a", "--batch-messages", "100") as relay:
        before = stored(db)
        until(lambda: stored(db) > before)
        relay.kill()
    assert stored(db) < 60_000
    assert replay(db, tmp_path / "a").returncode == 0
    exactly(db, 60_000)


def test_a_progress_bar_for_people_and_none_for_files(db, tmp_path):
    (tmp_path / "a").write_text("\n".join(messages(2_000)))
    environment = {**os.environ, "AUDIT_RELAY_DATABASE": url(db, user="postgres"), "TERM": "xterm"}
    shown = subprocess.run(["script", "-qec", f"{PROGRAM} file {tmp_path / 'a'}", "/dev/null"], env=environment, capture_output=True, text=True, timeout=60)
    assert "left" in shown.stdout and "2000 inserted" in shown.stdout
    quiet = replay(db, tmp_path / "a")
    assert "left" not in quiet.stderr + quiet.stdout and "2000 duplicates" in quiet.stdout


def test_sigterm_while_standard_input_is_silent(db):
    role(db)
    process = subprocess.Popen([PROGRAM, "file", "-"], env={**os.environ, "AUDIT_RELAY_DATABASE": url(db)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(messages(1)[0] + "\n")
    process.stdin.flush()
    until(lambda: stored(db) == 1)
    process.terminate()
    assert process.wait(10) == 1
    assert "1 inserted" in process.stdout.read()


def test_sigterm_while_the_database_cannot_be_used(db, tmp_path):
    (tmp_path / "a").write_text("\n".join(messages(5_000)))
    with Relay(db, "file", tmp_path / "a", "--stop-timeout", "1s", database=url(db, user="nobody")) as relay:
        relay.says("not stored")
        assert relay.stop() == 1
        assert "run it again" in relay.log


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/tmp"])
def test_a_file_that_cannot_be_read(db, path):
    done = replay(db, path)
    assert done.returncode == 1 and path in done.stderr
