//! A time of day in UTC, as a setting names it.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(Time);

impl TimeOfDay {
    /// Of `03:30` or `03:30:15`. `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |c: char| c.is_ascii_digit() || c == ':';
        let is_plain = matches!(text.len(), 5 | 8) && text.chars().all(digits);
        text.parse().ok().filter(|_| is_plain).map(Self)
    }

    /// Was it this time between the two?
    pub fn was_between(self, after: Timestamp, until: Timestamp) -> bool {
        self.next(after) <= until
    }

    /// When it is this time next.
    pub fn next(self, after: Timestamp) -> Timestamp {
        let day = after.to_zoned(TimeZone::UTC).date();
        let on = |date| DateTime::from_parts(date, self.0).to_zoned(TimeZone::UTC).map(|time| time.timestamp());
        [day, day.saturating_add(1.day())]
            .into_iter()
            .filter_map(|date| on(date).ok())
            .find(|time| *time > after)
            .unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect(text)
    }

    #[test]
    fn it_is_written_with_hours_and_minutes() {
        assert_eq!(TimeOfDay::parse("03:30"), TimeOfDay::parse("03:30:00"));
        for none in
            ["", "3:30", "24:00", "03:60", "03:30:61", "03:30Z", "03:30:00.5", "T03:30", "noon", "033000", "03::3"]
        {
            assert_eq!(TimeOfDay::parse(none), None, "{none}");
        }
    }

    #[test]
    fn it_comes_once_a_day() {
        let at = TimeOfDay::parse("03:30").expect("a time");
        assert_eq!(at.next(time("2026-12-31T03:29:59Z")), time("2026-12-31T03:30:00Z"));
        assert_eq!(at.next(time("2026-12-31T03:30:00Z")), time("2027-01-01T03:30:00Z"));
        assert!(at.was_between(time("2026-12-30T12:00:00Z"), time("2026-12-31T03:30:00Z")));
        assert!(!at.was_between(time("2026-12-31T03:30:00Z"), time("2027-01-01T03:29:59Z")));
        assert!(at.was_between(time("2026-12-01T00:00:00Z"), time("2026-12-31T00:00:00Z")));
    }
}
