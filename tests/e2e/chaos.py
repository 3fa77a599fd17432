"""A captured server to which random things happen; at the end the log is compared with what the source's own triggers saw.

By hand, for ten minutes: python3 tests/e2e/chaos.py --minutes 10 --seed 7 (AUDIT_BIN names the folder of PostgreSQL's programs)."""

import argparse
import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

import psycopg2
from conftest import until

PLAIN = ["alpha", "beta", "gamma"]
# delta has two partitions, and is told under its own name
TABLES = [*PLAIN, "delta"]

# Each change has a number of its own, v: by it the log is compared. A truth is of its change's transaction.
SCHEMA = """
    SET search_path = public;
    CREATE SEQUENCE numbers;
    CREATE TABLE truths (n bigserial PRIMARY KEY, name text, op text, v bigint, old jsonb, new jsonb,
                         lsn pg_lsn DEFAULT pg_current_wal_insert_lsn(), UNIQUE (name, op, v));
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
      BEGIN
        INSERT INTO truths (name, op, v, old, new) VALUES (TG_ARGV[0], lower(TG_OP), CASE TG_OP WHEN 'DELETE' THEN OLD.v ELSE NEW.v END,
          CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
        RETURN NULL;
      END $$"""
TABLE = """
    CREATE TABLE {0} (id int PRIMARY KEY, v bigint NOT NULL DEFAULT nextval('numbers'), t text) {1};
    ALTER TABLE {0} REPLICA IDENTITY FULL;
    CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON {0} FOR EACH ROW EXECUTE FUNCTION tell('{0}')"""
PARTITIONS = """
    CREATE SCHEMA parts;
    CREATE TABLE parts.low PARTITION OF delta FOR VALUES FROM (0) TO (50); ALTER TABLE parts.low REPLICA IDENTITY FULL;
    CREATE TABLE parts.high PARTITION OF delta DEFAULT; ALTER TABLE parts.high REPLICA IDENTITY FULL"""
# rows that come or go without a change of theirs
GO_ALONG = "INSERT INTO truths (name, op, v, old) SELECT 'delta', %s, v, to_jsonb(low) FROM parts.low"

LOGGED = """
    SELECT table_name AS name, action AS op, ((CASE action WHEN 'delete' THEN old_values ELSE new_values END) ->> 'v')::bigint AS v,
           CASE action WHEN 'update' THEN new_values || old_values WHEN 'delete' THEN old_values END AS old,
           CASE WHEN action <> 'delete' THEN new_values END AS new
    FROM audit_logs WHERE action IN ('insert', 'update', 'delete') AND table_name = ANY (%s)"""
# more than the truth, twice, or other than it
WRONG = f"""
    SELECT name, op, v, t.old, l.old, t.new, l.new FROM truths AS t RIGHT JOIN ({LOGGED}) AS l USING (name, op, v)
    WHERE (t.old, t.new) IS DISTINCT FROM (l.old, l.new)
    UNION ALL
    SELECT name, op, v, NULL, NULL, NULL, NULL FROM ({LOGGED}) AS l GROUP BY name, op, v HAVING count(*) > 1
    LIMIT 5"""
MISSING = f"SELECT name, op, v, lsn FROM truths WHERE (name, op, v) NOT IN (SELECT name, op, v FROM ({LOGGED}) AS l) ORDER BY n"
GAPS = "SELECT gap_id, table_name, reason, from_lsn, to_lsn, is_open, open_tables FROM audit_gaps ORDER BY gap_id"


def number(lsn):
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


