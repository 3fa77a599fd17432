//! A column of the log: its type in PostgreSQL and in Parquet, and its values on the way from one to the other.

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parquet::data_type::ByteArray;
use serde::{Deserialize, Serialize};

/// PostgreSQL counts microseconds from 2000, Parquet from 1970.
const FROM_1970: i64 = 946_684_800_000_000;
/// jsonb's own first byte, in binary.
const JSONB_VERSION: u8 = 1;
const OID_OF_TEXT: i32 = 25;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Column {
    pub name: String,
    /// As PostgreSQL's format_type() has it.
    #[serde(rename = "type")]
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum Kind {
    #[serde(rename = "bigint")]
    Bigint,
    #[serde(rename = "integer")]
    Integer,
    #[serde(rename = "boolean")]
    Boolean,
    #[serde(rename = "timestamp with time zone")]
    Timestamp,
    #[serde(rename = "text")]
    Text,
    #[serde(rename = "jsonb")]
    Jsonb,
    #[serde(rename = "text[]")]
    Texts,
}

impl Kind {
    pub fn of(postgres: &str) -> anyhow::Result<Self> {
        serde_json::from_value(postgres.into()).map_err(|_| anyhow::anyhow!("the log has a column of type {postgres}"))
    }

    pub fn postgres(self) -> &'static str {
        match self {
            Self::Bigint => "bigint",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamp with time zone",
            Self::Text => "text",
            Self::Jsonb => "jsonb",
            Self::Texts => "text[]",
        }
    }

    /// Its line in a schema of Parquet.
    pub fn parquet(self, name: &str) -> String {
        match self {
            Self::Bigint => format!("optional int64 {name};"),
            Self::Integer => format!("optional int32 {name};"),
            Self::Boolean => format!("optional boolean {name};"),
            Self::Timestamp => format!("optional int64 {name} (TIMESTAMP(MICROS,true));"),
            Self::Text | Self::Jsonb => format!("optional binary {name} (STRING);"),
            Self::Texts => format!(
                "optional group {name} (LIST) {{ repeated group list {{ optional binary element (STRING); }} }}"
            ),
        }
    }
}

/// Values of a column, as Parquet takes them. Of the lists of values one is in use.
#[derive(Default)]
pub struct Values {
    pub definitions: Vec<i16>,
    pub repetitions: Vec<i16>,
    pub longs: Vec<i64>,
    pub ints: Vec<i32>,
    pub booleans: Vec<bool>,
    pub texts: Vec<ByteArray>,
}

impl Values {
    pub fn clear(&mut self) {
        self.definitions.clear();
        self.repetitions.clear();
        self.longs.clear();
        self.ints.clear();
        self.booleans.clear();
        self.texts.clear();
    }

    /// A field of COPY in binary.
    pub fn push(&mut self, kind: Kind, field: Option<Bytes>) -> anyhow::Result<()> {
        let Some(mut field) = field else {
            self.definitions.push(0);
            self.repetitions.push(0);
            return Ok(());
        };
        if kind == Kind::Texts {
            return self.push_texts(field);
        }
        self.definitions.push(1);
        match kind {
            Kind::Bigint => self.longs.push(i64::from_be_bytes(fixed(&field)?)),
            Kind::Timestamp => {
                let since_2000 = i64::from_be_bytes(fixed(&field)?);
                self.longs.push(since_2000.checked_add(FROM_1970).context("Parquet has no such time")?);
            }
            Kind::Integer => self.ints.push(i32::from_be_bytes(fixed(&field)?)),
            Kind::Boolean => self.booleans.push(fixed::<1>(&field)? != [0]),
            Kind::Jsonb => {
                ensure!(field.first() == Some(&JSONB_VERSION), "the server sends another jsonb");
                field.advance(1);
                self.texts.push(field.into());
            }
            Kind::Text | Kind::Texts => self.texts.push(field.into()),
        }
        Ok(())
    }

    fn push_texts(&mut self, mut array: Bytes) -> anyhow::Result<()> {
        let short = || "an array breaks off";
        let dimensions = array.try_get_i32().with_context(short)?;
        array.try_get_i32().with_context(short)?; // whether it has nulls
        ensure!(array.try_get_i32().with_context(short)? == OID_OF_TEXT, "an array is not one of texts");
        self.repetitions.push(0);
        if dimensions == 0 {
            self.definitions.push(1);
            return Ok(());
        }
        let count = array.try_get_i32().with_context(short)?;
        let first = array.try_get_i32().with_context(short)?;
        ensure!(dimensions == 1 && first == 1 && count > 0, "an array has another shape than a list");
        for n in 0..count {
            if n > 0 {
                self.repetitions.push(1);
            }
            let length = array.try_get_i32().with_context(short)?;
            if length < 0 {
                self.definitions.push(2);
                continue;
            }
            ensure!(array.len() >= length as usize, short());
            self.definitions.push(3);
            self.texts.push(array.split_to(length as usize).into());
        }
        Ok(())
    }
}

fn fixed<const N: usize>(field: &[u8]) -> anyhow::Result<[u8; N]> {
    field.try_into().ok().with_context(|| format!("a field has {} bytes instead of {N}", field.len()))
}

