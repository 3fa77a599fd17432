//! What `audit_ingest` takes as a body.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    fn change(position: i32) -> String {
        message("insert", r#"{"id":1}"#).at(position).json()
    }

    #[pg_test]
    fn a_batch_a_list_and_a_message_alone() {
        assert_eq!(ingest_body(&format!(r#"{{"data":[{}]}}"#, change(0))), [1, 1, 0, 0]);
        assert_eq!(ingest_body(&format!("[{},{}]", change(1), change(0))), [2, 1, 1, 0]);
        assert_eq!(ingest_body(&change(2)), [1, 1, 0, 0]);
    }

    #[pg_test]
    fn an_empty_batch_is_none() {
        for body in [r#"{"data":[]}"#, "[]", " [ ] "] {
            assert_eq!(ingest_body(body), [0, 0, 0, 0], "{body}");
        }
    }

    #[pg_test]
    fn several_bodies_in_one_call() {
        let counts = row(&format!(
            "SELECT * FROM audit_ingest(ARRAY[$a${}$a$, $b$[{}]$b$, '{{\"broken'])",
            change(0),
            change(1)
        ));
        assert_eq!(counts, "3 | 2 | 0 | 1");
    }

    #[pg_test]
    fn a_body_as_jsonb() {
        assert_eq!(row(&format!("SELECT * FROM audit_ingest($a${}$a$::jsonb)", change(0))), "1 | 1 | 0 | 0");
    }

    #[pg_test]
    fn null_is_an_error() {
        for nothing in ["NULL", "NULL::text[]", "ARRAY['[]', NULL]"] {
            assert_eq!(error(&format!("SELECT audit_ingest({nothing})")), "22004 body must not be null", "{nothing}");
        }
    }

    #[pg_test]
    fn spacing_and_line_ends_are_of_no_matter() {
        let spaced = change(0).replace("\":", "\" :\r\n\t ").replace(",\"", " ,\n\"");
        assert_eq!(ingest_body(&spaced), [1, 1, 0, 0]);
        assert_eq!(ingest_body(&change(0)), [1, 0, 1, 0]);
    }
}
