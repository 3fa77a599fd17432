//! Reads the messages of PostgreSQL's output plugin `pgoutput`, protocol version 1 (PostgreSQL documentation, "Logical
//! Replication Message Formats"). Total on any bytes.

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    TooShort,
    TooLong,
    NotUtf8,
    Unknown(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// Times are microseconds since 2000-01-01.
    Begin {
        commit_lsn: u64,
        commit_time: i64,
        xid: u32,
    },
    Commit {
        commit_lsn: u64,
        end_lsn: u64,
    },
    Logical {
        transactional: bool,
        prefix: &'a str,
        content: &'a [u8],
    },
    Relation(Relation),
    Insert {
        relation: u32,
        new: Vec<Value<'a>>,
    },
    Update {
        relation: u32,
        old: Option<Old<'a>>,
        new: Vec<Value<'a>>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    Origin,
    Type,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
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

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Default => "default",
            Self::Index => "index",
            Self::Nothing => "nothing",
        }
    }
}

/// The row before: the columns of the replica identity (others are null), or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old<'a> {
    Key(Vec<Value<'a>>),
    Row(Vec<Value<'a>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// Stored out of line, and not sent since it did not change.
    Unchanged,
    Text(&'a str),
}

impl<'a> Value<'a> {
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Unchanged => None,
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
        b'C' => {
            rest.byte()?;
            let (commit_lsn, end_lsn) = (rest.u64()?, rest.u64()?);
            rest.u64()?;
            Message::Commit { commit_lsn, end_lsn }
        }
        b'M' => {
            let transactional = rest.byte()? & 1 == 1;
            rest.u64()?;
            let prefix = rest.string()?;
            let length = rest.u32()? as usize;
            Message::Logical { transactional, prefix, content: rest.take(length)? }
        }
        b'R' => Message::Relation(rest.relation()?),
        b'I' => {
            let relation = rest.u32()?;
            rest.marked(b'N')?;
            Message::Insert { relation, new: rest.row()? }
        }
        b'U' => {
            let relation = rest.u32()?;
            let old = match rest.byte()? {
                b'N' => None,
                kind => {
                    let old = rest.old(kind)?;
                    rest.marked(b'N')?;
                    Some(old)
                }
            };
            Message::Update { relation, old, new: rest.row()? }
        }
        b'D' => {
            let relation = rest.u32()?;
            let kind = rest.byte()?;
            Message::Delete { relation, old: rest.old(kind)? }
        }
        b'T' => {
            let count = rest.u32()?;
            rest.byte()?;
            Message::Truncate { relations: (0..count).map(|_| rest.u32()).collect::<Result<_, _>>()? }
        }
        b'O' => {
            rest.u64()?;
            rest.string()?;
            Message::Origin
        }
        b'Y' => {
            rest.u32()?;
            rest.string()?;
            rest.string()?;
            Message::Type
        }
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

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::TooShort)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn marked(&mut self, mark: u8) -> Result<(), Malformed> {
        match self.byte()? {
            found if found == mark => Ok(()),
            found => Err(Malformed::Unknown(found)),
        }
    }

    /// Up to and without a zero byte.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed::TooShort)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::NotUtf8)?;
        self.byte()?;
        Ok(text)
    }

    fn relation(&mut self) -> Result<Relation, Malformed> {
        let oid = self.u32()?;
        let schema = match self.string()? {
            "" => "pg_catalog", // so it writes that one
            schema => schema,
        };
        let name = self.string()?;
        let letter = self.byte()?;
        let identity = ReplicaIdentity::of(letter).ok_or(Malformed::Unknown(letter))?;
        let columns = (0..self.u16()?)
            .map(|_| {
                let is_identity = self.byte()? & 1 == 1;
                let column = Column { name: self.string()?.to_owned(), type_oid: self.u32()?, is_identity };
                self.u32()?; // the type's modifier
                Ok(column)
            })
            .collect::<Result<_, _>>()?;
        Ok(Relation { oid, schema: schema.to_owned(), name: name.to_owned(), identity, columns })
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
                b't' => {
                    let length = self.u32()? as usize;
                    Value::Text(std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::NotUtf8)?)
                }
                found => return Err(Malformed::Unknown(found)),
            });
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_of_a_key() {
        let bytes = b"U\0\0\0\x07K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u";
        assert_eq!(
            message(bytes),
            Ok(Message::Update {
                relation: 7,
                old: Some(Old::Key(vec![Value::Text("1"), Value::Null])),
                new: vec![Value::Text("2"), Value::Unchanged],
            })
        );
        assert_eq!(message(&bytes[..bytes.len() - 1]), Err(Malformed::TooShort));
        assert_eq!(message(&[bytes.as_slice(), b"!"].concat()), Err(Malformed::TooLong));
    }

    #[test]
    fn a_relation() {
        let bytes = b"R\0\0\0\x07public\0t\0f\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
        let Ok(Message::Relation(relation)) = message(bytes) else { unreachable!("a relation") };
        assert_eq!(
            (relation.schema.as_str(), relation.name.as_str(), relation.identity),
            ("public", "t", ReplicaIdentity::Full)
        );
        assert_eq!(relation.columns, [Column { name: "id".into(), type_oid: 23, is_identity: true }]);
    }
}