class Server:
    """A server of its own. Its programs are those of the throwaway server, or others."""

    def __init__(self, folder, programs=None):
        self.folder, self.programs = pathlib.Path(folder), programs or os.environ["AUDIT_BIN"]
        self.data = self.folder / "data"

    def program(self, name, *arguments, check=True, cwd="/"):
        user = "postgres" if os.getuid() == 0 else None
        return subprocess.run([f"{self.programs}/{name}", *map(str, arguments)], check=check, capture_output=True, user=user, cwd=cwd)

    def make(self, *options):
        self.program("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", *options)
        # of newer minor releases
        plugins = self.program("postgres", "-D", self.data, "-C", "output_plugin_libraries", check=False)
        with open(self.data / "postgresql.conf", "a") as file:
            file.write("\n".join([f"output_plugin_libraries = '{plugins.stdout.decode().strip()}, audit_cdc'"] * (plugins.returncode == 0) + ["listen_addresses = ''", "wal_level = logical", "shared_preload_libraries = 'audit_cdc'", "max_prepared_transactions = 5",
                                  "wal_keep_size = '2GB'", "audit_cdc.capture_naptime = '100ms'",
                                  # what the system was given to write is there after a kill
                                  "fsync = off", "full_page_writes = off", ""]))
        return self

    def start(self):
        self.program("pg_ctl", "-D", self.data, "-w", "-t", 120, "-l", self.folder / "log", "-o", f"-c unix_socket_directories={self.folder}", "start")
        return self

    def stop(self, mode):
        self.program("pg_ctl", "-D", self.data, "-m", mode, "stop", check=False)

    def processes(self):
        postmaster = (self.data / "postmaster.pid").read_text().split()[0]
        return list(map(int, [postmaster, *subprocess.run(["ps", "-o", "pid=", "--ppid", postmaster], capture_output=True, text=True).stdout.split()]))

    def limit_files(self, size):
        """No file grows beyond it, as if the disk were full; processes to come have it from the first one."""
        for pid in self.processes():
            # who may do it is who runs them; one may have ended
            subprocess.run(["prlimit", "--pid", str(pid), f"--fsize={size}:"], user="postgres" if os.getuid() == 0 else None, stderr=subprocess.DEVNULL)

    def kill(self):
        """As a machine that loses power."""
        processes = self.processes()
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        alive = lambda pid: pathlib.Path(f"/proc/{pid}/stat").exists() and " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
        until(lambda: not any(map(alive, processes)))
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for file in self.folder.glob(".s.PGSQL.*"):
            file.unlink()

    def copy(self, folder, *options):
        """A physical copy, which is not started."""
        other = Server(folder)
        self.program("pg_basebackup", "-h", self.folder, "-U", "postgres", "-D", other.data, "-X", "stream", "-c", "fast", "--no-sync", *options)
        return other


