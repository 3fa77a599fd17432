//! What a change becomes in the log.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    #[pg_test]
    fn an_insert_becomes_an_entry() {
        assert_eq!(ingest(&[message("insert", r#"{"id":1,"v":"a"}"#)]), [1, 1, 0, 0]);
        assert_eq!(
            row("SELECT database_id, table_schema, table_name, record_id, action, commit_lsn, commit_idx,
                        old_values, new_values FROM audit_logs"),
            r#"d1 | public | orders | 1 | insert | 61536216 | 0 | ∅ | {"v": "a", "id": 1}"#
        );
    }

    #[pg_test]
    fn an_update_has_the_old_values_of_what_it_changed() {
        ingest(&[message("update", r#"{"id":1,"v":"b","w":"c"}"#).changes(r#"{"v":"a"}"#)]);
        assert_eq!(
            row("SELECT old_values ->> 'v', new_values FROM audit_logs"),
            r#"a | {"v": "b", "w": "c", "id": 1}"#
        );
    }

    #[pg_test]
    fn a_delete_has_old_values_alone() {
        ingest(&[message("delete", r#"{"id":1,"v":"a"}"#)]);
        let entry = row("SELECT action, old_values, new_values FROM audit_logs");
        assert_eq!(entry, r#"delete | {"v": "a", "id": 1} | ∅"#);
    }

    #[pg_test]
    fn a_read_is_a_row_as_it_was_found() {
        ingest(&[message("read", r#"{"id":1,"v":"a"}"#)]);
        assert_eq!(row("SELECT action, old_values, new_values FROM audit_logs"), r#"read | ∅ | {"v": "a", "id": 1}"#);
    }

    #[pg_test]
    fn a_second_delivery_is_a_duplicate() {
        let batch = [message("insert", r#"{"id":1}"#), message("delete", r#"{"id":1}"#).at(1)];
        assert_eq!(ingest(&batch), [2, 2, 0, 0]);
        assert_eq!(ingest(&batch), [2, 0, 2, 0]);
    }

    #[pg_test]
    fn twice_in_one_batch_is_a_duplicate_too() {
        let change = message("insert", r#"{"id":1}"#);
        assert_eq!(ingest(&[change.clone(), change]), [2, 1, 1, 0]);
    }

    #[pg_test]
    fn the_same_position_of_another_database_is_another_change() {
        let change = message("insert", r#"{"id":1}"#);
        assert_eq!(ingest(&[change.clone(), change.database("d2")]), [2, 2, 0, 0]);
    }

    #[pg_test]
    fn annotations_fill_their_columns() {
        let annotations =
            r#"{"username":"ada","source":"web","request_id":"r1","metadata":{"reason":"refund"},"tenant":7}"#;
        ingest(&[message("insert", r#"{"id":1}"#).annotations(annotations)]);
        assert_eq!(
            row("SELECT username, source, request_id, metadata, annotations -> 'tenant' AS tenant FROM audit_logs"),
            r#"ada | web | r1 | {"reason": "refund"} | 7"#
        );
    }

    #[pg_test]
    fn a_key_of_several_columns_is_a_list() {
        ingest(&[message("insert", r#"{"a":1,"b":2}"#).keys(r#"["1","2"]"#)]);
        assert_eq!(row("SELECT record_id, record_pks FROM audit_logs"), r#"["1","2"] | ["1","2"]"#);
    }

    #[pg_test]
    fn a_time_is_kept_to_the_microsecond() {
        ingest(&[message("insert", r#"{"id":1}"#).time("2026-03-01T23:59:59.999999+02:00")]);
        assert_eq!(
            value("SELECT commit_timestamp AT TIME ZONE 'UTC' FROM audit_logs").unwrap(),
            "2026-03-01 21:59:59.999999"
        );
    }

    #[pg_test]
    fn the_record_is_what_its_last_change_left() {
        ingest(&[
            message("insert", r#"{"id":1,"v":"a"}"#),
            message("update", r#"{"id":1,"v":"b"}"#).changes(r#"{"v":"a"}"#).at(1),
        ]);
        assert_eq!(row("SELECT count(*), min(v ->> 'v') FROM audit_as_of('orders') AS v"), "1 | b");
    }

    #[pg_test]
    fn an_entry_cannot_be_changed_or_removed() {
        ingest(&[message("insert", r#"{"id":1}"#)]);
        for statement in
            ["UPDATE audit_logs SET username = 'eve'", "DELETE FROM audit_logs", "TRUNCATE audit_cdc_internal.log"]
        {
            let told = error(statement);
            assert!(told.starts_with("42501 ") || told.starts_with("55000 "), "{statement}: {told}");
        }
        assert_eq!(value("SELECT count(*) FROM audit_logs WHERE username IS NULL").unwrap(), "1");
    }
}
