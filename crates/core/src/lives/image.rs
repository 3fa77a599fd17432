//! Rows as `jsonb`.

use crate::json::{Value, key_order_of, marked, members, object};
use std::borrow::Cow;
use std::cmp::Ordering;

/// A row, told (`json::told`): the bytes that follow the length in a `jsonb` datum.
#[derive(Clone, Debug, PartialEq)]
pub struct Image<'a>(Cow<'a, [u8]>);

impl<'a> Image<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }

    /// A row of which nothing is known.
    #[must_use]
    pub fn empty() -> Self {
        Self(Cow::Owned(object(&[])))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn into_owned(self) -> Image<'static> {
        Image(Cow::Owned(self.0.into_owned()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        members(&self.0).is_empty()
    }

    /// Is some column null?
    #[must_use]
    pub fn has_null(&self) -> bool {
        members(&self.0).iter().any(|(_, value)| matches!(value, Value::Null))
    }

    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        members(&self.0).iter().any(|(key, _)| *key == column.as_bytes())
    }

    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        self.names().into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Names of its columns.
    #[must_use]
    pub fn names(&self) -> Vec<&[u8]> {
        members(&self.0).into_iter().map(|(key, _)| key).collect()
    }

    /// Which of these columns it has not, by name.
    #[must_use]
    pub fn missing<'c>(&self, columns: impl Iterator<Item = &'c [u8]>) -> Vec<String> {
        let there = self.names();
        let missing = columns.filter(|column| !there.contains(column));
        let mut missing: Vec<_> = missing.map(|column| String::from_utf8_lossy(column).into_owned()).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// The column's value as `->>` gives it, or exactly.
    #[must_use]
    pub fn text(&self, column: &str) -> Option<Vec<u8>> {
        let all = members(&self.0);
        let (_, value) = all.iter().find(|(key, _)| *key == column.as_bytes())?;
        marked(value).map_or_else(|| value.text(), |(text, _)| Some(text.to_vec()))
    }

    /// This one, and over it what the other has.
    #[must_use]
    pub fn overlaid(&self, other: &Image) -> Image<'static> {
        let (under, over) = (members(&self.0), members(&other.0));
        let (mut under, mut over) = (under.iter().peekable(), over.iter().peekable());
        let mut all = Vec::with_capacity(under.len() + over.len());
        loop {
            let order = match (under.peek(), over.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((one, _)), Some((two, _))) => key_order_of(one, two),
            };
            if order != Ordering::Greater {
                let member = under.next();
                all.extend(member.filter(|_| order == Ordering::Less));
            }
            if order != Ordering::Less {
                all.extend(over.next());
            }
        }
        Image(Cow::Owned(object(&all)))
    }

    #[must_use]
    pub fn without(self, columns: &[String]) -> Image<'a> {
        if columns.is_empty() { self } else { self.kept(|column| !columns.iter().any(|c| c.as_bytes() == column)) }
    }

    #[must_use]
    pub fn only<'b>(&self, columns: impl Iterator<Item = &'b String> + Clone) -> Image<'static> {
        self.kept(|column| columns.clone().any(|c| c.as_bytes() == column))
    }

    fn kept(&self, keep: impl Fn(&[u8]) -> bool) -> Image<'static> {
        let kept: Vec<_> = members(&self.0).into_iter().filter(|(key, _)| keep(key)).collect();
        Image(Cow::Owned(object(&kept)))
    }

    /// Does what is known of a row contradict what a change says that it was? A column may have got another type
    /// meanwhile: values that are the same as text are the same.
    #[must_use]
    pub fn contradicts(&self, before: &Image) -> bool {
        if self == before {
            return false;
        }
        let (known, before) = (members(&self.0), members(&before.0));
        let mut known = known.iter().peekable();
        before.iter().any(|(column, value)| {
            while known.next_if(|(key, _)| key_order_of(key, column) == Ordering::Less).is_some() {}
            known.peek().is_some_and(|(key, known)| key == column && differ(known, value))
        })
    }

    /// Has a column this value?
    #[must_use]
    pub fn holds_text(&self, text: &[u8]) -> bool {
        members(&self.0).iter().any(|(_, value)| match value {
            Value::String(value) => *value == text,
            _ => value.text().is_some_and(|value| value == text),
        })
    }
}

/// A column of `json` may have become one of `jsonb`: then one of them is exact, and the other is not.
fn differ(one: &Value, two: &Value) -> bool {
    let (one, two) = match (marked(one), marked(two)) {
        (Some((one, _)), Some((two, _))) => return one != two,
        (marked_one, marked_two) => {
            (marked_one.map_or(*one, |(_, value)| value), marked_two.map_or(*two, |(_, value)| value))
        }
    };
    !one.equals(&two) && one.text() != two.text()
}
