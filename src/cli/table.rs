//! Aligned columns, written page by page: no more rows than one page are held at a time.

use std::fmt::Write as _;

/// Longest text a cell of a table shows; what is longer is cut and ends in `…`. The last column is never cut.
const MAX_CELL: usize = 48;

/// What a cell's text means; only a terminal shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be: green.
    Good,
    /// Worth a look: yellow.
    Warn,
    /// Out of use: red.
    Bad,
    /// Headings and labels: bold.
    Strong,
}

impl Tone {
    /// The text in this tone (ANSI SGR), or as it is.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Strong => "1",
            Self::Plain => return text.to_owned(),
        };
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn toned(text: &str, tone: Tone) -> Self {
        Self { text: printable(text), tone }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(&text, Tone::Plain)
    }
}

/// A table whose columns grow with their contents.
#[derive(Debug)]
pub(super) struct TextTable<const N: usize> {
    headings: Option<[&'static str; N]>,
    widths: [usize; N],
    colour: bool,
}

impl<const N: usize> TextTable<N> {
    pub(super) fn new(headings: [&'static str; N], colour: bool) -> Self {
        Self { headings: Some(headings), widths: headings.map(width), colour }
    }

    /// The lines of these rows, below the headings when they are the first. Columns are as wide as their widest cell so
    /// far, so a later page may be wider than an earlier one.
    pub(super) fn page(&mut self, mut rows: Vec<[Cell; N]>) -> String {
        for row in &mut rows {
            for cell in row.iter_mut().rev().skip(1) {
                cut(&mut cell.text);
            }
            for (column, cell) in self.widths.iter_mut().zip(row) {
                *column = width(&cell.text).max(*column);
            }
        }
        let mut lines = String::new();
        if let Some(headings) = self.headings.take() {
            self.line(&mut lines, &headings.map(|heading| Cell::toned(heading, Tone::Strong)));
        }
        rows.iter().for_each(|row| self.line(&mut lines, row));
        lines
    }

    fn line(&self, lines: &mut String, row: &[Cell; N]) {
        let mut pending = 0; // spaces that are owed only if another text follows
        for (cell, column) in row.iter().zip(self.widths) {
            if !cell.text.is_empty() {
                lines.extend(std::iter::repeat_n(' ', pending));
                lines.push_str(&cell.tone.paint(&cell.text, self.colour));
                pending = 0;
            }
            pending += column - width(&cell.text) + 2;
        }
        lines.push('\n');
    }
}

/// Labels and values, one pair a line.
pub(super) fn details(pairs: &[(&str, Cell)], colour: bool) -> String {
    let column = pairs.iter().map(|(label, _)| width(label)).max().unwrap_or(0);
    let mut lines = String::new();
    for (label, cell) in pairs {
        let padding = column - width(label);
        let label = Tone::Strong.paint(label, colour);
        let value = cell.tone.paint(&cell.text, colour);
        // Writing to a String does not fail.
        if writeln!(lines, "{label}{:padding$}  {value}", "").is_err() {
            break;
        }
    }
    lines
}

/// The text without what could move the cursor, recolour the terminal or reverse the reading direction: a description
/// was written by someone else than its reader.
pub(super) fn printable(text: &str) -> String {
    let is_harmful = |symbol: char| {
        symbol.is_control()
            || matches!(symbol, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|symbol| if is_harmful(symbol) { '\u{fffd}' } else { symbol }).collect()
}

fn cut(text: &mut String) {
    if width(text) > MAX_CELL {
        *text = text.chars().take(MAX_CELL - 1).chain(['…']).collect();
    }
}

/// Characters, which is columns for all but wide and combining ones.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_trailing_spaces() {
        let mut table = TextTable::new(["ID", "NAME", "NOTE"], false);
        let rows = vec![["1".into(), "anna".into(), "".into()], ["22".into(), "é".into(), "x".into()]];
        assert_eq!(table.page(rows), "ID  NAME  NOTE\n1   anna\n22  é     x\n");
        assert_eq!(table.page(vec![["3".into(), "".into(), "y".into()]]), "3         y\n", "no second headings");
    }

    #[test]
    fn only_terminals_get_colour() {
        let row = || vec![[Cell::toned("active", Tone::Good)]];
        assert_eq!(TextTable::new(["STATE"], false).page(row()), "STATE\nactive\n");
        assert_eq!(TextTable::new(["STATE"], true).page(row()), "\x1b[1mSTATE\x1b[0m\n\x1b[32mactive\x1b[0m\n");
    }

    #[test]
    fn long_cells_are_cut_except_in_the_last_column() {
        let text = "é".repeat(100);
        let lines = TextTable::new(["A", "B"], false).page(vec![[text.as_str().into(), text.as_str().into()]]);
        let row = lines.lines().nth(1).expect("a row");
        assert_eq!(row, format!("{}…  {text}", "é".repeat(MAX_CELL - 1)));
    }

    #[test]
    fn texts_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n\u{202e}c\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c\u{fffd}");
        assert_eq!(printable("Zürich, 北京 №7"), "Zürich, 北京 №7");
    }

    #[test]
    fn details_align_their_values() {
        assert_eq!(details(&[("id", "1".into()), ("user", "anna".into())], false), "id    1\nuser  anna\n");
    }
}