class Chaos:
    def __init__(self, folder, seed):
        self.folder, self.chance = pathlib.Path(folder), random.Random(seed)
        self.copies, self.database, self.happened = 0, "chaos", []
        self.server = Server(self.place()).make().start()
        self.run("CREATE DATABASE chaos", "postgres")
        self.run("CREATE EXTENSION audit_cdc")
        self.run(SCHEMA)
        self.run("CREATE SCHEMA app; CREATE SCHEMA elsewhere")
        for table in PLAIN:
            self.run(TABLE.format(table, ""))
        self.run(TABLE.format("delta", "PARTITION BY RANGE (id)") + ";" + PARTITIONS)
        self.run("ALTER TABLE alpha SET SCHEMA public")
        # one by its name, the others by their schema
        self.run("CREATE PUBLICATION audited FOR TABLE alpha, TABLES IN SCHEMA app WITH (publish_via_partition_root)")
        self.begin()

    def place(self):
        """A folder for one more server."""
        self.copies += 1
        folder = self.folder / str(self.copies)
        folder.mkdir()
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        return folder

    def connect(self, database=None):
        connection = psycopg2.connect(dbname=database or self.database, host=str(self.server.folder), user="postgres", options="-c search_path=app,public")
        connection.autocommit = True
        return connection

    def rows(self, sql, *arguments, database=None):
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, arguments or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def value(self, sql, *arguments, database=None):
        return self.rows(sql, *arguments, database=database)[0][0]

    def run(self, sql, database=None):
        self.rows(sql, database=database)

    def begin(self):
        self.run("SELECT audit_capture_start('audited')")

    def again(self):
        """After a capture that has lost its slot."""
        self.run("CALL audit_capture_stop(discard_pending => true)")
        self.begin()

    def setting(self, name, to):
        self.run(f"ALTER SYSTEM SET {name} = {to}")
        self.run("SELECT pg_reload_conf()")
        until(lambda: self.value(f"SHOW {name}") == to.strip("'"))

    # what happens; each leaves a server that is captured, and changes in whatever gap it has made

    def work(self):
        """Transactions of several kinds, with savepoints and annotations."""
        with self.connect() as connection, connection.cursor() as cursor:
            for _ in range(self.chance.randint(5, 40)):
                connection.autocommit = False
                for _ in range(self.chance.randint(1, 6)):
                    table, row = self.chance.choice(TABLES), self.chance.randint(1, 30)
                    text = self.chance.choice(["x", "é\"\\\n", "long " * 2000, ""])
                    if self.chance.random() < 0.1:
                        cursor.execute("SELECT audit_annotate(username => %s)", (text[:100],))
                    if self.chance.random() < 0.2:
                        cursor.execute("SAVEPOINT s")
                        cursor.execute(f"UPDATE {table} SET v = -v WHERE id = %s", (row,))
                        cursor.execute("ROLLBACK TO s")
                    cursor.execute(self.chance.choice([
                        f"INSERT INTO {table} (id, t) VALUES (%(row)s, %(text)s) ON CONFLICT (id) DO UPDATE SET v = nextval('numbers'), t = excluded.t",
                        f"UPDATE {table} SET v = nextval('numbers') WHERE id = %(row)s",
                        f"DELETE FROM {table} WHERE id = %(row)s"]), {"row": row, "text": text})
                connection.rollback() if self.chance.random() < 0.1 else connection.commit()

    def change_each(self):
        for table in TABLES:
            self.run(f"INSERT INTO {table} (id, t) VALUES (100, 'x') ON CONFLICT (id) DO UPDATE SET v = nextval('numbers')")

    def power_loss(self):
        self.server.kill()
        self.server.start()

    def restart(self):
        self.server.stop(self.chance.choice(["fast", "immediate"]))
        self.server.start()

    def hostile_messages(self):
        self.run("SELECT pg_logical_emit_message(true, 'x', repeat('a', 50000000))")
        for content in ('{"x":"\\u0000"}', "no JSON", '{"a":1e999999}', "x" * 100_000):
            with self.connect() as connection, connection.cursor() as cursor:
                connection.autocommit = False
                cursor.execute("SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', %s)", (content,))
                cursor.execute("INSERT INTO alpha (id) VALUES (101) ON CONFLICT (id) DO UPDATE SET v = nextval('numbers')")
                connection.commit()

    def giant_row(self):
        self.run("UPDATE beta SET t = repeat('giant ', 5000000), v = nextval('numbers') WHERE id = (SELECT min(id) FROM beta)")

    def disk_full(self):
        """The log has no room for what was committed, which waits until it has."""
        self.setting("audit_cdc.capture_enabled", "off")
        self.run("CALL audit_capture()")
        self.run("""INSERT INTO beta (id, t) SELECT 200 + id, string_agg(encode(sha512(n::text::bytea), 'base64'), '')
                    FROM generate_series(1, 20) AS id, generate_series(1, 11000) AS n GROUP BY id""")
        self.server.limit_files(16 << 20)  # files of the WAL have that size
        try:
            self.setting("audit_cdc.capture_enabled", "on")
            until(lambda: self.value("SELECT last_error ~ 'could not (extend|write)' FROM audit_capture_status()"))
            assert self.value("SELECT lag_seconds > 0 FROM audit_capture_status()")
        finally:
            self.server.limit_files("unlimited")
        until(self.is_settled)
        self.run("DELETE FROM beta WHERE id > 200")

    def vacuum_full(self):
        self.run(f"VACUUM FULL {self.chance.choice(TABLES)}")

    def pending_ddl(self):
        """Changes before and after a change of the table, all of them pending when it comes."""
        table, column = self.chance.choice(TABLES), f"c{self.value('SELECT nextval(%s)', 'numbers')}"
        with self.connect() as connection, connection.cursor() as cursor:
            connection.autocommit = False
            cursor.execute(f"UPDATE {table} SET v = nextval('numbers')")
            cursor.execute(f"ALTER TABLE {table} ADD COLUMN {column} int")
            cursor.execute(f"UPDATE {table} SET v = nextval('numbers'), {column} = id")
            cursor.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO {column}_renamed")
            cursor.execute(f"UPDATE {table} SET v = nextval('numbers')")
            cursor.execute(f"ALTER TABLE {table} DROP COLUMN {column}_renamed")
            cursor.execute(f"UPDATE {table} SET v = nextval('numbers')")
            connection.commit()

    def stop_and_start(self):
        self.run("CALL audit_capture_stop()")
        self.change_each()
        self.begin()

    def taken_away(self, sql):
        """While capture is paused, somebody takes from its slot what is pending."""
        self.setting("audit_cdc.capture_enabled", "off")
        self.run("CALL audit_capture()")
        self.change_each()
        until(lambda: not self.value("SELECT active FROM pg_replication_slots WHERE database = current_database()"))
        self.run(sql)
        self.run("CHECKPOINT")  # a crash would bring the slot, and the changes, back
        self.setting("audit_cdc.capture_enabled", "on")

    def slot_advanced(self):
        self.taken_away("SELECT pg_replication_slot_advance(slot_name, pg_current_wal_insert_lsn()) FROM pg_replication_slots WHERE database = current_database()")

    def slot_consumed(self):
        self.taken_away("SELECT count(*) FROM pg_replication_slots, pg_logical_slot_get_binary_changes(slot_name, NULL, NULL, 'publication', 'audited') WHERE database = current_database()")

    def slot_dropped(self):
        self.taken_away("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
        self.again()

    def slot_invalidated(self):
        self.setting("wal_keep_size", "0")
        self.setting("max_slot_wal_keep_size", "'1MB'")
        self.setting("audit_cdc.capture_enabled", "off")
        self.change_each()
        for _ in range(4):
            self.run("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000)), pg_switch_wal()")
        self.run("CHECKPOINT")
        until(lambda: self.value("SELECT wal_status = 'lost' FROM pg_replication_slots WHERE database = current_database()"))
        self.setting("max_slot_wal_keep_size", "-1")
        self.setting("wal_keep_size", "'2GB'")
        self.setting("audit_cdc.capture_enabled", "on")
        self.again()

    def meanwhile(self, table, away, back):
        """A change of the table while it is away."""
        self.run(away)
        self.run(f"INSERT INTO {table} (id) VALUES (102) ON CONFLICT (id) DO UPDATE SET v = nextval('numbers')")
        self.run(back)

    def unpublished(self):
        self.meanwhile("alpha", "ALTER PUBLICATION audited DROP TABLE alpha", "ALTER PUBLICATION audited ADD TABLE alpha")

    def moved_away(self):
        self.meanwhile("elsewhere.beta", "ALTER TABLE app.beta SET SCHEMA elsewhere", "ALTER TABLE elsewhere.beta SET SCHEMA app")

    def unlogged(self):
        self.meanwhile("gamma", "ALTER TABLE gamma SET UNLOGGED", "ALTER TABLE gamma SET LOGGED")

    def moved_between_partitions(self):
        """There and back: each time a row goes and another comes."""
        self.run("""INSERT INTO delta (id) VALUES (20) ON CONFLICT (id) DO UPDATE SET v = nextval('numbers'); DELETE FROM delta WHERE id = 70;
                    UPDATE delta SET id = 70, v = nextval('numbers') WHERE id = 20; UPDATE delta SET id = 20, v = nextval('numbers') WHERE id = 70""")

    def new_partition(self):
        """Its rows are told under the root's name at once."""
        first = 1000 + self.value("SELECT nextval('numbers')")
        self.run(f"CREATE TABLE parts.p{first} PARTITION OF delta FOR VALUES FROM ({first}) TO ({first + 1}); ALTER TABLE parts.p{first} REPLICA IDENTITY FULL")
        self.run(f"INSERT INTO delta (id) VALUES ({first}); UPDATE delta SET v = nextval('numbers') WHERE id = {first}")

    def partition_truncated(self):
        self.run("INSERT INTO delta (id) VALUES (20) ON CONFLICT (id) DO NOTHING; UPDATE delta SET v = nextval('numbers')")
        with self.connect() as connection, connection.cursor() as cursor:
            connection.autocommit = False
            cursor.execute(GO_ALONG, ("truncated",))
            cursor.execute("TRUNCATE parts.low")
            connection.commit()

    def partition_away_and_back(self):
        """It leaves with its rows, and comes back with others."""
        self.run("INSERT INTO delta (id) VALUES (20) ON CONFLICT (id) DO NOTHING; UPDATE delta SET v = nextval('numbers')")
        for op, ddl in (("detached", "ALTER TABLE delta DETACH PARTITION parts.low"), ("attached", "ALTER TABLE delta ATTACH PARTITION parts.low FOR VALUES FROM (0) TO (50)")):
            with self.connect() as connection, connection.cursor() as cursor:
                connection.autocommit = False
                cursor.execute(GO_ALONG, (op,))
                cursor.execute(ddl)
                connection.commit()
            if op == "detached":
                self.run("UPDATE parts.low SET v = nextval('numbers'), t = 'while it was away'; INSERT INTO parts.low (id) VALUES (40) ON CONFLICT (id) DO NOTHING")

    def copied_database(self):
        """The copy must leave the original alone."""
        self.setting("audit_cdc.capture_enabled", "off")
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.database}' AND pid <> pg_backend_pid()", "postgres")
        until(lambda: self.copied())
        self.setting("audit_cdc.capture_enabled", "on")
        self.run("CALL audit_capture_stop(discard_pending => true)", "copy")
        self.run("DROP DATABASE copy WITH (FORCE)", "postgres")

    def copied(self):
        try:
            self.run(f"CREATE DATABASE copy TEMPLATE {self.database}", "postgres")
            return True
        except psycopg2.Error:
            return False

    def promotion(self):
        """A standby takes over; the slot stays behind."""
        standby = self.server.copy(self.place(), "-R").start()
        self.change_each()
        end = self.value("SELECT pg_current_wal_flush_lsn()")
        self.server, primary = standby, self.server
        until(lambda: self.value("SELECT pg_last_wal_replay_lsn() >= %s", end))
        primary.stop("immediate")
        standby.program("pg_ctl", "-D", standby.data, "-w", "promote")
        shutil.rmtree(primary.folder)
        self.change_each()
        self.again()

    def moment_restored(self):
        """Point-in-time recovery from a base backup and the WAL."""
        backup = self.server.copy(self.place())
        self.work()
        self.change_each()
        self.run("SELECT pg_create_restore_point('wanted'), pg_switch_wal()")
        self.work()
        self.server.stop("fast")
        with open(backup.data / "postgresql.auto.conf", "a") as file:
            file.write(f"restore_command = 'cp {self.server.data}/pg_wal/%f %p'\nrecovery_target_name = 'wanted'\nrecovery_target_action = 'promote'\n")
        (backup.data / "recovery.signal").touch()
        if os.getuid() == 0:
            shutil.chown(backup.data / "recovery.signal", "postgres")
        self.server, old = backup.start(), self.server
        until(lambda: not self.value("SELECT pg_is_in_recovery()"))
        shutil.rmtree(old.folder)
        for name in ("restore_command", "recovery_target_name", "recovery_target_action"):
            self.run(f"ALTER SYSTEM RESET {name}")
        self.change_each()
        self.again()

    def dumped_and_restored(self):
        """The database moves: another one goes on from its log."""
        self.run("CALL audit_capture_stop()")
        old, self.copies = self.database, self.copies + 1
        old_id = self.value("SELECT audit_cdc_internal.this_database() ->> 'id'")
        dump = self.folder / f"{self.copies}.dump"
        self.run(f"CREATE DATABASE restored_{self.copies} TEMPLATE template0", "postgres")
        # pg_dump may not write into the folder of the tests
        dumped = self.server.program("pg_dump", "-h", self.server.folder, "-U", "postgres", "-Fc", old).stdout
        dump.write_bytes(dumped)
        dump.chmod(0o644)
        self.server.program("pg_restore", "-h", self.server.folder, "-U", "postgres", "--exit-on-error", "-d", f"restored_{self.copies}", dump)
        dump.unlink()
        self.database = f"restored_{self.copies}"
        self.change_each()
        self.rows("SELECT audit_continue(%s, 'moved')", old_id)
        self.begin()
        self.run(f"DROP DATABASE {old} WITH (FORCE)", "postgres")

    def prepared(self):
        """A transaction that is prepared before a crash, and committed after it."""
        self.run("BEGIN; INSERT INTO alpha (id) VALUES (104) ON CONFLICT (id) DO UPDATE SET v = nextval('numbers'); PREPARE TRANSACTION 'p'")
        self.power_loss()
        self.run("COMMIT PREPARED 'p'")

    LOSSLESS = [work, work, work, power_loss, restart, hostile_messages, giant_row, vacuum_full, pending_ddl, prepared, copied_database, moved_between_partitions, new_partition,
                disk_full]
    # each leaves a gap
    LOSSY = [stop_and_start, slot_advanced, slot_consumed, slot_dropped, slot_invalidated, unpublished, moved_away, unlogged, promotion, moment_restored, dumped_and_restored, partition_truncated,
             partition_away_and_back]

    def step(self, happening):
        print(f"{len(self.happened):4} {happening.__name__}", flush=True)
        self.happened.append(happening.__name__)
        before = self.gaps()
        happening(self)
        until(self.is_settled)
        if happening in self.LOSSLESS:
            assert self.gaps() == before, ("a gap where nothing is missing", self.gaps())

    def gaps(self):
        return self.rows(GAPS)

    def is_settled(self):
        """All that was committed is in the log."""
        try:
            self.run("CALL audit_capture()")
            return True
        except psycopg2.OperationalError:
            return False

    def missing(self):
        return self.rows(MISSING, TABLES)

    def prove(self):
        wrong = self.rows(WRONG, TABLES, TABLES)
        assert not wrong, wrong
        assert self.value("SELECT count(*) FROM audit_rejects") == 0
        gaps, missing = self.gaps(), self.missing()
        # a change's commit comes after its own position: it is within a gap, or the gap begins after it and before its commit
        covers = lambda gap, change: gap[1] in (None, change[0]) and (gap[4] is None or number(change[3]) < number(gap[4]))
        unsaid = [change for change in missing if not any(covers(gap, change) for gap in gaps)]
        assert not unsaid, ("missing, and no gap says so", unsaid, gaps)
        needless = [gap for gap in gaps if not any(covers(gap, change) for change in missing)]
        assert not needless, ("a gap where nothing is missing", needless)

    def close(self):
        """Backfills close all gaps, and then the log knows what the tables are."""
        for table in TABLES:
            self.run(f"CALL audit_backfill('{table}')")
        still_open = [gap for gap in self.gaps() if gap[5]]
        assert not still_open, still_open
        until(self.is_settled)
        for table in TABLES:
            differs = self.rows(f"(TABLE {table} EXCEPT SELECT * FROM audit_as_of(NULL::{table}, now())) UNION ALL (SELECT * FROM audit_as_of(NULL::{table}, now()) EXCEPT TABLE {table})")
            assert not differs, (table, differs[:5])

    def go_on(self, steps=None, seconds=None):
        """Everything once, in any order, and then what comes, for so many steps or so long."""
        end = time.monotonic() + (seconds or 0)
        happenings = [*dict.fromkeys(self.LOSSLESS), *self.LOSSY]
        self.chance.shuffle(happenings)
        self.step(Chaos.work)
        while happenings if steps is None and seconds is None else len(self.happened) < (steps or 10**9) and not (seconds and time.monotonic() > end):
            self.step(happenings.pop() if happenings else self.chance.choice(self.LOSSLESS + self.LOSSY))
            if self.chance.random() < 0.5:
                self.step(Chaos.work)
            self.prove()
        self.prove()
        self.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments.add_argument("--minutes", type=float, default=10)
    given = arguments.parse_args()
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        chaos = Chaos(folder, given.seed)
        try:
            chaos.go_on(seconds=60 * given.minutes)
        finally:
            chaos.server.stop("immediate")
        print(f"seed {given.seed}: {len(chaos.happened)} steps, nothing lost")


if __name__ == "__main__":
    main()
