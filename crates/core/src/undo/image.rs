//! A row as `jsonb` writes it.

use crate::encoding::Text;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Columns and their values as JSON, in the order of their names' bytes.
#[derive(PartialEq, Eq, Debug, Clone, Default)]
pub struct Image<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Image<'a> {
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.binary_search_by(|(other, _)| other.as_bytes().cmp(name.as_bytes())).ok().map(|place| self.0[place].1)
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn has_all(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.has(name))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    pub fn members(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Image<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Image<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a row")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut object: M) -> Result<Image<'de>, M::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((Text(name), value)) = object.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name, value.get()));
                }
                members.sort_by(|one, two| one.0.as_bytes().cmp(two.0.as_bytes()));
                Ok(Image(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_name() {
        let image: Image = serde_json::from_str(r#"{"b": 1, "aa": {"x": [1, 2]}, "z\n": null}"#).unwrap();
        assert_eq!((image.get("aa"), image.get("z\n"), image.get("c")), (Some(r#"{"x": [1, 2]}"#), Some("null"), None));
        assert_eq!(image.names().collect::<Vec<_>>(), ["aa", "b", "z\n"]);
    }
}
