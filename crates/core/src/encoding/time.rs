//! Times as PostgreSQL reads them under any DateStyle, IntervalStyle and TimeZone.

use serde::Deserialize;
use std::borrow::Cow;

/// The last year of PostgreSQL's `date`. A backfill sends an infinite date as a year beyond it.
const LAST_YEAR: u32 = 5_874_897;
/// 1970-01-01 as a Julian day, which PostgreSQL reads as `J2440588`.
const UNIX_EPOCH_JULIAN: i128 = 2_440_588;
const DAY: i128 = 86_400_000_000;

/// Years before Christ are negative in a backfill, with a year 0; infinity is `inf`.
pub fn date_or_timestamp(text: Cow<str>) -> Cow<str> {
    match &*text {
        "inf" => return "infinity".into(),
        "-inf" => return "-infinity".into(),
        _ => {}
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, &*text),
    };
    let Some((digits, rest)) = unsigned.split_once('-') else { return text };
    match digits.parse::<u32>() {
        Ok(year) if negative || year == 0 => format!("{:04}-{rest} BC", year.saturating_add(1)).into(),
        Ok(year) if year > LAST_YEAR => "infinity".into(),
        _ => text,
    }
}

/// A `timetz` without its offset: a backfill has shifted it to UTC; of a change nobody knows it.
pub fn with_offset(time: Cow<str>) -> Cow<str> {
    if time.contains(['+', '-', 'Z']) { time } else { Cow::Owned(time.into_owned() + "+00") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Interval {
    months: i64,
    days: i64,
    microseconds: i64,
}

/// Every field has its sign, so that IntervalStyle changes nothing.
pub fn interval(object: &str) -> Option<String> {
    let Interval { months, days, microseconds } = serde_json::from_str(object).ok()?;
    Some(format!("{months:+} mons {days:+} days {microseconds:+} us"))
}

/// Sequin's sink setting `timestamp_format: unix_microsecond`.
pub fn from_unix_microseconds(number: &str) -> Option<String> {
    // PostgreSQL's last years are beyond 64 bits of them
    let microseconds: i128 = number.parse().ok()?;
    let (day, time) = (microseconds.div_euclid(DAY) + UNIX_EPOCH_JULIAN, microseconds.rem_euclid(DAY));
    let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
    Some(format!("J{day} {:02}:{:02}:{:02}.{fraction:06}", seconds / 3600, seconds / 60 % 60, seconds % 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_before_christ_and_beyond() {
        for (sent, read) in [
            ("-0043-03-15", "0044-03-15 BC"),
            ("-0043-03-15T12:00:00.000000Z", "0044-03-15T12:00:00.000000Z BC"),
            ("0000-01-01", "0001-01-01 BC"),
            ("-4712-01-01", "4713-01-01 BC"),
            ("5881610-07-11", "infinity"),
            ("5874897-12-31", "5874897-12-31"),
            ("-inf", "-infinity"),
            ("-infinity", "-infinity"),
            ("0044-03-15 BC", "0044-03-15 BC"),
            ("2024-01-02T03:04:05.000000Z", "2024-01-02T03:04:05.000000Z"),
        ] {
            assert_eq!(date_or_timestamp(sent.into()), read);
        }
    }

    #[test]
    fn intervals() {
        let of = |text| interval(text).unwrap_or_default();
        assert_eq!(of(r#"{"months": 14, "days": 3, "microseconds": 14706789000}"#), "+14 mons +3 days +14706789000 us");
        assert_eq!(
            of(r#"{"days":-1,"months":0,"microseconds":-9223372036854775808}"#),
            "+0 mons -1 days -9223372036854775808 us"
        );
        assert_eq!(interval(r#"{"hours": 1}"#), None);
    }

    #[test]
    fn microseconds_since_1970() {
        assert_eq!(from_unix_microseconds("0").as_deref(), Some("J2440588 00:00:00.000000"));
        assert_eq!(from_unix_microseconds("-1").as_deref(), Some("J2440587 23:59:59.999999"));
        assert_eq!(from_unix_microseconds("9224318015999999999").as_deref(), Some("J109203527 23:59:59.999999"));
        assert_eq!(from_unix_microseconds("1.5"), None);
    }

    #[test]
    fn offsets() {
        assert_eq!(with_offset("12:34:56".into()), "12:34:56+00");
        assert_eq!(with_offset("24:00:00-07:30".into()), "24:00:00-07:30");
    }
}
