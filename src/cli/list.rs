//! Lists of any length: read page by page, printed as they come.

use jiff::Timestamp;
use serde::Serialize;

use super::args::{Page, PageId};
use super::output::{JsonArray, Output, note};
use super::table::{Cell, TextTable};
use crate::registry::RegistryError;

/// Records read at once.
const PAGE: usize = 500;

/// Where in a list the next page begins, and how much of it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pages<Id> {
    /// The last id of the page before.
    before: Option<Id>,
    remaining: usize,
}

impl<Id: Copy> Pages<Id> {
    /// At the beginning of what `page` asks for.
    fn new(before: Option<Id>, limit: Option<usize>) -> Self {
        Self { before, remaining: limit.unwrap_or(usize::MAX) }
    }

    /// How many records to read next. 0: all that was asked for is there.
    fn want(&self) -> usize {
        PAGE.min(self.remaining)
    }

    /// A page was read: `count` records, the last one with this id. Whether the list goes on.
    fn advance(&mut self, count: usize, last: Option<Id>) -> bool {
        let whole = count >= self.want();
        self.remaining = self.remaining.saturating_sub(count);
        self.before = last.or(self.before);
        whole && last.is_some()
    }
}

/// A record as lists show it, in `N` columns.
pub(super) trait Listed<const N: usize> {
    const HEADINGS: [&'static str; N];
    type Id: PageId;
    type View: Serialize;

    fn id(&self) -> Self::Id;

    /// As programs see it.
    fn view(&self, now: Timestamp) -> Self::View;

    fn row(&self, now: Timestamp) -> [Cell; N];
}

enum ListFormat<const N: usize> {
    Json(JsonArray),
    Text(TextTable<N>),
}

/// Prints what `read` returns for the last id of the page before and the number of records wanted; for a person also what
/// an empty list means, and where it goes on.
///
/// # Errors
/// When the records cannot be read or printed.
pub(super) async fn list<const N: usize, R: Listed<N>>(
    output: Output,
    page: Page<R::Id>,
    when_empty: &str,
    read: impl AsyncFn(Option<R::Id>, usize) -> Result<Vec<R>, RegistryError>,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let mut pages = Pages::new(page.after, page.limit);
    let mut format = match output.json {
        true => ListFormat::Json(JsonArray::new(output)),
        false => ListFormat::Text(TextTable::new(R::HEADINGS, output.colour)),
    };
    let mut more = true;
    let mut is_empty = true;
    while more && pages.want() > 0 {
        let records = read(pages.before, pages.want()).await?;
        more = pages.advance(records.len(), records.last().map(R::id));
        is_empty &= records.is_empty();
        match &mut format {
            _ if records.is_empty() => {}
            ListFormat::Json(array) => array.extend(records.iter().map(|record| record.view(now)))?,
            ListFormat::Text(table) => {
                output.text(&table.page(records.iter().map(|record| record.row(now)).collect()))?;
            }
        }
    }
    match (format, pages.before) {
        (ListFormat::Json(array), _) => array.end()?,
        (ListFormat::Text(_), _) if is_empty => note(when_empty),
        // A full page may have been the last one.
        (ListFormat::Text(_), Some(last)) if more && !read(Some(last), 1).await?.is_empty() => {
            note(format_args!("more records follow: --after {last}"));
        }
        (ListFormat::Text(_), _) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a list of `length` records with descending ids, and returns what was read.
    fn read(length: usize, after: Option<usize>, limit: Option<usize>) -> Vec<usize> {
        let mut pages = Pages::new(after, limit);
        let mut read = Vec::new();
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
