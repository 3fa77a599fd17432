//! A month of commits, in UTC: `2026-03`.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Month {
    year: u32,
    month: u32,
}

impl Month {
    pub fn next(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1 },
            month => Self { year: self.year, month: month + 1 },
        }
    }

    /// When it begins, as PostgreSQL writes it.
    pub fn begins(self) -> String {
        format!("{self}-01 00:00:00+00")
    }

    /// Its first day.
    pub fn first_day(self) -> String {
        format!("{self}-01")
    }

    /// A condition of SQL, on when a change was committed.
    pub fn contains(self, column: &str) -> String {
        format!("{column} >= timestamptz '{}' AND {column} < timestamptz '{}'", self.begins(), self.next().begins())
    }

    /// The folder of the archive that holds it: Spark and DuckDB read its name as a column.
    pub fn folder(self) -> String {
        format!("month={self}")
    }

    /// Of a file in that folder.
    pub fn path(self, name: &str) -> String {
        format!("{}/{name}", self.folder())
    }

    /// Of the table into which it is restored.
    pub fn table(self) -> String {
        format!("log_{:04}_{:02}", self.year, self.month)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no month such as 2026-03");
        let (year, month) = text.split_once('-').ok_or_else(wrong)?;
        let is_number = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(year, 4) || !is_number(month, 2) {
            return Err(wrong());
        }
        let found = Self { year: year.parse().map_err(|_| wrong())?, month: month.parse().map_err(|_| wrong())? };
        if found.year == 0 || !(1..=12).contains(&found.month) { Err(wrong()) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::Month;

    #[test]
    fn a_month_is_written_as_it_is_read() {
        let month: Result<Month, _> = "2026-12".parse();
        assert_eq!(month.as_ref().map(|month| month.to_string()), Ok("2026-12".to_owned()));
        assert_eq!(month.as_ref().map(|month| month.next().to_string()), Ok("2027-01".to_owned()));
        assert_eq!(month.map(|month| month.table()), Ok("log_2026_12".to_owned()));
    }

    #[test]
    fn what_is_no_month_is_refused() {
        for text in ["", "2026", "2026-13", "2026-00", "0000-01", "26-01", "2026-1", "2026-01-01", "+026-01"] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }
}
