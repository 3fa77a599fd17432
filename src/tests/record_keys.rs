//! One record, one `record_key`, however its key is spelled.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    /// Describes the table, whose key's columns have these types.
    fn describe(types: &[&str]) {
        let columns: Vec<String> = (0..types.len()).map(|n| format!("\"k{n}\"")).collect();
        let typed: Vec<String> =
            columns.iter().zip(types).map(|(column, type_)| format!("{column}:\"{type_}\"")).collect();
        run(&format!(
            r#"SELECT audit_describe_tables('d1', $d${{"described_at":"2026-01-01","tables":[{{
            "table_schema":"public","table_name":"orders","replica_identity":"default","key_columns":[{columns}],
            "identity_columns":[{columns}],"column_types":{{{}}},
            "never_sent":[],"null_in_reads":[]}}]}}$d$)"#,
            typed.join(","),
            columns = columns.join(",")
        ));
    }

    /// How many records the log sees in these keys, each a JSON list.
    fn records(keys: &[&str]) -> String {
        let messages: Vec<Message> =
            keys.iter().enumerate().map(|(n, keys)| message("insert", r#"{"a":1}"#).keys(keys).at(n as i32)).collect();
        assert_eq!(ingest(&messages)[1], keys.len() as i64);
        value("SELECT count(DISTINCT record_key) FROM audit_logs").unwrap()
    }

    #[pg_test]
    fn without_a_description_the_text_decides() {
        assert_eq!(records(&[r#"["1.5"]"#, r#"["1.50"]"#]), "2");
        assert_eq!(value("SELECT bool_and(record_key = record_id) FROM audit_logs").unwrap(), "true");
    }

    #[pg_test]
    fn equal_numbers_are_one_record() {
        describe(&["numeric"]);
        assert_eq!(records(&[r#"["1.5"]"#, r#"["1.50"]"#, r#"["01.5"]"#, r#"["-1.5"]"#]), "2");
    }

    #[pg_test]
    fn equal_times_are_one_record() {
        describe(&["timestamp with time zone"]);
        let keys = [
            r#"["2024-05-01 10:00:00.5+00"]"#,
            r#"["2024-05-01T10:00:00.500000Z"]"#,
            r#"["2024-05-01 12:00:00.5+02"]"#,
        ];
        assert_eq!(records(&keys), "1");
    }

    #[pg_test]
    fn blanks_at_the_end_of_a_character_are_none() {
        describe(&["character(4)"]);
        assert_eq!(records(&[r#"["ab"]"#, r#"["ab  "]"#, r#"[" ab"]"#]), "2");
    }

    #[pg_test]
    fn text_is_never_merged() {
        describe(&["text"]);
        assert_eq!(records(&[r#"["1.5"]"#, r#"["1.50"]"#, r#"["a"]"#, r#"["A"]"#, r#"["a "]"#]), "5");
    }

    #[pg_test]
    fn each_column_of_a_key_by_its_own_type() {
        describe(&["numeric", "text"]);
        assert_eq!(records(&[r#"["1.0","1.0"]"#, r#"["1","1.0"]"#, r#"["1.0","1"]"#]), "2");
    }

    #[pg_test]
    fn what_the_type_does_not_take_stays_as_it_is() {
        describe(&["numeric"]);
        assert_eq!(records(&[r#"["one"]"#, r#"["1"]"#]), "2");
        assert_eq!(value("SELECT record_key FROM audit_logs WHERE record_id = 'one'").unwrap(), "one");
    }

    #[pg_test]
    fn a_description_also_joins_what_is_in_the_log() {
        assert_eq!(records(&[r#"["1.5"]"#, r#"["1.50"]"#]), "2");
        describe(&["numeric"]);
        assert_eq!(value("SELECT count(DISTINCT record_key) FROM audit_logs").unwrap(), "1");
    }
}
