//! Which database a message goes to: the one that takes its source. Nobody guesses.

use super::{Database, Failure};
use crate::config::Common;
use crate::config::Route;
use crate::database::writer::Writer;
use crate::metrics::Metrics;
use crate::stop::Stop;
use audit_core::message::{Original, RawMessage, SourceTable, changes};
use futures_util::future::join_all;
use std::borrow::Cow;
use std::sync::Arc;

/// The audit databases of a relay, each with the sources that it takes. No routes: one database takes all.
pub struct Databases {
    all: Vec<Arc<Database>>,
    routes: Vec<Route>,
}

impl Databases {
    pub fn of(common: &Common, metrics: &Arc<Metrics>) -> anyhow::Result<Arc<Self>> {
        let one = [&common.database];
        let addresses: Vec<_> = match common.routes.as_slice() {
            [] => one.to_vec(),
            routes => routes.iter().map(|route| &route.address).collect(),
        };
        let open = |address| Database::at(address, *common.call_timeout, metrics.clone());
        let all = addresses.into_iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Arc::new(Self { all, routes: common.routes.clone() }))
    }

    /// Each with the line that tells what it takes.
    pub fn each(&self) -> impl Iterator<Item = (&Arc<Database>, Option<String>)> {
        let told = |index: usize| self.routes.get(index).map(Route::told);
        self.all.iter().enumerate().map(move |(index, database)| (database, told(index)))
    }

    /// What each database gets of a body, by its place in [`each`](Self::each), and why something goes to none.
    pub fn divide(&self, body: String) -> (Vec<(usize, String)>, Option<Failure>) {
        let parts = Parts::of(&[&body], &self.routes);
        let failure = parts.unknown.into_iter().next().map(|(_, failure)| failure);
        let mut owned = Vec::new();
        for (place, part) in parts.of.into_iter().enumerate() {
            for (_, text) in part {
                match text {
                    Cow::Owned(text) => owned.push((place, text)),
                    Cow::Borrowed(_) => return (vec![(place, body)], failure),
                }
            }
        }
        (owned, failure)
    }

    pub fn writers(self: &Arc<Self>) -> Writers {
        Writers { databases: self.clone(), writers: self.all.iter().map(Database::writer).collect() }
    }
}

/// A connection to each of the databases.
pub struct Writers {
    databases: Arc<Databases>,
    writers: Vec<Writer>,
}

impl Writers {
    /// As [`Writer::store`].
    pub async fn store(&mut self, bodies: &[&str], stop: &Stop) -> Option<Vec<bool>> {
        let parts = Parts::of(bodies, &self.databases.routes);
        let stored = join_all(self.writers.iter_mut().zip(parts.texts()).map(async |(writer, texts)| {
            if texts.is_empty() { Some(Vec::new()) } else { writer.store(&texts, stop).await }
        }));
        let stored = stored.await.into_iter().collect::<Option<Vec<_>>>()?;
        let mut verdicts = vec![true; bodies.len()];
        for (body, is_stored) in parts.bodies(stored) {
            verdicts[body] &= is_stored;
        }
        for (body, failure) in parts.unknown {
            tracing::error!("not stored: {failure}");
            verdicts[body] = false;
        }
        Some(verdicts)
    }
}

/// What each database gets of which body, and bodies with something for none of them.
struct Parts<'b> {
    of: Vec<Vec<(usize, Cow<'b, str>)>>,
    unknown: Vec<(usize, Failure)>,
}

