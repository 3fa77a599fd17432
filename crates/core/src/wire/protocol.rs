//! Reads the messages of our own output plugin (src/pg/wal/plugin). Total on any bytes. `writer` is the other side.

use crate::encoding::TypeShape;

/// Of the logical messages that say something to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Annotates what comes after it in its transaction.
    Set,
    Clear,
    /// A rule of a projection is about to run in the transaction. Anybody may say so, and the catalog is asked.
    Rule,
    /// What the server says of the transaction, under a seal.
    Sealed,
}

impl Prefix {
    pub fn of(prefix: &[u8]) -> Option<Self> {
        Some(match prefix {
            b"sequin:transaction_annotations.set" => Self::Set,
            b"sequin:transaction_annotations.clear" => Self::Clear,
            b"audit_cdc.rule" => Self::Rule,
            b"audit_cdc.sealed" => Self::Sealed,
            _ => return None,
        })
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    TooShort,
    TooLong,
    TooDeep,
    NotUtf8,
    Unknown(u8),
}

/// An array's elements may be domains over arrays, and so on. What lies deeper travels as text.
pub(super) const MOST_NESTED: usize = 16;

/// `idx` is the place within the transaction. Each row that is changed, each TRUNCATE and each logical message
/// takes one, published or not: places depend on the WAL alone. What the server says under a seal takes none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Time is microseconds since 2000-01-01.
    Begin {
        commit_lsn: u64,
        commit_time: i64,
        xid: u32,
    },
    Commit {
        end_lsn: u64,
    },
    SetAnnotations(&'a [u8]),
    /// Of annotations that are too large to carry; and their beginning.
    SetOmittedAnnotations(Omitted<'a>, &'a [u8]),
    ClearAnnotations,
    /// A rule of a projection is about to run, says somebody.
    Rule,
    /// What the server says of the transaction: its seal is true.
    Sealed(&'a str),
    Relation(Relation),
    Insert {
        idx: u32,
        relation: u32,
        new: Vec<Value<'a>>,
    },
    Update {
        idx: u32,
        relation: u32,
        filter: Filter,
        old: Option<Old<'a>>,
        new: Vec<Value<'a>>,
    },
    Delete {
        idx: u32,
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        idx: u32,
        relations: Vec<u32>,
    },
    /// Rows of a root have gone with a partition that was truncated, and are not told of one by one.
    PartitionTruncated {
        root: u32,
        partition: &'a str,
    },
    /// A row of `audit_cdc_internal.schema_changes`.
    SchemaChange {
        idx: u32,
        id: i64,
        /// Other transactions that were open when it was committed, and had changes.
        beside: Vec<u32>,
    },
}

/// A table as it was at the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// By which changes name it: the table that the row is in.
    pub number: u32,
    /// What it is published as: the table, or the root of its partitions.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    /// Those that are sent.
    pub columns: Vec<RelationColumn>,
    /// Places of the primary key's columns. Empty: it has none, or not all of them are sent.
    pub key: Vec<u16>,
    /// Columns that the table has and that are not sent.
    pub never_sent: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    pub name: String,
    pub shape: TypeShape,
    /// Of the replica identity; of all columns with FULL.
    pub is_identity: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

impl ReplicaIdentity {
    /// Of `pg_class.relreplident`.
    pub fn of(letter: u8) -> Option<Self> {
        Some(match letter {
            b'd' => Self::Default,
            b'n' => Self::Nothing,
            b'f' => Self::Full,
            b'i' => Self::Index,
            _ => return None,
        })
    }

    pub fn letter(self) -> u8 {
        self.as_str().as_bytes()[0]
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Default => "default",
            Self::Index => "index",
            Self::Nothing => "nothing",
        }
    }
}

/// Where an update stands to the publication's row filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// On one side of it, or there is none.
    Stayed,
    /// The row before fulfilled it, the one after does not.
    Left,
    Entered,
}

/// What an update or delete says of the row before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old<'a> {
    /// Only the replica identity's columns.
    Key(Vec<Value<'a>>),
    Row(Vec<Value<'a>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// A large value that did not change and was not logged again.
    Unchanged,
    /// Too large to carry.
    Omitted(Omitted<'a>),
    /// As the type's output function writes it.
    Text(&'a str),
}

/// What is known of something that is too large to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Omitted<'a> {
    pub bytes: u64,
    pub sha256: &'a [u8; 32],
}

impl<'a> Value<'a> {
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Unchanged | Self::Omitted(_) => None,
        }
    }
}

