//! A Parquet file of entries: written row group by row group, and read back in parts.

use crate::column::{Column, Fields, Kind, Values};
use crate::copy::Row;
use anyhow::{Context, bail, ensure};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::DataType;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::mem::take;
use std::sync::Arc;

/// A row group ends with whichever comes first. So much is held in memory.
const ROWS_OF_GROUP: usize = 65_536;
const BYTES_OF_GROUP: usize = 32 << 20;
/// So many rows are read at once.
const ROWS_AT_ONCE: usize = 1024;

pub struct Writer {
    columns: Vec<Column>,
    values: Vec<Values>,
    rows: usize,
    bytes: usize,
    file: SerializedFileWriter<Vec<u8>>,
}

impl Writer {
    pub fn new(columns: &[Column]) -> anyhow::Result<Self> {
        let lines: Vec<_> = columns.iter().map(|column| column.kind.parquet(&column.name)).collect();
        let schema = parse_message_type(&format!("message audit_logs {{ {} }}", lines.join(" ")))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(6)?))
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by(concat!("audit-keeper version ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        Ok(Self {
            columns: columns.to_vec(),
            values: columns.iter().map(|_| Values::default()).collect(),
            rows: 0,
            bytes: 0,
            file: SerializedFileWriter::new(vec![], Arc::new(schema), Arc::new(properties))?,
        })
    }

    /// `bytes`: how many the row takes in memory.
    pub fn push(&mut self, row: Row, bytes: usize) -> anyhow::Result<()> {
        ensure!(row.len() == self.columns.len(), "the server sends another number of columns");
        for ((column, values), field) in self.columns.iter().zip(&mut self.values).zip(row) {
            values.push(column.kind, field).with_context(|| format!("column {}", column.name))?;
        }
        self.rows += 1;
        self.bytes += bytes;
        if self.rows == ROWS_OF_GROUP || self.bytes >= BYTES_OF_GROUP { self.end_group() } else { Ok(()) }
    }

    fn end_group(&mut self) -> anyhow::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for (column, values) in self.columns.iter().zip(&mut self.values) {
            let mut chunk = group.next_column()?.context("a column too many")?;
            let levels = Some(values.definitions.as_slice());
            let repetitions = (column.kind == Kind::Texts).then_some(values.repetitions.as_slice());
            match chunk.untyped() {
                ColumnWriter::Int64ColumnWriter(to) => to.write_batch(&values.longs, levels, None)?,
                ColumnWriter::Int32ColumnWriter(to) => to.write_batch(&values.ints, levels, None)?,
                ColumnWriter::BoolColumnWriter(to) => to.write_batch(&values.booleans, levels, None)?,
                ColumnWriter::ByteArrayColumnWriter(to) => to.write_batch(&values.texts, levels, repetitions)?,
                _ => bail!("column {} has no such type", column.name),
            };
            chunk.close()?;
            values.clear();
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// What is ready of the file, and was not taken yet.
    pub fn take(&mut self) -> Vec<u8> {
        take(self.file.inner_mut())
    }

    /// The rest of the file.
    pub fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.end_group()?;
        self.file.finish()?;
        Ok(self.take())
    }
}

/// Reads a file in its order. `each` is given some rows, and how many bytes they take.
pub fn read<R: ChunkReader + 'static>(
    file: R,
    columns: &[Column],
    mut each: impl FnMut(Vec<Row>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = SerializedFileReader::new(file)?;
    let found = file.metadata().file_metadata().schema_descr_ptr();
    let names: Vec<_> = found.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    ensure!(
        names.iter().eq(columns.iter().map(|column| &column.name)),
        "the file has other columns than its manifest tells"
    );
    for number in 0..file.num_row_groups() {
        let group = file.get_row_group(number)?;
        let mut readers = (0..columns.len()).map(|at| group.get_column_reader(at)).collect::<Result<Vec<_>, _>>()?;
        let mut left = usize::try_from(group.metadata().num_rows())?;
        while left > 0 {
            let count = left.min(ROWS_AT_ONCE);
            let mut fields = Vec::with_capacity(columns.len());
            for (column, reader) in columns.iter().zip(&mut readers) {
                let values = part(reader, column.kind, count).with_context(|| format!("column {}", column.name))?;
                fields.push(Fields::of(column.kind, values));
            }
            let rows = (0..count).map(|_| fields.iter_mut().map(Fields::next).collect::<Result<Row, _>>());
            each(rows.collect::<Result<_, _>>()?)?;
            left -= count;
        }
    }
    Ok(())
}

fn part(reader: &mut ColumnReader, kind: Kind, count: usize) -> anyhow::Result<Values> {
    fn fill<T: DataType>(
        reader: &mut ColumnReaderImpl<T>,
        levels: (&mut Vec<i16>, &mut Vec<i16>),
        values: &mut Vec<T::T>,
        is_list: bool,
        count: usize,
    ) -> anyhow::Result<()> {
        let repetitions = is_list.then_some(levels.1);
        let (records, ..) = reader.read_records(count, Some(levels.0), repetitions, values)?;
        ensure!(records == count, "the file breaks off");
        Ok(())
    }
    let mut found = Values::default();
    let levels = (&mut found.definitions, &mut found.repetitions);
    match reader {
        ColumnReader::Int64ColumnReader(from) => fill(from, levels, &mut found.longs, false, count)?,
        ColumnReader::Int32ColumnReader(from) => fill(from, levels, &mut found.ints, false, count)?,
        ColumnReader::BoolColumnReader(from) => fill(from, levels, &mut found.booleans, false, count)?,
        ColumnReader::ByteArrayColumnReader(from) => {
            fill(from, levels, &mut found.texts, kind == Kind::Texts, count)?;
        }
        _ => bail!("the file has another type"),
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Writer, read};
    use crate::column::{Column, Kind};
    use crate::copy::Row;
    use bytes::Bytes;

    fn columns() -> Vec<Column> {
        [("id", Kind::Bigint), ("record_id", Kind::Text), ("new_values", Kind::Jsonb), ("attested", Kind::Boolean)]
            .map(|(name, kind)| Column { name: name.to_owned(), kind })
            .to_vec()
    }

    fn row(number: i64) -> Row {
        vec![
            Some(Bytes::copy_from_slice(&number.to_be_bytes())),
            (number % 3 != 0).then(|| Bytes::from(format!("record {number}"))),
            Some(Bytes::from(format!("\u{1}{{\"id\": {number}}}"))),
            (number % 2 == 0).then(|| Bytes::from_static(b"\x01")),
        ]
    }

    fn file_of(count: i64) -> anyhow::Result<Bytes> {
        let (mut writer, mut bytes) = (Writer::new(&columns())?, vec![]);
        for number in 0..count {
            writer.push(row(number), 400)?;
            bytes.extend(writer.take());
        }
        bytes.extend(writer.finish()?);
        Ok(bytes.into())
    }

    #[test]
    fn rows_come_back_in_their_order() -> anyhow::Result<()> {
        for count in [0, 1, 1024, 90_000] {
            let mut found = vec![];
            read(file_of(count)?, &columns(), |rows| {
                found.extend(rows);
                Ok(())
            })?;
            assert!(found.iter().cloned().eq((0..count).map(row)), "{count}");
        }
        Ok(())
    }

    #[test]
    fn a_file_of_other_columns_is_refused() -> anyhow::Result<()> {
        assert!(read(file_of(1)?, &columns()[1..], |_| Ok(())).is_err());
        Ok(())
    }
}
