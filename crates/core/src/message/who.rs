//! Who made a change, by the word of the server that it was captured on.

use super::digest::{Digest, context_digest};
use crate::json::object::{Object, string};
use std::rc::Rc;

/// Of a change that was captured. One that was delivered knows nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Who {
    pub context: Option<Rc<ServerContext>>,
    /// Microseconds since 2000-01-01.
    pub transaction_start: Option<i64>,
    /// Did the server itself annotate? `None`: there are no annotations.
    pub attested: Option<bool>,
    /// Somebody else has tried to annotate as well.
    pub is_contested: bool,
}

/// What the server knew of a session. It is stored once for many changes.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerContext {
    pub id: Digest,
    /// A JSON object that `jsonb` takes.
    pub text: String,
}

impl ServerContext {
    pub fn of_text(text: &str) -> Self {
        Self { id: context_digest(text), text: text.to_owned() }
    }
}

impl Who {
    /// Members of a message's metadata, each with a comma before it.
    pub fn push_members(&self, json: &mut String) {
        if let Some(attested) = self.attested {
            json.extend([",\"attested\":", if attested { "true" } else { "false" }]);
        }
        if let Some(context) = &self.context {
            json.extend([",\"server_context\":", &context.text]);
        }
        if let Some(start) = self.transaction_start {
            json.extend([",\"transaction_start\":\"", &start.to_string(), "\""]);
        }
    }

    pub(super) fn parse(metadata: &Object) -> Self {
        let text = |name| metadata.get(name).and_then(|text| string(text, name).ok());
        Self {
            context: metadata
                .get("server_context")
                .filter(|text| text.starts_with('{'))
                .map(|text| Rc::new(ServerContext::of_text(text))),
            transaction_start: text("transaction_start").and_then(|start| start.parse().ok()),
            attested: metadata.get("attested").map(|attested| attested == "true"),
            // notes tell it
            is_contested: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_again(who: &Who) -> Who {
        let mut json = String::from("{\"a\":1");
        who.push_members(&mut json);
        json.push('}');
        Who::parse(&Object::parse(&json).expect("an object"))
    }

    #[test]
    fn what_is_written_is_read() {
        let context = Some(Rc::new(ServerContext::of_text(r#"{"session_user":"ada"}"#)));
        for who in [
            Who::default(),
            Who { context, transaction_start: Some(-7), attested: Some(false), is_contested: false },
            Who { attested: Some(true), ..Who::default() },
        ] {
            let read = read_again(&who);
            assert_eq!(read.context, who.context);
            assert_eq!((read.transaction_start, read.attested), (who.transaction_start, who.attested));
        }
    }
}
