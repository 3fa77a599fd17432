//! Sections `[database.NAME]` of a configuration file: the audit databases, and which sources each takes.

use super::secret::Secret;
use std::collections::BTreeSet;
use toml::{Table, Value};

#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub address: Secret,
    /// Ids or names of source databases, as messages have them.
    pub sources: Vec<String>,
    /// What names no source goes into this one's `audit_rejects`.
    pub unreadable: bool,
}

impl Route {
    pub fn told(&self) -> String {
        let unreadable = if self.unreadable { ", and what names no source" } else { "" };
        format!("[database.{}] takes {}{unreadable}", self.name, self.sources.join(", "))
    }

    fn of(name: &str, section: &Value) -> Result<Self, String> {
        let place = format!("[database.{name}]");
        let section = section.as_table().ok_or_else(|| format!("{place} must be a section"))?;
        let mut route =
            Self { name: name.to_owned(), address: Secret::url("")?, sources: Vec::new(), unreadable: false };
        for (key, value) in section {
            match (key.as_str(), value) {
                ("address", Value::String(address)) => route.address = Secret::url(address)?,
                ("sources", Value::Array(sources)) => {
                    let texts = sources.iter().map(|source| source.as_str().map(str::to_owned));
                    let texts: Option<Vec<_>> = texts.collect();
                    route.sources = texts.ok_or_else(|| format!("sources in {place} must be texts"))?;
                }
                ("unreadable", Value::Boolean(unreadable)) => route.unreadable = *unreadable,
                ("address" | "sources" | "unreadable", _) => {
                    return Err(format!("\"{key}\" in {place} is of another type"));
                }
                _ => return Err(format!("there is no option \"{key}\" in section {place}")),
            }
        }
        match (route.address.expose(), route.sources.as_slice()) {
            ("", _) => Err(format!("{place} lacks its address")),
            (_, []) => Err(format!("{place} lacks its sources")),
            _ => Ok(route),
        }
    }
}

/// A source has one database.
pub fn routes(sections: &Table) -> Result<Vec<Route>, String> {
    let routes: Vec<Route> =
        sections.iter().map(|(name, section)| Route::of(name, section)).collect::<Result<_, _>>()?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = routes.iter().flat_map(|route| &route.sources).find(|source| !seen.insert(*source)) {
        return Err(format!("two databases take the source \"{twice}\""));
    }
    if routes.iter().filter(|route| route.unreadable).count() > 1 {
        return Err("two databases take what is unreadable".to_owned());
    }
    Ok(routes)
}
