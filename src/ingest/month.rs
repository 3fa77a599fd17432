//! The log is partitioned by month of commit time, in UTC. Months that would be too large are divided into days.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::ffi::CString;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(Date);

impl Month {
    /// Of a time since 1970-01-01 00:00 UTC.
    pub fn of(microseconds: i64) -> Self {
        Self(date(microseconds).first_of_month())
    }

    pub fn present() -> Self {
        Self::of(Timestamp::now().as_microsecond())
    }

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1.month()))
    }

    /// When it begins, since 1970-01-01 00:00 UTC.
    pub fn start(self) -> i64 {
        start(self.0)
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
        name(&format!("log_{:04}_{:02}", self.0.year(), self.0.month()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(Date);

impl Day {
    /// Of a time since 1970-01-01 00:00 UTC.
    pub fn of(microseconds: i64) -> Self {
        Self(date(microseconds))
    }

    fn end(self) -> i64 {
        start(self.0.saturating_add(1.day()))
    }

    /// Where its month is divided.
    pub fn partition(self) -> CString {
        name(&format!("log_{:04}_{:02}_{:02}", self.0.year(), self.0.month(), self.0.day()))
    }
}

/// What lies in the same month, of `items` in the order of their times.
pub fn months<T>(items: &[T], time: impl Fn(&T) -> i64) -> impl Iterator<Item = (Month, &[T])> {
    together(items, time, Month::of, Month::end)
}

/// What lies in the same day, of `items` in the order of their times.
pub fn days<T>(items: &[T], time: impl Fn(&T) -> i64) -> impl Iterator<Item = (Day, &[T])> {
    together(items, time, Day::of, Day::end)
}

fn together<T, P: Copy>(
    mut items: &[T],
    time: impl Fn(&T) -> i64,
    period: impl Fn(i64) -> P,
    end: impl Fn(P) -> i64,
) -> impl Iterator<Item = (P, &[T])> {
    std::iter::from_fn(move || {
        let period = period(time(items.first()?));
        let end = end(period);
        let same;
        (same, items) = items.split_at(items.partition_point(|item| time(item) < end));
        Some((period, same))
    })
}

fn name(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn date(microseconds: i64) -> Date {
    Timestamp::from_microsecond(microseconds).unwrap_or_default().to_zoned(TimeZone::UTC).date()
}

/// When it begins, since 1970-01-01 00:00 UTC.
fn start(date: Date) -> i64 {
    date.to_zoned(TimeZone::UTC).map_or(i64::MAX, |start| start.timestamp().as_microsecond())
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

    #[test]
    fn days_end_where_the_next_begins() {
        let time = |text: &str| text.parse::<Timestamp>().expect(text).as_microsecond();
        let times =
            ["2024-02-28T00:00:00Z", "2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999999Z", "2024-03-01T00:00:00Z"];
        let times = times.map(time);
        let found: Vec<_> = days(&times, |time| *time).map(|(day, times)| (day.partition(), times.len())).collect();
        let expected = [("log_2024_02_28", 1), ("log_2024_02_29", 2), ("log_2024_03_01", 1)];
        assert_eq!(found, expected.map(|(name, count)| (CString::new(name).expect(name), count)));
    }
}
