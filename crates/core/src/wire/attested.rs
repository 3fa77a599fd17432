//! Which annotations count: what the server says, and what somebody else does.

use super::captured::Captured;
use super::decoder::{Decoded, Decoder};
use super::properties::{Fixed, annotation, begin, commit, insert, table, written};
use super::protocol::ReplicaIdentity;
use super::writer::Writer;
use crate::context::{Annotated, Declaration};
use crate::message::sha256;

/// What a transaction says, and then changes.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// The server: by the number of the declaration.
    Set(u64, &'a str),
    Clear(u64),
    Context(u64, &'a str),
    /// A message without a seal.
    Forged(&'a str),
    ForgedClear,
    Change,
}
use Step::{Change, Clear, Context, Forged, ForgedClear, Set};

/// Of each change: annotations, whether they are attested, and the rest of what is told of who made it.
fn told(steps: &[Step]) -> Vec<String> {
    let sealed = |number, context: Option<&str>, annotations| {
        let told = context.map(|context| serde_json::from_str(context).expect("JSON"));
        let declaration = Declaration::new(number, told, context.map(|_| 5), annotations);
        written(|writer| writer.sealed(&declaration.text()))
    };
    let mut stream = vec![begin(), table(7, ReplicaIdentity::Default)];
    for step in steps {
        match *step {
            Set(number, text) => {
                let announced = Annotated::Set(sha256(text.as_bytes()));
                stream.extend([sealed(number, None, Some(announced)), annotation(text)]);
            }
            Clear(number) => {
                stream.extend([sealed(number, None, Some(Annotated::Cleared)), written(Writer::clear_annotations)]);
            }
            Context(number, text) => stream.push(sealed(number, Some(text), None)),
            Forged(text) => stream.push(annotation(text)),
            ForgedClear => stream.push(written(Writer::clear_annotations)),
            Change => stream.push(insert(1, 7)),
        }
    }
    stream.push(commit());
    let (mut decoder, mut decoded) = (Decoder::new(Fixed), Decoded::default());
    for message in stream {
        decoder.decode(&message, &mut decoded).expect("a good stream");
    }
    decoded.changes.iter().map(Captured::whole).map(|message| of_message(&message)).collect()
}

fn of_message(message: &str) -> String {
    let message: serde_json::Value = serde_json::from_str(message).expect("JSON");
    let metadata = &message["metadata"];
    let member = |name: &str| Some(metadata[name].to_string()).filter(|value| value != "null");
    let names = ["transaction_annotations", "attested", "notes", "server_context", "transaction_start"];
    names.into_iter().filter_map(member).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_the_server_says_is_attested() {
    assert_eq!(told(&[Set(0, "1"), Change, Set(1, "2"), Change, Clear(2), Change]), ["1 true", "2 true", ""]);
}

#[test]
fn what_somebody_else_says_is_not() {
    assert_eq!(told(&[Forged("1"), Change, ForgedClear, Change]), ["1 false", ""]);
    assert_eq!(told(&[Forged("1"), Set(0, "2"), Change]), ["2 true"]);
}

#[test]
fn what_is_true_stays() {
    let contested = r#"2 true {"contested":true}"#;
    assert_eq!(
        told(&[Set(0, "2"), Change, Forged("1"), Change, ForgedClear, Change]),
        ["2 true", contested, contested]
    );
    // the second declaration is told again, with what the first has announced
    assert_eq!(told(&[Set(0, "1"), Set(1, "2"), Set(0, "1"), Change]), [contested]);
    assert_eq!(told(&[Set(0, "1"), Clear(1), Set(0, "1"), Change]), ["1 false"]);
}

#[test]
fn the_context_stays_until_the_transaction_ends() {
    let context = r#"{"session_user":"ada"}"#;
    let of_server = format!("{context} \"5\"");
    let forged = format!("1 false {of_server}");
    assert_eq!(
        told(&[Context(0, context), Change, Forged("1"), Change, Context(0, "{}"), Change]),
        [of_server, forged, r#"1 false {} "5""#.to_owned()]
    );
    assert_eq!(told(&[Context(1, context), Context(0, "{}"), Change]), [format!("{context} \"5\"")]);
}
