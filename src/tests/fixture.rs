//! What the tests inside the server share: a builder of messages as Sequin sends them, and short ways to ask SQL.

use pgrx::prelude::*;

/// One message. What a test does not set is the same in all of them.
#[derive(Clone)]
pub struct Message {
    action: &'static str,
    record: String,
    changes: String,
    keys: String,
    database: String,
    time: String,
    annotations: String,
    position: i32,
}

/// A message with this action and record, both as Sequin writes them.
pub fn message(action: &'static str, record: &str) -> Message {
    Message {
        action,
        record: record.into(),
        changes: "null".into(),
        keys: r#"["1"]"#.into(),
        database: "d1".into(),
        time: "2026-03-01T09:00:00.000000Z".into(),
        annotations: "null".into(),
        position: 0,
    }
}

impl Message {
    /// The values that an update replaced.
    pub fn changes(self, json: &str) -> Self {
        Self { changes: json.into(), ..self }
    }
    /// The record's key, a JSON list.
    pub fn keys(self, json: &str) -> Self {
        Self { keys: json.into(), ..self }
    }
    pub fn database(self, id: &str) -> Self {
        Self { database: id.into(), ..self }
    }
    pub fn time(self, text: &str) -> Self {
        Self { time: text.into(), ..self }
    }
    pub fn annotations(self, json: &str) -> Self {
        Self { annotations: json.into(), ..self }
    }
    /// Its place in the transaction; another place is another change.
    pub fn at(self, position: i32) -> Self {
        Self { position, ..self }
    }
    pub fn json(&self) -> String {
        let Self { action, record, changes, keys, database, time, annotations, position } = self;
        format!(
            r#"{{"action":"{action}","record":{record},"changes":{changes},"metadata":{{
            "commit_lsn":61536216,"commit_idx":{position},"commit_timestamp":"{time}",
            "idempotency_key":"61536216:{position}","record_pks":{keys},"table_schema":"public","table_name":"orders",
            "database":{{"id":"{database}","name":"shop"}},"transaction_annotations":{annotations}}}}}"#
        )
    }
}

/// [received, inserted, duplicates, rejected] of a body.
pub fn ingest_body(body: &str) -> [i64; 4] {
    counts("SELECT * FROM audit_ingest($1)", body)
}

/// The same of a batch.
pub fn ingest(messages: &[Message]) -> [i64; 4] {
    let messages: Vec<String> = messages.iter().map(Message::json).collect();
    ingest_body(&format!(r#"{{"data":[{}]}}"#, messages.join(",")))
}

fn counts(sql: &str, body: &str) -> [i64; 4] {
    Spi::connect_mut(|client| {
        let row = client.update(sql, Some(1), &[body.into()]).unwrap().first();
        [1, 2, 3, 4].map(|column| row.get(column).unwrap().unwrap())
    })
}

/// An expression's value as text; None is null.
pub fn value(expression: &str) -> Option<String> {
    Spi::get_one(&format!("SELECT ({expression})::text")).unwrap()
}

/// The first row of a query, its columns as text and joined; a null is shown as ∅.
pub fn row(query: &str) -> String {
    Spi::get_one(&format!(
        "SELECT coalesce(string_agg(coalesce(c.value, '∅'), ' | ' ORDER BY c.ordinality), 'no row')
         FROM (SELECT to_json(q) AS row FROM ({query}) AS q LIMIT 1) AS r,
              json_each_text(r.row) WITH ORDINALITY AS c(key, value, ordinality)"
    ))
    .unwrap()
    .unwrap()
}

/// SQLSTATE and message of the error in which the statement ends; empty if it does not.
pub fn error(statement: &str) -> String {
    Spi::run(&format!(
        "DO $do$ BEGIN
           EXECUTE $statement${statement}$statement$;
           PERFORM set_config('tests.error', '', true);
         EXCEPTION WHEN OTHERS THEN
           PERFORM set_config('tests.error', SQLSTATE || ' ' || SQLERRM, true);
         END $do$"
    ))
    .unwrap();
    value("current_setting('tests.error')").unwrap()
}

pub fn run(statement: &str) {
    Spi::run(statement).unwrap();
}
