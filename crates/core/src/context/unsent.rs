//! What a transaction has told, and nobody has needed yet: its changes may all be of tables that are not captured.

use super::declaration::Declaration;

/// In their order. Of contexts the last one is kept alone, however many there are.
#[derive(Default)]
pub struct Unsent(Vec<Held>);

struct Held {
    number: u64,
    is_of_annotations: bool,
    text: String,
}

impl Unsent {
    /// One that comes with a lower number is told once more, and counts for nothing.
    pub fn add(&mut self, text: &str) {
        let last = self.0.last().map_or(0, |held| held.number);
        let Some(declaration) = Declaration::parse(text).filter(|declaration| declaration.number >= last) else {
            return;
        };
        if declaration.context.is_some() {
            self.0.retain(|held| held.is_of_annotations);
        }
        let (number, is_of_annotations) = (declaration.number, declaration.is_of_annotations());
        self.0.push(Held { number, is_of_annotations, text: text.to_owned() });
    }

    pub fn take(&mut self) -> impl Iterator<Item = String> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|held| held.text)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::declaration::Annotated;
    use super::*;
    use crate::message::sha256;

    fn context(number: u64) -> String {
        let told = format!(r#"{{"at":{number}}}"#);
        Declaration::new(number, serde_json::from_str(&told).ok(), None, None).text()
    }

    fn annotations(number: u64) -> String {
        Declaration::new(number, None, None, Some(Annotated::Set(sha256(b"{}")))).text()
    }

    fn kept(added: &[String]) -> Vec<String> {
        let mut unsent = Unsent::default();
        added.iter().for_each(|text| unsent.add(text));
        unsent.take().collect()
    }

    #[test]
    fn the_last_context_stands_for_all() {
        let many: Vec<_> = (0..1000).map(context).collect();
        assert_eq!(kept(&many), [context(999)]);
    }

    #[test]
    fn annotations_stay() {
        assert_eq!(kept(&[context(0), annotations(1), context(2)]), [annotations(1), context(2)]);
        assert_eq!(kept(&[context(0), annotations(1)]), [context(0), annotations(1)]);
    }

    #[test]
    fn what_is_told_once_more_counts_for_nothing() {
        assert_eq!(kept(&[context(0), context(1), context(0), "{".to_owned()]), [context(1)]);
    }

    #[test]
    fn what_is_taken_is_gone() {
        let mut unsent = Unsent::default();
        unsent.add(&context(0));
        assert_eq!((unsent.take().count(), unsent.take().count()), (1, 0));
    }
}
