//! Lines of CSV with a header row (RFC 4180), as spreadsheets and databases write them. A record is one line: no field of
//! a token holds a line break.

use ::csv::{ReaderBuilder, StringRecord, Terminator, Trim};

use super::line::{ImportLine, LineError, RawLine, is_name};
use crate::token::PermissionSet;
use crate::words::words;

words! {
    /// What a column holds.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Column {
        Token = "token",
        Digest = "digest",
        User = "user",
        Description = "description",
        Permissions = "permissions",
        ExpiresAt = "expires_at",
    }
}

/// The first row of a file of CSV: what its columns hold, and what is between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CsvHeader {
    delimiter: u8,
    columns: Vec<Column>,
}

impl CsvHeader {
    /// The header that a line is; `None` if it names no column that there is, and so is something else.
    ///
    /// # Errors
    /// [`LineError::UnknownColumn`] and [`LineError::Columns`], without which no line below could be read.
    pub(super) fn read(line: &str) -> Result<Option<Self>, LineError> {
        // Where the comma is the decimal point, spreadsheets write semicolons.
        let delimiter = line.bytes().find(|byte| b",;\t".contains(byte)).unwrap_or(b',');
        let Ok(names) = cells(line, delimiter) else { return Ok(None) };
        let column = |name: &str| Column::from_name(&name.to_ascii_lowercase());
        if !names.iter().any(|name| column(name).is_some()) {
            return Ok(None);
        }
        let known = |(at, name): (usize, &str)| {
            column(name).ok_or_else(|| LineError::UnknownColumn(at + 1, is_name(name).then(|| name.to_owned())))
        };
        let columns = names.iter().enumerate().map(known).collect::<Result<Vec<_>, _>>()?;
        let count = |wanted: &[Column]| columns.iter().filter(|column| wanted.contains(column)).count();
        for (needed, wanted) in [("`user`", Column::User), ("`description`", Column::Description)] {
            if count(&[wanted]) != 1 {
                return Err(LineError::Columns(needed));
            }
        }
        if count(&[Column::Token, Column::Digest]) == 0 || Column::ALL.iter().any(|column| count(&[*column]) > 1) {
            return Err(LineError::Columns("`token` or `digest`, and every other column"));
        }
        Ok(Some(Self { delimiter, columns }))
    }

    /// Reads one line below; `otherwise` are the permissions of a line that gives none. An empty field is one that is
    /// not given.
    ///
    /// # Errors
    /// As [`parse_line`](super::parse_line).
    pub(super) fn parse_line(
        &self,
        text: &str,
        otherwise: Option<PermissionSet>,
    ) -> Result<Box<ImportLine>, LineError> {
        let cells = cells(text, self.delimiter)?;
        if cells.len() != self.columns.len() {
            return Err(LineError::Cells(self.columns.len(), cells.len()));
        }
        let mut line = RawLine::default();
        for (column, cell) in self.columns.iter().zip(&cells).filter(|(_, cell)| !cell.is_empty()) {
            match column {
                Column::Token => line.token = Some(cell.parse()),
                Column::Digest => {
                    line.digest = Some(cell.parse().map_err(|error| LineError::Field(format!("{error}")))?);
                }
                Column::User => cell.clone_into(&mut line.user),
                Column::Description => cell.clone_into(&mut line.description),
                Column::Permissions => line.permissions = Some(words_of(cell)),
                Column::ExpiresAt => line.expires_at = Some(cell.to_owned()),
            }
        }
        line.read(otherwise)
    }
}

/// The fields of a line, without the blanks around them.
fn cells(line: &str, delimiter: u8) -> Result<StringRecord, LineError> {
    if line.bytes().filter(|byte| *byte == b'"').count() % 2 == 1 {
        return Err(LineError::OpenQuote);
    }
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .trim(Trim::All)
        .delimiter(delimiter)
        // All of it: what would follow the end of a record would be lost.
        .terminator(Terminator::Any(b'\n'))
        .buffer_capacity(line.len().max(1))
        .from_reader(line.as_bytes());
    let mut cells = StringRecord::new();
    reader.read_record(&mut cells).map_err(|_| LineError::NotUtf8)?;
    Ok(cells)
}

/// What is between blanks, commas, semicolons and bars.
fn words_of(cell: &str) -> Vec<String> {
    let is_between = |symbol: char| symbol.is_whitespace() || ",;|".contains(symbol);
    cell.split(is_between).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