impl<'b> Parts<'b> {
    fn of(bodies: &[&'b str], routes: &[Route]) -> Self {
        let whole = |(index, body): (usize, &&'b str)| (index, Cow::Borrowed(*body));
        if routes.is_empty() {
            return Self { of: vec![bodies.iter().enumerate().map(whole).collect()], unknown: Vec::new() };
        }
        let mut parts = Self { of: vec![Vec::new(); routes.len()], unknown: Vec::new() };
        for (index, body) in bodies.iter().enumerate() {
            parts.add(index, body, routes);
        }
        parts
    }

    fn add(&mut self, index: usize, body: &'b str, routes: &[Route]) {
        let messages: Vec<RawMessage> = match changes(body) {
            Ok(found) => found.into_iter().map(text_of).collect(),
            Err(_) => vec![RawMessage::alone(body)],
        };
        let mut of: Vec<Vec<&str>> = vec![Vec::new(); routes.len()];
        for message in &messages {
            match route_of(*message, routes) {
                Ok(route) => of[route].push(message.text),
                Err(failure) => {
                    self.unknown.push((index, failure));
                    // one line for each body tells enough
                    break;
                }
            }
        }
        for (route, texts) in of.into_iter().enumerate() {
            if texts.len() == messages.len() && !texts.is_empty() {
                self.of[route].push((index, Cow::Borrowed(body)));
            } else if !texts.is_empty() {
                self.of[route].push((index, Cow::Owned(format!("{{\"data\":[{}]}}", texts.join(",")))));
            }
        }
    }

    fn texts(&self) -> impl Iterator<Item = Vec<&str>> {
        self.of.iter().map(|part| part.iter().map(|(_, text)| text.as_ref()).collect())
    }

    /// What came of each text, with the body that it is of.
    fn bodies<T>(&self, results: Vec<Vec<T>>) -> impl Iterator<Item = (usize, T)> {
        let indexes = self.of.iter().flatten().map(|(index, _)| *index);
        indexes.zip(results.into_iter().flatten())
    }
}

fn text_of(parsed: audit_core::message::Parsed<'_>) -> RawMessage<'_> {
    match parsed {
        Ok(change) => match change.original {
            Original::Message(message) => message,
            _ => RawMessage::alone(""),
        },
        Err((message, _)) => message,
    }
}

/// Where it goes. An id says more than a name.
fn route_of(message: RawMessage, routes: &[Route]) -> Result<usize, Failure> {
    let unreadable = || {
        let taken = routes.iter().position(|route| route.unreadable);
        taken.ok_or_else(|| Failure::refusal("a message names no source, and no database takes unreadable ones"))
    };
    let Some(table) = SourceTable::of(message) else { return unreadable() };
    let takes = |source: &str| routes.iter().position(|route| route.sources.iter().any(|taken| taken == source));
    let taken = takes(&table.database_id).or_else(|| table.database_name.as_deref().and_then(takes));
    if taken.is_none() && !table.names_database() {
        return unreadable();
    }
    taken.ok_or_else(|| {
        let name = table.database_name.as_deref().map(|name| format!(" (\"{name}\")")).unwrap_or_default();
        Failure::refusal(format!("no database takes messages of the source \"{}\"{name}", table.database_id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn routes() -> Vec<Route> {
        let route = |name: &str, sources: &[&str], unreadable| Route {
            name: name.to_owned(),
            address: Secret::url("postgres:").expect("an address"),
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
            unreadable,
        };
        vec![route("one", &["d1"], false), route("two", &["d2", "shop"], true)]
    }

    fn message(id: &str, name: &str) -> String {
        format!(
            r#"{{"action":"insert","record":{{"id":1}},"changes":null,"metadata":{{"table_schema":"public","table_name":"t","database":{{"id":"{id}","name":"{name}"}}}}}}"#
        )
    }

    fn parts(bodies: &[&str]) -> (Vec<Vec<(usize, String)>>, Vec<usize>) {
        let parts = Parts::of(bodies, &routes());
        let owned = |part: &Vec<(usize, Cow<str>)>| part.iter().map(|(n, text)| (*n, text.to_string())).collect();
        (parts.of.iter().map(owned).collect(), parts.unknown.iter().map(|(body, _)| *body).collect())
    }

    #[test]
    fn without_routes_all_goes_to_the_one() {
        let parts = Parts::of(&["a", "b"], &[]);
        assert_eq!(parts.of, [vec![(0, Cow::Borrowed("a")), (1, Cow::Borrowed("b"))]]);
    }

    #[test]
    fn a_body_of_one_source_stays_as_it_is() {
        let (first, second) = (format!("[ {} ]", message("d1", "x")), message("d2", "x"));
        assert_eq!(parts(&[&first, &second]), (vec![vec![(0, first.clone())], vec![(1, second.clone())]], vec![]));
    }

    #[test]
    fn a_body_of_several_is_divided_in_order() {
        let (a, b) = (message("d1", "shop"), message("d9", "shop"));
        let body = format!("{{\"data\":[{a},{b},{a}]}}");
        let divided = vec![vec![(0, format!("{{\"data\":[{a},{a}]}}"))], vec![(0, format!("{{\"data\":[{b}]}}"))]];
        assert_eq!(parts(&[&body]), (divided, vec![]));
    }

    #[test]
    fn an_unknown_source_is_refused_and_the_others_are_stored() {
        let (a, b) = (message("d1", "x"), message("d9", "x"));
        let body = format!("[{a},{b}]");
        assert_eq!(
            parts(&[&body, &a]),
            (vec![vec![(0, format!("{{\"data\":[{a}]}}")), (1, a.clone())], vec![]], vec![0])
        );
    }

    #[test]
    fn what_names_no_source_goes_where_it_is_taken() {
        let nameless = r#"{"action":"read","metadata":{"table_schema":"public","table_name":"t"}}"#;
        for body in ["no JSON", "7", "{\"not_text_base64\":\"/wA=\"}", nameless, &message("", "")] {
            assert_eq!(parts(&[body]), (vec![vec![], vec![(0, body.to_owned())]], vec![]), "{body}");
        }
        let mut none = routes();
        none[1].unreadable = false;
        assert_eq!(Parts::of(&["no JSON", nameless], &none).unknown.len(), 2);
        none[1].sources.push("unknown".to_owned());
        assert_eq!(Parts::of(&[nameless], &none).unknown.len(), 0);
    }
}
