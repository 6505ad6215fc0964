//! Lists of any length: read page by page, printed as they come.

use serde::Serialize;

use super::args::Page;
use super::output::{JsonArray, Output, note};
use super::table::{Cell, TextTable};

/// Records read at once.
const PAGE: usize = 500;

/// Where in a list the next page begins, and how much of it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pages<Id> {
    /// The last id of the page before.
    pub before: Option<Id>,
    remaining: usize,
}

impl<Id: Copy> Pages<Id> {
    /// At the beginning of what `page` asks for.
    #[must_use]
    pub(super) fn new(before: Option<Id>, limit: Option<usize>) -> Self {
        Self { before, remaining: limit.unwrap_or(usize::MAX) }
    }

    /// How many records to read next. 0: all that was asked for is there.
    #[must_use]
    pub(super) fn want(&self) -> usize {
        PAGE.min(self.remaining)
    }

    /// A page was read: `count` records, the last one with this id. Whether the list goes on.
    pub(super) fn advance(&mut self, count: usize, last: Option<Id>) -> bool {
        let whole = count >= self.want();
        self.remaining = self.remaining.saturating_sub(count);
        self.before = last.or(self.before);
        whole && last.is_some()
    }
}

impl<Id: std::str::FromStr<Err: std::error::Error + Send + Sync> + Copy + Send + Sync + 'static> From<Page<Id>>
    for Pages<Id>
{
    fn from(page: Page<Id>) -> Self {
        Self::new(page.after, page.limit)
    }
}

/// A list on its way to standard output.
#[derive(Debug)]
pub(super) struct Listing<const N: usize> {
    output: Output,
    form: ListFormat<N>,
    empty: bool,
}

#[derive(Debug)]
enum ListFormat<const N: usize> {
    Json(JsonArray),
    Text(TextTable<N>),
}

impl<const N: usize> Listing<N> {
    /// Nothing is printed yet.
    #[must_use]
    pub(super) fn new(output: Output, headings: [&'static str; N]) -> Self {
        let form = if output.json {
            ListFormat::Json(JsonArray::new(output))
        } else {
            ListFormat::Text(TextTable::new(headings, output.colour))
        };
        Self { output, form, empty: true }
    }

    /// Prints some records.
    ///
    /// # Errors
    /// When they cannot be printed.
    pub(super) fn extend<R, V: Serialize>(
        &mut self,
        records: &[R],
        view: impl Fn(&R) -> V,
        row: impl Fn(&R) -> [Cell; N],
    ) -> anyhow::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.empty = false;
        match &mut self.form {
            ListFormat::Json(array) => array.extend(records.iter().map(view)),
            ListFormat::Text(table) => Ok(self.output.text(&table.page(records.iter().map(row).collect()))?),
        }
    }

    /// Prints the end, and for a person what an empty list means or where it goes on.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub(super) fn end(self, when_empty: &str, more_after: Option<impl std::fmt::Display>) -> anyhow::Result<()> {
        match self.form {
            ListFormat::Json(array) => Ok(array.end()?),
            ListFormat::Text(_) => {
                if self.empty {
                    note(when_empty);
                }
                if let Some(last) = more_after {
                    note(format_args!("more records follow: --after {last}"));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a list of `length` records with descending ids, and returns what was read.
    fn read(length: usize, after: Option<usize>, limit: Option<usize>) -> Vec<usize> {
        let (mut pages, mut read) = (Pages::new(after, limit), Vec::new());
        loop {
            let begin = pages.before.unwrap_or(length);
            let page: Vec<usize> = (0..begin).rev().take(pages.want()).collect();
            let more = pages.advance(page.len(), page.last().copied());
            read.extend(page);
            if !more {
                return read;
            }
        }
    }

    #[test]
    fn every_record_is_read_once() {
        for length in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            assert_eq!(read(length, None, None), (0..length).rev().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_limit_and_a_cursor_cut_the_list() {
        assert_eq!(read(10, None, Some(3)), [9, 8, 7]);
        assert_eq!(read(10, Some(7), Some(3)), [6, 5, 4]);
        assert_eq!(read(10, Some(2), Some(3)), [1, 0]);
        assert_eq!(read(10, Some(0), None), Vec::<usize>::new());
        assert_eq!(read(3 * PAGE, None, Some(PAGE + 1)).len(), PAGE + 1);
        assert_eq!(read(3 * PAGE, None, Some(2 * PAGE)).len(), 2 * PAGE);
    }
}
