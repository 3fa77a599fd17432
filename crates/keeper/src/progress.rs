//! What is told on standard error while a month is written.

use crate::month::Month;
use std::time::{Duration, Instant};

const OFTEN: Duration = Duration::from_secs(2);

pub struct Progress {
    month: Month,
    entries: u64,
    expected: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    pub fn of(month: Month, expected: u64) -> Self {
        Self { month, entries: 0, expected, began: Instant::now(), told: Instant::now() }
    }

    pub fn add(&mut self) {
        self.entries += 1;
        if self.entries.is_multiple_of(1024) && self.told.elapsed() >= OFTEN {
            self.told = Instant::now();
            eprintln!("{}: {} of {} entries", self.month, self.entries, self.expected);
        }
    }

    pub fn finish(&self, entries: u64, bytes: u64) {
        let each = bytes / entries.max(1);
        let seconds = self.began.elapsed().as_secs_f64();
        eprintln!("{}: {entries} entries, {bytes} bytes ({each} an entry), {seconds:.1} s", self.month);
    }
}
