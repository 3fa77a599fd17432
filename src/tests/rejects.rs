//! What cannot be taken is set aside, whole.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    /// The SQLSTATE of a message that is set aside.
    fn set_aside(message: &str) -> String {
        assert_eq!(ingest_body(&format!("[{message}]")), [1, 0, 0, 1]);
        value(&format!("SELECT sqlstate FROM audit_rejects WHERE raw = $raw${message}$raw$"))
            .expect("set aside as it is")
    }

    #[pg_test]
    fn the_good_ones_beside_it_are_taken() {
        let good = |position| message("insert", r#"{"id":1}"#).at(position);
        assert_eq!(ingest(&[good(0), message("upsert", "{}").at(1), good(2)]), [3, 2, 0, 1]);
        assert_eq!(
            row("SELECT sqlstate, batch_position, deliveries, table_name FROM audit_rejects"),
            "22023 | 2 | 1 | orders"
        );
    }

    #[pg_test]
    fn what_is_missing() {
        let whole = message("insert", r#"{"id":1}"#).json();
        for field in ["action", "record", "metadata", "commit_lsn", "commit_timestamp", "table_name"] {
            assert_eq!(
                set_aside(&whole.replace(&format!("\"{field}\""), &format!("\"no_{field}\""))),
                "2203A",
                "{field}"
            );
        }
    }

    #[pg_test]
    fn times_that_are_none() {
        let at = |time| set_aside(&message("insert", r#"{"id":1}"#).time(time).json());
        assert_eq!(at("2026-02-30T00:00:00Z"), "22007");
        assert_eq!(at("infinity"), "22007");
        assert_eq!(at("0044-03-15T00:00:00Z"), "22008");
    }

    #[pg_test]
    fn what_jsonb_cannot_hold() {
        assert_eq!(set_aside(&message("insert", r#"{"a\u0000":1}"#).json()), "22P05");
        assert_eq!(set_aside(&message("insert", r#"{"a\ud800":1}"#).at(1).json()), "22P02");
    }

    #[pg_test]
    fn a_body_that_is_no_json() {
        for body in ["", "no json", r#"{"data":["#, "[1,]"] {
            assert_eq!(ingest_body(body), [1, 0, 0, 1], "{body}");
            assert_eq!(value(&format!("SELECT count(*) FROM audit_rejects WHERE raw = '{body}'")).unwrap(), "1");
        }
        assert_eq!(value("SELECT string_agg(DISTINCT sqlstate, ' ') FROM audit_rejects").unwrap(), "22P02");
    }

    #[pg_test]
    fn a_second_delivery_is_counted() {
        for _ in 0..3 {
            ingest(&[message("upsert", "{}")]);
        }
        assert_eq!(row("SELECT count(*), max(deliveries) FROM audit_rejects"), "1 | 3");
    }

    #[pg_test]
    fn another_change_under_the_same_key() {
        ingest(&[message("insert", r#"{"id":1}"#)]);
        assert_eq!(set_aside(&message("delete", r#"{"id":1}"#).json()), "23505");
    }

    #[pg_test]
    fn on_reject_error_fails_the_call() {
        run("SET LOCAL audit_cdc.on_reject = error");
        let body = format!("[{},{}]", message("insert", "{}").json(), message("upsert", "{}").at(1).json());
        assert_eq!(error(&format!("SELECT audit_ingest($b${body}$b$)")), "22023 unknown action");
        assert_eq!(row("SELECT (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM audit_rejects)"), "0 | 0");
    }

    #[pg_test]
    fn what_is_retried_and_still_cannot_be_taken_stays() {
        ingest(&[message("upsert", "{}")]);
        assert_eq!(row("SELECT * FROM audit_retry_rejects()"), "1 | 0 | 0 | 1");
        assert_eq!(row("SELECT retries, deliveries FROM audit_rejects"), "1 | 1");
    }
}
