//! Types whose values have several spellings.

/// But for `citext`, which may stand behind its schema.
const SPELLED: [&str; 9] =
    ["boolean", "numeric", "real", "double precision", "time", "timestamp", "date", "character", "interval"];

/// Has the text of a type's values several spellings? `name`: as `format_type()` gives it.
#[must_use]
pub fn is_spelled(name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let begins = |known: &str| name.strip_prefix(known).is_some_and(ends);
    let mut behind_schemas = name.match_indices(".citext").map(|(at, citext)| &name[at + citext.len()..]);
    let is_citext = begins("citext") || behind_schemas.any(ends);
    is_citext || SPELLED.into_iter().any(begins) && !name.starts_with("character varying")
}

#[cfg(test)]
mod tests {
    use super::is_spelled;

    #[test]
    fn names_with_modifiers_and_schemas_are_known() {
        for name in ["numeric(12,2)", "time without time zone", "timestamp(3) with time zone", "character(3)"] {
            assert!(is_spelled(name), "{name}");
        }
        for name in ["citext", "public.citext", "\"a.b\".citext", "date[]"] {
            assert!(is_spelled(name), "{name}");
        }
        for name in ["bigint", "character varying(10)", "text", "timetable", "daterange", "public.citextual"] {
            assert!(!is_spelled(name), "{name}");
        }
    }
}
