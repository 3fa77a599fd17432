//! Secrets of a server, as a file keeps them: one a line, the one in use last.

use super::seal::{SECRET_BYTES, Secret, bytes_of_hex};
use crate::message::hex;

/// So many are kept.
pub const MOST_SECRETS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub secret: Secret,
    /// Where in the WAL it was replaced: what stands later it does not seal. 0: it is in use.
    pub replaced_at: u64,
}

#[derive(Clone, Copy, Default)]
pub struct Secrets {
    count: usize,
    kept: [Option<Kept>; MOST_SECRETS],
}

impl Secrets {
    /// `None`: the file is damaged.
    pub fn parse(file: &str) -> Option<Self> {
        let mut secrets = Self::default();
        for line in file.lines() {
            let [id, bytes, replaced_at] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let bytes: [u8; SECRET_BYTES] = bytes_of_hex(bytes)?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let secret = Secret { id: number(id)?, bytes };
            secrets.push(Kept { secret, replaced_at: number(replaced_at)? });
        }
        secrets.in_use().is_some().then_some(secrets)
    }

    pub fn file(&self) -> String {
        let line = |Kept { secret, replaced_at }: &Kept| {
            format!("{:016x} {} {replaced_at:x}\n", secret.id, hex(&secret.bytes))
        };
        self.all().map(line).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Kept> {
        self.kept[..self.count].iter().flatten()
    }

    pub fn in_use(&self) -> Option<Secret> {
        self.all().last().filter(|last| last.replaced_at == 0).map(|last| last.secret)
    }

    /// The one with this id, if it may have sealed what ends at `position` of the WAL.
    pub fn at(&self, id: u64, position: u64) -> Option<Secret> {
        let seals = |kept: &&Kept| kept.replaced_at == 0 || position <= kept.replaced_at;
        self.all().find(|kept| kept.secret.id == id).filter(seals).map(|kept| kept.secret)
    }

    /// With another one from `position` of the WAL on. The oldest is forgotten where there are too many.
    pub fn with_next(mut self, bytes: [u8; SECRET_BYTES], position: u64) -> Self {
        let id = self.all().last().map_or(1, |last| last.secret.id + 1);
        if let Some(Some(last)) = self.count.checked_sub(1).and_then(|last| self.kept.get_mut(last)) {
            last.replaced_at = position.max(1);
        }
        self.push(Kept { secret: Secret { id, bytes }, replaced_at: 0 });
        self
    }

    fn push(&mut self, kept: Kept) {
        if self.count == MOST_SECRETS {
            self.kept.rotate_left(1);
            self.count -= 1;
        }
        self.kept[self.count] = Some(kept);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_seals_until_it_is_replaced() {
        let secrets = Secrets::default().with_next([1; 32], 0).with_next([2; 32], 100);
        assert_eq!(secrets.in_use().map(|secret| secret.bytes), Some([2; 32]));
        let at = |id, position| secrets.at(id, position).map(|secret| secret.bytes[0]);
        assert_eq!([at(1, 100), at(1, 101), at(2, 101), at(3, 1)], [Some(1), None, Some(2), None]);
    }

    #[test]
    fn what_is_written_is_read() {
        let secrets = (0..20).fold(Secrets::default(), |secrets, n| secrets.with_next([n; 32], u64::from(n) + 1));
        let read = Secrets::parse(&secrets.file()).expect("a file");
        assert_eq!(read.file(), secrets.file());
        assert_eq!((read.all().count(), read.in_use().map(|secret| secret.id)), (MOST_SECRETS, Some(20)));
        assert_eq!((read.at(4, 1).map(|secret| secret.id), read.at(5, 1).map(|secret| secret.id)), (None, Some(5)));
    }

    #[test]
    fn a_damaged_file_is_none() {
        let line = Secrets::default().with_next([1; 32], 0).file();
        for file in ["", "\n", &line[1..20], &line.replace(" 0\n", "\n"), &line.replace(" 0\n", " 7\n")] {
            assert!(Secrets::parse(file).is_none(), "{file}");
        }
    }
}
