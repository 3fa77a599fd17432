//! `audit_annotate`: who and why, in force until the transaction ends.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    fn annotate(arguments: &str) -> String {
        value(&format!("SELECT audit_annotate({arguments})")).unwrap()
    }

    #[pg_test]
    fn what_is_in_force_is_returned() {
        assert_eq!(annotate("username => 'ada', request_id => 'r1'"), r#"{"username": "ada", "request_id": "r1"}"#);
    }

    #[pg_test]
    fn a_later_call_adds_and_replaces() {
        annotate("'ada', 'web'");
        assert_eq!(
            annotate("source => 'api', request_id => 'r2'"),
            r#"{"source": "api", "username": "ada", "request_id": "r2"}"#
        );
    }

    #[pg_test]
    fn metadata_merges_to_its_depth() {
        annotate(r#"metadata => '{"a":1,"deep":{"x":1}}'"#);
        assert_eq!(
            annotate(r#"metadata => '{"b":null,"deep":{"y":2}}'"#),
            r#"{"metadata": {"a": 1, "b": null, "deep": {"y": 2}}}"#
        );
    }

    #[pg_test]
    fn extra_keys_stand_beside_the_usual_ones() {
        assert_eq!(annotate(r#"'ada', extra => '{"tenant":7}'"#), r#"{"tenant": 7, "username": "ada"}"#);
    }

    #[pg_test]
    fn after_clear_nothing_is_in_force() {
        annotate("'ada'");
        run("SELECT audit_annotate_clear()");
        assert_eq!(annotate("source => 'web'"), r#"{"source": "web"}"#);
    }

    #[pg_test]
    fn what_a_subtransaction_annotated_ends_with_it() {
        annotate("'ada'");
        let rolled_back = "DO $$ BEGIN PERFORM audit_annotate(source => 'lost'); RAISE 'undone'; END $$";
        assert_eq!(error(rolled_back), "P0001 undone");
        assert_eq!(annotate("request_id => 'r1'"), r#"{"username": "ada", "request_id": "r1"}"#);
    }

    #[pg_test]
    fn nothing_to_annotate_is_an_error() {
        assert_eq!(error("SELECT audit_annotate()"), "22023 nothing to annotate");
        assert_eq!(error("SELECT audit_annotate(NULL, NULL)"), "22023 nothing to annotate");
    }

    #[pg_test]
    fn an_object_is_wanted() {
        assert_eq!(error("SELECT audit_annotate(metadata => '[1]')"), "22023 metadata is not a JSON object");
        assert_eq!(error("SELECT audit_annotate(extra => 'null')"), "22023 extra is not a JSON object");
    }

    #[pg_test]
    fn extra_forges_no_usual_key() {
        for key in ["username", "source", "request_id", "metadata"] {
            assert_eq!(
                error(&format!(r#"SELECT audit_annotate(extra => '{{"{key}":"eve"}}')"#)),
                format!(r#"22023 extra must not contain the key "{key}""#)
            );
        }
    }
}
