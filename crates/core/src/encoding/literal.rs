//! Array literals (PostgreSQL documentation, "Array Input and Output Syntax"), part by part.

use super::MOST_DIMENSIONS;

pub enum Part<'p> {
    /// The first dimension, or one within another.
    Opens,
    Closes,
    /// Another element follows.
    Next,
    Null,
    Element(&'p str),
}

/// Gives the parts of an array to `take`. `None`: its subscripts do not begin with 1, or it is none; what was taken
/// until then is of no use.
pub fn array_parts(text: &str, delimiter: char, take: &mut dyn FnMut(Part)) -> Option<()> {
    let mut reader = Literal { rest: text, delimiter, take };
    reader.array(1)?;
    reader.rest.is_empty().then_some(())
}

struct Literal<'a, 't> {
    rest: &'a str,
    delimiter: char,
    take: &'t mut dyn FnMut(Part),
}

impl Literal<'_, '_> {
    fn array(&mut self, dimension: usize) -> Option<()> {
        if dimension > MOST_DIMENSIONS {
            return None;
        }
        self.rest = self.rest.strip_prefix('{')?;
        (self.take)(Part::Opens);
        if let Some(rest) = self.rest.strip_prefix('}') {
            self.rest = rest;
            (self.take)(Part::Closes);
            return Some(());
        }
        loop {
            self.element(dimension)?;
            if let Some(rest) = self.rest.strip_prefix(self.delimiter) {
                self.rest = rest;
                (self.take)(Part::Next);
            } else {
                self.rest = self.rest.strip_prefix('}')?;
                (self.take)(Part::Closes);
                return Some(());
            }
        }
    }

    fn element(&mut self, dimension: usize) -> Option<()> {
        if self.rest.starts_with('{') {
            return self.array(dimension + 1);
        }
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let length = self.rest.find([self.delimiter, '}'])?;
            let (text, rest) = self.rest.split_at(length);
            self.rest = rest;
            (self.take)(if text == "NULL" { Part::Null } else { Part::Element(text) });
            return Some(());
        };
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        loop {
            match characters.next()? {
                (at, '"') => {
                    self.rest = &quoted[at + 1..];
                    (self.take)(Part::Element(&text));
                    return Some(());
                }
                (_, '\\') => text.push(characters.next()?.1),
                (_, character) => text.push(character),
            }
        }
    }
}
