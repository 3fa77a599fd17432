//! The log is partitioned by month of commit time, in UTC.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::ffi::CString;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(Date);

impl Month {
    /// Of a time since 1970-01-01 00:00 UTC.
    pub fn of(microseconds: i64) -> Self {
        let time = Timestamp::from_microsecond(microseconds).unwrap_or_default();
        Self(time.to_zoned(TimeZone::UTC).date().first_of_month())
    }

    pub fn present() -> Self {
        Self::of(Timestamp::now().as_microsecond())
    }

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1.month()))
    }

    /// When it begins, since 1970-01-01 00:00 UTC.
    pub fn start(self) -> i64 {
        self.0.to_zoned(TimeZone::UTC).map_or(i64::MAX, |start| start.timestamp().as_microsecond())
    }

    fn end(self) -> i64 {
        self.next().start()
    }

    /// In months.
    pub fn distance(self, other: Self) -> u32 {
        let number = |month: Self| i32::from(month.0.year()) * 12 + i32::from(month.0.month());
        number(self).abs_diff(number(other))
    }

    pub fn partition(self) -> CString {
        CString::new(format!("log_{:04}_{:02}", self.0.year(), self.0.month())).unwrap_or_default()
    }
}

/// What lies in the same month, of `items` in the order of their times.
pub fn months<T>(mut items: &[T], time: impl Fn(&T) -> i64) -> impl Iterator<Item = (Month, &[T])> {
    std::iter::from_fn(move || {
        let month = Month::of(time(items.first()?));
        let end = month.end();
        let same;
        (same, items) = items.split_at(items.partition_point(|item| time(item) < end));
        Some((month, same))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_end_where_the_next_begins() {
        let time = |text: &str| text.parse::<Timestamp>().expect(text).as_microsecond();
        let times = [
            "1970-01-01T00:00:00Z",
            "2024-02-29T23:59:59.999999Z",
            "2024-03-01T00:00:00Z",
            "2024-03-31T23:59:59.999999Z",
            "2024-12-31T23:59:59Z",
            "2199-12-31T23:59:59.999999Z",
        ]
        .map(time);
        let found: Vec<_> =
            months(&times, |time| *time).map(|(month, times)| (month.partition(), times.len())).collect();
        let expected =
            [("log_1970_01", 1), ("log_2024_02", 1), ("log_2024_03", 2), ("log_2024_12", 1), ("log_2199_12", 1)];
        assert_eq!(found, expected.map(|(name, count)| (CString::new(name).expect(name), count)));
        assert_eq!(months(&[0_i64; 0], |time| *time).count(), 0);
    }
}