pub fn message(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut rest = Bytes(bytes);
    let message = match rest.byte()? {
        b'B' => {
            let (commit_lsn, commit_time) = (rest.u64()?, rest.u64()? as i64);
            Message::Begin { commit_lsn, commit_time, xid: rest.u32()? }
        }
        b'C' => Message::Commit { end_lsn: rest.u64()? },
        b's' => Message::SetAnnotations(rest.all()),
        b'o' => Message::SetOmittedAnnotations(rest.omitted()?, rest.all()),
        b'c' => Message::ClearAnnotations,
        b'r' => Message::Rule,
        b'w' => Message::Sealed(std::str::from_utf8(rest.all()).map_err(|_| Malformed::NotUtf8)?),
        b'R' => Message::Relation(rest.relation()?),
        b'I' => Message::Insert { idx: rest.u32()?, relation: rest.u32()?, new: rest.row()? },
        b'U' => {
            let (idx, relation) = (rest.u32()?, rest.u32()?);
            let filter = match rest.byte()? {
                b's' => Filter::Stayed,
                b'l' => Filter::Left,
                b'e' => Filter::Entered,
                found => return Err(Malformed::Unknown(found)),
            };
            let old = match rest.byte()? {
                b'N' => None,
                kind => Some(rest.old(kind)?),
            };
            Message::Update { idx, relation, filter, old, new: rest.row()? }
        }
        b'D' => {
            let (idx, relation, kind) = (rest.u32()?, rest.u32()?, rest.byte()?);
            Message::Delete { idx, relation, old: rest.old(kind)? }
        }
        b'T' => Message::Truncate { idx: rest.u32()?, relations: rest.numbers()? },
        b'P' => Message::PartitionTruncated { root: rest.u32()?, partition: rest.string()? },
        b'S' => Message::SchemaChange { idx: rest.u32()?, id: rest.u64()? as i64, beside: rest.numbers()? },
        kind => return Err(Malformed::Unknown(kind)),
    };
    if rest.0.is_empty() { Ok(message) } else { Err(Malformed::TooLong) }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::TooShort)?;
        self.0 = rest;
        Ok(taken)
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::TooShort)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| *byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    fn numbers(&mut self) -> Result<Vec<u32>, Malformed> {
        (0..self.u32()?).map(|_| self.u32()).collect()
    }

    /// Up to and without a zero byte.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed::TooShort)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::NotUtf8)?;
        self.byte()?;
        Ok(text)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        (0..self.u16()?).map(|_| item(self)).collect()
    }

    fn relation(&mut self) -> Result<Relation, Malformed> {
        let (number, oid) = (self.u32()?, self.u32()?);
        let (schema, name) = (self.string()?.to_owned(), self.string()?.to_owned());
        let letter = self.byte()?;
        let identity = ReplicaIdentity::of(letter).ok_or(Malformed::Unknown(letter))?;
        let columns = self.list(|rest| {
            let is_identity = rest.byte()? == 1;
            Ok(RelationColumn { is_identity, name: rest.string()?.to_owned(), shape: rest.shape(MOST_NESTED)? })
        })?;
        let key = self.list(Self::u16)?;
        let never_sent = self.list(|rest| rest.string().map(str::to_owned))?;
        Ok(Relation { number, oid, schema, name, identity, columns, key, never_sent })
    }

    fn shape(&mut self, nested: usize) -> Result<TypeShape, Malformed> {
        Ok(match self.byte()? {
            b'a' => {
                let delimiter = self.byte()?.into();
                let nested = nested.checked_sub(1).ok_or(Malformed::TooDeep)?;
                TypeShape::Array { element: Box::new(self.shape(nested)?), delimiter }
            }
            letter => TypeShape::of_letter(letter).ok_or(Malformed::Unknown(letter))?,
        })
    }

    fn old(&mut self, kind: u8) -> Result<Old<'a>, Malformed> {
        match kind {
            b'K' => self.row().map(Old::Key),
            b'O' => self.row().map(Old::Row),
            found => Err(Malformed::Unknown(found)),
        }
    }

    fn row(&mut self) -> Result<Vec<Value<'a>>, Malformed> {
        let count = self.u16()?.into();
        let mut row = Vec::with_capacity(count);
        for _ in 0..count {
            row.push(match self.byte()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b'o' => Value::Omitted(self.omitted()?),
                b't' => {
                    let length = self.u32()? as usize;
                    Value::Text(std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::NotUtf8)?)
                }
                found => return Err(Malformed::Unknown(found)),
            });
        }
        Ok(row)
    }

    fn omitted(&mut self) -> Result<Omitted<'a>, Malformed> {
        Ok(Omitted { bytes: self.u64()?, sha256: self.array()? })
    }
}