/// Gives the values back as fields of COPY, one record after the other.
pub struct Fields {
    kind: Kind,
    definitions: std::iter::Peekable<std::vec::IntoIter<i16>>,
    repetitions: std::iter::Peekable<std::vec::IntoIter<i16>>,
    longs: std::vec::IntoIter<i64>,
    ints: std::vec::IntoIter<i32>,
    booleans: std::vec::IntoIter<bool>,
    texts: std::vec::IntoIter<ByteArray>,
}

impl Fields {
    pub fn of(kind: Kind, values: Values) -> Self {
        Self {
            kind,
            definitions: values.definitions.into_iter().peekable(),
            repetitions: values.repetitions.into_iter().peekable(),
            longs: values.longs.into_iter(),
            ints: values.ints.into_iter(),
            booleans: values.booleans.into_iter(),
            texts: values.texts.into_iter(),
        }
    }

    pub fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let short = || "a column of the file breaks off";
        let level = self.definitions.next().with_context(short)?;
        self.repetitions.next();
        if level == 0 {
            return Ok(None);
        }
        Ok(Some(match self.kind {
            Kind::Bigint => number(self.longs.next().with_context(short)?),
            Kind::Timestamp => {
                let since_1970 = self.longs.next().with_context(short)?;
                number(since_1970.checked_sub(FROM_1970).context("PostgreSQL has no such time")?)
            }
            Kind::Integer => Bytes::copy_from_slice(&self.ints.next().with_context(short)?.to_be_bytes()),
            Kind::Boolean => Bytes::copy_from_slice(&[self.booleans.next().with_context(short)?.into()]),
            Kind::Text => Bytes::copy_from_slice(self.texts.next().with_context(short)?.data()),
            Kind::Jsonb => [&[JSONB_VERSION], self.texts.next().with_context(short)?.data()].concat().into(),
            Kind::Texts => self.array(level)?,
        }))
    }

    fn array(&mut self, first: i16) -> anyhow::Result<Bytes> {
        let mut levels = vec![first];
        while self.repetitions.peek() == Some(&1) {
            self.repetitions.next();
            levels.push(self.definitions.next().context("a list of the file breaks off")?);
        }
        let mut array = BytesMut::new();
        let is_empty = levels == [1];
        array.put_i32(if is_empty { 0 } else { 1 });
        array.put_i32(levels.contains(&2).into());
        array.put_i32(OID_OF_TEXT);
        if is_empty {
            return Ok(array.freeze());
        }
        array.put_i32(levels.len().try_into()?);
        array.put_i32(1);
        for level in levels {
            match level {
                2 => array.put_i32(-1),
                3 => {
                    let text = self.texts.next().context("a list of the file breaks off")?;
                    array.put_i32(text.len().try_into()?);
                    array.extend_from_slice(text.data());
                }
                _ => bail!("a list of the file has another shape"),
            }
        }
        Ok(array.freeze())
    }
}

fn number(value: i64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Fields, Kind, Values};
    use bytes::Bytes;

    fn array(parts: &[Option<&str>]) -> Bytes {
        let mut bytes = vec![];
        let mut put = |number: i32| bytes.extend(number.to_be_bytes());
        put(if parts.is_empty() { 0 } else { 1 });
        put(parts.contains(&None).into());
        put(25);
        if !parts.is_empty() {
            put(parts.len() as i32);
            put(1);
        }
        for part in parts {
            bytes.extend(part.map_or(-1, |text| text.len() as i32).to_be_bytes());
            bytes.extend(part.unwrap_or_default().bytes());
        }
        bytes.into()
    }

    fn there_and_back(kind: Kind, fields: &[Option<Bytes>]) {
        let mut values = Values::default();
        for field in fields {
            assert!(values.push(kind, field.clone()).is_ok());
        }
        let mut back = Fields::of(kind, values);
        let found: Vec<_> = fields.iter().map(|_| back.next().ok().flatten()).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn values_come_back_as_they_were() {
        let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        there_and_back(Kind::Bigint, &[bytes(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), None]);
        there_and_back(Kind::Timestamp, &[bytes(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), bytes(&[0; 8])]);
        there_and_back(Kind::Integer, &[None, bytes(b"\0\0\0\x07")]);
        there_and_back(Kind::Boolean, &[bytes(b"\x01"), bytes(b"\0"), None]);
        there_and_back(Kind::Text, &[bytes(b""), None, bytes("grün".as_bytes())]);
        there_and_back(Kind::Jsonb, &[bytes(b"\x01{}"), None]);
    }

    #[test]
    fn lists_come_back_as_they_were() {
        there_and_back(
            Kind::Texts,
            &[
                Some(array(&[])),
                None,
                Some(array(&[Some("a"), None, Some("")])),
                Some(array(&[None])),
                Some(array(&[Some("b")])),
            ],
        );
    }

    #[test]
    fn what_is_no_such_value_is_an_error() {
        let mut values = Values::default();
        assert!(values.push(Kind::Bigint, Some(Bytes::from_static(b"1"))).is_err());
        assert!(
            values.push(Kind::Timestamp, Some(Bytes::from_static(&[0x7f, 255, 255, 255, 255, 255, 255, 255]))).is_err()
        );
        assert!(values.push(Kind::Texts, Some(Bytes::from_static(b"\0\0\0\x01"))).is_err());
        assert!(Kind::of("numeric").is_err());
    }
}
