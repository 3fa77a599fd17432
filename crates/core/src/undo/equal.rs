//! Values that are equal, though they are spelled otherwise.

use super::table::{Column, Equality};
use std::borrow::Cow;

/// The same for values that the column's equality finds equal, as far as that can be told.
pub(super) fn folded<'a>(value: &'a str, column: Option<&Column>) -> Cow<'a, str> {
    let is_number = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match column.map_or(Equality::None, |column| column.equality) {
        Equality::Scale => without_zeros(value.trim_matches('"')),
        _ if is_number => without_zeros(value),
        Equality::Case | Equality::Collation | Equality::Unknown => value.to_lowercase().into(),
        Equality::None => value.into(),
    }
}

fn without_zeros(number: &str) -> Cow<'_, str> {
    match number.split_once('.') {
        Some((_, digits)) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            number.trim_end_matches('0').trim_end_matches('.').into()
        }
        _ => number.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_whatever_their_scale() {
        assert_eq!(folded("1.00", None), folded("1", None));
        assert_eq!(folded("10", None), "10");
        assert_eq!(folded("1.50", None), folded("1.5", None));
        assert_ne!(folded("\"1.0\"", None), folded("\"1\"", None), "texts");
    }
}
