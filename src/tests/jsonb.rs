//! What the log holds is what PostgreSQL itself makes of the same JSON, byte for byte.

#[pgrx::pg_schema]
mod tests {
    use super::super::fixture::*;
    use pgrx::prelude::*;

    /// Each value, in a row image of its own.
    fn kept(values: &[&str]) {
        let messages: Vec<Message> = values
            .iter()
            .enumerate()
            .map(|(n, json)| message("insert", &format!(r#"{{"v":{json}}}"#)).at(n as i32))
            .collect();
        let count = values.len() as i64;
        assert_eq!(ingest(&messages), [count, count, 0, 0]);
        for (n, json) in values.iter().enumerate() {
            let same = format!(
                "SELECT record_image_eq(ROW(new_values), ROW($j${{\"v\":{json}}}$j$::jsonb))
                 FROM audit_cdc_internal.log WHERE commit_idx = {n}"
            );
            assert_eq!(value(&same).as_deref(), Some("true"), "{json}");
        }
    }

    #[pg_test]
    fn whole_numbers() {
        kept(&[
            "0",
            "-0",
            "1",
            "-1",
            "9999",
            "10000",
            "10001",
            "100000000",
            "12345678901234567890",
            "111111111111111111111111111111111111111111",
        ]);
    }

    #[pg_test]
    fn fractions_with_their_zeros() {
        kept(&[
            "0.0",
            "-0.00",
            "1.10",
            "0.0001",
            "0.00001",
            "0.00010000",
            "1000.0001",
            "99999999.99999999",
            "-123456789.987654321",
        ]);
    }

    #[pg_test]
    fn exponents() {
        kept(&["1e5", "1E-7", "1.5e+300", "-1e-20", "123e0"]);
    }

    #[pg_test]
    fn texts() {
        kept(&[
            r#""""#,
            r#""ä日本語😀""#,
            r#""line\nbreak\t\"quoted\"\\ \/""#,
            r#""\u00e4\ud83d\ude00""#,
            r#""\b\f\r""#,
        ]);
    }

    #[pg_test]
    fn a_long_text() {
        kept(&[&format!("\"{}\"", "x".repeat(100_000))]);
    }

    #[pg_test]
    fn lists_and_objects() {
        kept(&["[]", "{}", "[ ]", r#"[1,[2,[3,{"a":null}]],true,false]"#, r#"{"bb":1,"a":{"":[]},"c":"d"}"#]);
    }

    #[pg_test]
    fn of_a_key_twice_the_last_one_counts() {
        kept(&[r#"{"a":1,"a":2}"#, r#"{"a":1,"b":2,"a":[],"b":3}"#, r#"{"\u0061":1,"a":2}"#]);
    }

    #[pg_test]
    fn many_elements() {
        let list: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let object: Vec<String> = (0..1000).map(|n| format!("\"key{n}\":{n}")).collect();
        kept(&[&format!("[{}]", list.join(",")), &format!("{{{}}}", object.join(","))]);
    }

    #[pg_test]
    fn deep_nesting() {
        kept(&[&format!("{}{}", "[".repeat(100), "]".repeat(100))]);
    }
}
