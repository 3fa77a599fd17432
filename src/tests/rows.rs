//! `audit_row`: an image of a row, back to the row.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    fn table() {
        run(r#"CREATE TABLE people (id int, "E-Mail" text, tags text[], price numeric(6,2), gone int, about jsonb);
               ALTER TABLE people DROP COLUMN gone"#);
    }

    #[pg_test]
    fn columns_by_their_names() {
        table();
        let image = r#"{"price":"1.50","E-Mail":"a@b","id":7,"tags":["x"],"about":{"a":1}}"#;
        assert_eq!(
            value(&format!("SELECT audit_row(NULL::people, '{image}')")).unwrap(),
            r#"(7,a@b,{x},1.50,"{""a"": 1}")"#
        );
    }

    #[pg_test]
    fn what_the_image_lacks_is_null_and_what_the_table_lacks_is_passed_over() {
        table();
        assert_eq!(value(r#"SELECT audit_row(NULL::people, '{"id":7,"gone":1,"more":2}')"#).unwrap(), "(7,,,,)");
    }

    #[pg_test]
    fn unknown_columns_are_null_whatever_stands_there() {
        table();
        let sql = r#"SELECT audit_row(NULL::people, '{"id":7,"price":"a secret"}', '{price}')"#;
        assert_eq!(value(sql).unwrap(), "(7,,,,)");
    }

    #[pg_test]
    fn a_value_that_was_not_sent_is_an_error_where_it_is_not_named_unknown() {
        table();
        let image = r#"{"id":7,"about":"unchanged_toast"}"#;
        assert!(error(&format!("SELECT audit_row(NULL::people, '{image}')")).starts_with("22"));
        assert_eq!(value(&format!("SELECT audit_row(NULL::people, '{image}', '{{about}}')")).unwrap(), "(7,,,,)");
    }

    #[pg_test]
    fn an_error_names_the_column_and_no_value() {
        table();
        let told = error(r#"SELECT audit_row(NULL::people, '{"price":"a secret"}')"#);
        assert!(told.starts_with("22P02 ") && told.contains("price") && !told.contains("secret"), "{told}");
    }

    #[pg_test]
    fn a_row_type_and_an_object_are_wanted() {
        table();
        assert!(error("SELECT audit_row(1, '{}')").starts_with("42804 "));
        assert!(error("SELECT audit_row(NULL::people, '[]')").starts_with("22023 "));
        assert_eq!(value("SELECT audit_row(NULL::people, NULL)"), None);
    }

    #[pg_test]
    fn the_log_as_rows_of_its_table() {
        table();
        ingest(&[
            message("insert", r#"{"id":1,"price":"2.00"}"#),
            message("insert", r#"{"id":2,"price":"3.25"}"#).keys(r#"["2"]"#).at(1),
        ]);
        assert_eq!(value("SELECT sum((audit_row(NULL::people, new_values)).price) FROM audit_logs").unwrap(), "5.25");
    }
}
