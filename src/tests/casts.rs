//! `audit_cast`: values as Sequin writes them, back to their types.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    fn cast(to: &str, json: &str) -> Option<String> {
        value(&format!("SELECT audit_cast(NULL::{to}, $j${json}$j$)"))
    }

    /// Each: a type, the value as it is sent, and what PostgreSQL writes of the result.
    fn casts(cases: &[(&str, &str, &str)]) {
        for (to, json, text) in cases {
            assert_eq!(cast(to, json).as_deref(), Some(*text), "{json} as {to}");
        }
    }

    #[pg_test]
    fn numbers_lose_no_digit() {
        casts(&[
            ("bigint", "9223372036854775807", "9223372036854775807"),
            ("numeric", r#""12345678901234567890123.4560""#, "12345678901234567890123.4560"),
            ("numeric", "1.10", "1.10"),
            ("float8", "0.1", "0.1"),
            ("float8", r#""NaN""#, "NaN"),
            ("numeric(6,2)", r#""1234.50""#, "1234.50"),
        ]);
    }

    #[pg_test]
    fn a_number_out_of_range_is_an_error() {
        assert!(error("SELECT audit_cast(NULL::smallint, '40000')").starts_with("22003 "));
        assert!(error("SELECT audit_cast(NULL::integer, '1.5')").starts_with("22P02 "));
    }

    #[pg_test]
    fn truth_values() {
        casts(&[("boolean", "true", "true"), ("boolean", "false", "false")]);
    }

    #[pg_test]
    fn times() {
        run("SET LOCAL TimeZone = 'UTC'");
        casts(&[
            ("date", r#""2024-02-29""#, "2024-02-29"),
            ("timestamp", r#""2024-05-01T10:00:00.500000""#, "2024-05-01 10:00:00.5"),
            ("timestamptz", r#""2024-05-01T10:00:00.500000Z""#, "2024-05-01 10:00:00.5+00"),
            ("time", r#""10:00:00.500000""#, "10:00:00.5"),
            ("timetz", r#""10:00:00.5+02""#, "10:00:00.5+02"),
            ("date", r#""infinity""#, "infinity"),
        ]);
    }

    #[pg_test]
    fn a_day_that_is_none_is_an_error() {
        assert!(error(r#"SELECT audit_cast(NULL::date, '"2024-02-30"')"#).starts_with("22008 "));
    }

    #[pg_test]
    fn an_interval_comes_as_its_three_parts() {
        casts(&[(
            "interval",
            r#"{"months":14,"days":3,"microseconds":14706789000}"#,
            "1 year 2 mons 3 days 04:05:06.789",
        )]);
    }

    #[pg_test]
    fn lists_become_arrays() {
        casts(&[
            ("integer[]", "[1,null,3]", "{1,NULL,3}"),
            ("text[]", r#"["a,b","NULL","\"",""]"#, r#"{"a,b","NULL","\"",""}"#),
            ("integer[]", "[[1,2],[3,4]]", "{{1,2},{3,4}}"),
            ("integer[]", "[]", "{}"),
        ]);
    }

    #[pg_test]
    fn json_stays_as_it_is() {
        casts(&[
            ("jsonb", r#"{"a":[1.10,null]}"#, r#"{"a": [1.10, null]}"#),
            ("jsonb", "7", "7"),
            ("jsonb", r#""text""#, r#""text""#),
        ]);
    }

    #[pg_test]
    fn types_of_the_source_by_their_text() {
        run("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%')");
        casts(&[
            ("mood", r#""ok""#, "ok"),
            ("email", r#""a@b""#, "a@b"),
            ("uuid", r#""00000000-0000-4000-8000-00000000000A""#, "00000000-0000-4000-8000-00000000000a"),
            ("int4range", r#""[1,5)""#, "[1,5)"),
            ("inet", r#""10.0.0.1/8""#, "10.0.0.1/8"),
        ]);
        assert!(error(r#"SELECT audit_cast(NULL::mood, '"glad"')"#).starts_with("22P02 "));
        assert!(error(r#"SELECT audit_cast(NULL::email, '"nobody"')"#).starts_with("22018 "));
    }

    #[pg_test]
    fn null_is_null() {
        assert_eq!(cast("integer", "null"), None);
        assert_eq!(value("SELECT audit_cast(NULL::integer, NULL)"), None);
    }

    #[pg_test]
    fn no_error_tells_the_value() {
        for (to, json) in [
            ("integer", r#""a secret""#),
            ("date", r#""a secret""#),
            ("uuid", r#""a secret""#),
            ("integer[]", r#"[1,"a secret"]"#),
        ] {
            let told = error(&format!("SELECT audit_cast(NULL::{to}, '{json}')"));
            assert!(told.starts_with("22") && !told.contains("secret"), "{to}: {told}");
        }
    }
}
