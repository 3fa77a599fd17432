//! Writes the messages that `wire` reads: for the output plugin.

use super::protocol::{Filter, MOST_NESTED, Omitted, Relation};
use crate::encoding::TypeShape;
use std::ops::Range;

/// One message at a time, in memory that is kept.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A message of this kind begins.
    fn start(&mut self, kind: u8) -> &mut Self {
        self.bytes.clear();
        self.byte(kind)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A message that took much memory need not hold it.
    pub fn shrink(&mut self, most: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(most);
    }

    pub fn begin(&mut self, commit_lsn: u64, commit_time: i64, xid: u32) {
        self.start(b'B').u64(commit_lsn).u64(commit_time as u64).u32(xid);
    }

    pub fn commit(&mut self, end_lsn: u64) {
        self.start(b'C').u64(end_lsn);
    }

    pub fn set_annotations(&mut self, content: &[u8]) {
        self.start(b's').bytes.extend_from_slice(content);
    }

    pub fn set_omitted_annotations(&mut self, omitted: Omitted, beginning: &[u8]) {
        self.start(b'o').omitted(omitted);
        self.bytes.extend_from_slice(beginning);
    }

    pub fn clear_annotations(&mut self) {
        self.start(b'c');
    }

    pub fn sealed(&mut self, declaration: &str) {
        self.start(b'w').bytes.extend_from_slice(declaration.as_bytes());
    }

    pub fn rule(&mut self) {
        self.start(b'r');
    }

    pub fn relation(&mut self, relation: &Relation) {
        self.start(b'R').u32(relation.number).u32(relation.oid).string(&relation.schema).string(&relation.name);
        self.byte(relation.identity.letter());
        self.count(relation.columns.len());
        for column in &relation.columns {
            self.byte(column.is_identity.into()).string(&column.name).shape(&column.shape, MOST_NESTED);
        }
        self.count(relation.key.len());
        for index in &relation.key {
            self.u16(*index);
        }
        self.count(relation.never_sent.len());
        for name in &relation.never_sent {
            self.string(name);
        }
    }

    /// A row follows.
    pub fn insert(&mut self, idx: u32, relation: u32) {
        self.start(b'I').u32(idx).u32(relation);
    }

    /// With an old row, that follows as [`old`](Self::old) says, and then the new one.
    pub fn update(&mut self, idx: u32, relation: u32, filter: Filter) {
        let filter = match filter {
            Filter::Stayed => b's',
            Filter::Left => b'l',
            Filter::Entered => b'e',
        };
        self.start(b'U').u32(idx).u32(relation).byte(filter);
    }

    pub fn delete(&mut self, idx: u32, relation: u32) {
        self.start(b'D').u32(idx).u32(relation);
    }

    /// The row before the change is not known.
    pub fn no_old(&mut self) {
        self.byte(b'N');
    }

    /// The row before the change follows.
    pub fn old(&mut self, is_whole: bool) {
        self.byte(if is_whole { b'O' } else { b'K' });
    }

    pub fn truncate(&mut self, idx: u32, relations: &[u32]) {
        self.start(b'T').u32(idx).numbers(relations);
    }

    pub fn partition_truncated(&mut self, root: u32, partition: &str) {
        self.start(b'P').u32(root).string(partition);
    }

    pub fn schema_change(&mut self, idx: u32, id: i64, beside: &[u32]) {
        self.start(b'S').u32(idx).u64(id as u64).numbers(beside);
    }

    /// So many values follow.
    pub fn row(&mut self, count: usize) {
        self.count(count);
    }

    // Each tells where the value's text stands.

    pub fn null(&mut self) -> Range<usize> {
        self.byte(b'n').no_text()
    }

    pub fn unchanged(&mut self) -> Range<usize> {
        self.byte(b'u').no_text()
    }

    pub fn omitted_value(&mut self, omitted: Omitted) -> Range<usize> {
        self.byte(b'o').omitted(omitted);
        self.no_text()
    }

    fn no_text(&self) -> Range<usize> {
        self.bytes.len()..self.bytes.len()
    }

    /// A value, whose text `write` appends.
    pub fn text(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        self.byte(b't').u32(0);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start - 4..start].copy_from_slice(&length.to_be_bytes());
        start..self.bytes.len()
    }

    /// What follows may be taken back to here.
    pub fn mark(&self) -> usize {
        self.bytes.len()
    }

    pub fn back_to(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    fn omitted(&mut self, Omitted { bytes, sha256 }: Omitted) {
        self.u64(bytes).bytes.extend_from_slice(sha256);
    }

    fn shape(&mut self, shape: &TypeShape, nested: usize) {
        match shape {
            TypeShape::Array { element, delimiter } if nested > 0 && delimiter.is_ascii() => {
                self.byte(b'a').byte(*delimiter as u8).shape(element, nested - 1);
            }
            shape => drop(self.byte(shape.letter())),
        }
    }

    /// A table has at most 1,600 columns.
    fn count(&mut self, count: usize) {
        self.u16(count as u16);
    }

    fn numbers(&mut self, numbers: &[u32]) {
        self.u32(numbers.len() as u32);
        for number in numbers {
            self.u32(*number);
        }
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.bytes.extend_from_slice(text.as_bytes());
        self.byte(0)
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.bytes.push(byte);
        self
    }

    fn u16(&mut self, number: u16) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{Malformed, Message, Old, ReplicaIdentity, Value, message};
    use super::*;

    const SHA256: [u8; 32] = [7; 32];

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.bytes
    }

    #[test]
    fn an_update_of_a_key() {
        let bytes = written(|writer| {
            writer.update(3, 7, Filter::Left);
            writer.old(false);
            writer.row(2);
            writer.text(|text| text.push(b'1'));
            writer.null();
            writer.row(3);
            writer.text(|text| text.extend_from_slice("zwölf".as_bytes()));
            writer.unchanged();
            writer.omitted_value(Omitted { bytes: 1 << 40, sha256: &SHA256 });
        });
        assert_eq!(
            message(&bytes),
            Ok(Message::Update {
                idx: 3,
                relation: 7,
                filter: Filter::Left,
                old: Some(Old::Key(vec![Value::Text("1"), Value::Null])),
                new: vec![
                    Value::Text("zwölf"),
                    Value::Unchanged,
                    Value::Omitted(Omitted { bytes: 1 << 40, sha256: &SHA256 })
                ],
            })
        );
        assert_eq!(message(&bytes[..bytes.len() - 1]), Err(Malformed::TooShort));
        assert_eq!(message(&[bytes.as_slice(), b"!"].concat()), Err(Malformed::TooLong));
    }

    fn relation(shape: TypeShape) -> Relation {
        let column = |name: &str, shape, is_identity| super::super::protocol::RelationColumn {
            name: name.to_owned(),
            shape,
            is_identity,
        };
        Relation {
            number: 8,
            oid: 7,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Full,
            columns: vec![column("id", TypeShape::Integer, true), column("v", shape, true)],
            key: vec![0],
            never_sent: vec!["g".into()],
        }
    }

    fn array_of(element: TypeShape) -> TypeShape {
        TypeShape::Array { element: Box::new(element), delimiter: ';' }
    }

    #[test]
    fn a_relation() {
        let kinds = [
            TypeShape::Text,
            TypeShape::Boolean,
            TypeShape::Integer,
            TypeShape::Float,
            TypeShape::Json,
            TypeShape::Jsonb,
            TypeShape::Timestamp,
        ];
        let more = [
            TypeShape::TimestampTz,
            TypeShape::Interval,
            array_of(TypeShape::Json),
            array_of(array_of(TypeShape::Text)),
        ];
        for relation in kinds.into_iter().chain(more).map(relation) {
            let bytes = written(|writer| writer.relation(&relation));
            assert_eq!(message(&bytes), Ok(Message::Relation(relation)));
        }
    }

    #[test]
    fn what_lies_too_deep_is_text() {
        let nested = |levels, inner| (0..levels).fold(inner, |shape, _| array_of(shape));
        let bytes = written(|writer| writer.relation(&relation(nested(99, TypeShape::Json))));
        assert_eq!(message(&bytes), Ok(Message::Relation(relation(nested(MOST_NESTED, TypeShape::Text)))));
        let deep = [&bytes[..bytes.len() - 8], &[b'a', b','].repeat(1 << 20)].concat();
        assert!(message(&deep).is_err());
    }

    #[test]
    fn messages_without_rows() {
        let sha256 = &SHA256;
        type Case<'a> = (fn(&mut Writer), Message<'a>);
        let cases: [Case; 10] = [
            (|w| w.begin(9, -1, 5), Message::Begin { commit_lsn: 9, commit_time: -1, xid: 5 }),
            (|w| w.commit(12), Message::Commit { end_lsn: 12 }),
            (|w| w.set_annotations(b"{\0"), Message::SetAnnotations(b"{\0")),
            (
                |w| w.set_omitted_annotations(Omitted { bytes: 3, sha256: &SHA256 }, b"{"),
                Message::SetOmittedAnnotations(Omitted { bytes: 3, sha256 }, b"{"),
            ),
            (Writer::clear_annotations, Message::ClearAnnotations),
            (Writer::rule, Message::Rule),
            (|w| w.sealed("{}"), Message::Sealed("{}")),
            (|w| w.truncate(4, &[7, 8]), Message::Truncate { idx: 4, relations: vec![7, 8] }),
            (
                |w| w.partition_truncated(7, "public.p1"),
                Message::PartitionTruncated { root: 7, partition: "public.p1" },
            ),
            (|w| w.schema_change(4, -8, &[9]), Message::SchemaChange { idx: 4, id: -8, beside: vec![9] }),
        ];
        for (write, expected) in cases {
            assert_eq!(message(&written(write)), Ok(expected));
        }
    }

    #[test]
    fn identities_have_their_letters() {
        for (letter, name) in [(b'f', "full"), (b'd', "default"), (b'i', "index"), (b'n', "nothing")] {
            let identity = ReplicaIdentity::of(letter);
            assert_eq!(identity.map(ReplicaIdentity::as_str), Some(name));
            assert_eq!(identity.map(ReplicaIdentity::letter), Some(letter));
        }
    }
}
