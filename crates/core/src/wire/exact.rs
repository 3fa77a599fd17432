//! What `jsonb` does not hold of a row's values is said beside their image, as text.

use super::MOST_CARRIED;
use super::images::Images;
use super::protocol::Value;
use super::relation::Table;
use crate::encoding::{Held, TypeShape, held};
use crate::json::push_string;

/// Places of columns, and texts.
type Texts<'r> = Vec<(usize, &'r str)>;

impl<'r> Images<'r> {
    /// Null stands in the images for what `jsonb` takes no value of. Texts that are too long for one `jsonb` do not
    /// stand beside them: what it does not take is then refused.
    pub(super) fn exactly(mut self, table: &Table) -> Self {
        if table.exact.iter().map(|index| self.length_at(*index)).sum::<usize>() > MOST_CARRIED {
            return self;
        }
        let (mut of_record, mut of_changes) = (Texts::new(), Texts::new());
        for index in table.exact.iter().copied() {
            let kind = table.columns[index].shape();
            let value = self.record.as_ref().and_then(|row| row.get(index));
            if let Some(text) = value.and_then(Value::text)
                && let Some(value) = noted(&mut of_record, index, text, kind)
                && let Some(row) = &mut self.record
            {
                row.to_mut()[index] = value;
            }
            let change = self.changes.as_mut().and_then(|row| row.get_mut(index)).and_then(Option::as_mut);
            if let Some(change) = change
                && let Some(text) = change.text()
                && let Some(value) = noted(&mut of_changes, index, text, kind)
            {
                *change = value;
            }
        }
        let (old, new) = self.action.images(Some(of_record), Some(of_changes));
        self.exact_values = table.exact_values(&old.unwrap_or_default(), &new.unwrap_or_default());
        self
    }

    /// Of a column's texts.
    fn length_at(&self, index: usize) -> usize {
        let record = self.record.as_ref().and_then(|row| row.get(index));
        let change = self.changes.as_ref().and_then(|row| row.get(index)).and_then(Option::as_ref);
        [record, change].into_iter().flatten().filter_map(Value::text).map(str::len).sum()
    }
}

/// Notes what is not held whole. What is to stand in the image in its place, if anything.
fn noted<'r>(texts: &mut Texts<'r>, index: usize, text: &'r str, kind: &TypeShape) -> Option<Value<'r>> {
    let held = held(text, kind);
    if held != Held::Whole {
        texts.push((index, text));
    }
    (held == Held::Nothing).then_some(Value::Null)
}

impl Table {
    fn exact_values(&self, old: &Texts, new: &Texts) -> Option<String> {
        if old.is_empty() && new.is_empty() {
            return None;
        }
        let mut json = String::new();
        for (side, texts) in [("new", new), ("old", old)] {
            if texts.is_empty() {
                continue;
            }
            json.push_str(if json.is_empty() { "{\"" } else { ",\"" });
            json.extend([side, "\":"]);
            for (place, (index, text)) in texts.iter().enumerate() {
                json.push(if place == 0 { '{' } else { ',' });
                json.push_str(&self.columns[*index].name.json);
                json.push(':');
                push_string(&mut json, text);
            }
            json.push('}');
        }
        json.push('}');
        Some(json)
    }
}
