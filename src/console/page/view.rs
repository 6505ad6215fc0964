//! A view of the list of tokens: what it is narrowed to, in which order, and which part of it. All of that is its address.

use super::filter::{CONDITIONS, Chip, Filter};
use super::form::Form;
use super::trouble::Trouble;
use super::when::grouped;
use crate::registry::{Sort, SortKey};

/// Rows of a page.
pub(super) const ROWS: usize = 25;

/// Orders as people choose them, with how an address has them: `-` is for those that begin with the largest.
const ORDERS: [(&str, &str); 10] = [
    ("-created", "Newest first"),
    ("created", "Oldest first"),
    ("-last-used", "Latest used first"),
    ("last-used", "Longest unused first"),
    ("expires", "Next to expire first"),
    ("-expires", "Last to expire first"),
    ("description", "Description, A to Z"),
    ("-description", "Description, Z to A"),
    ("owner", "Owner, A to Z"),
    ("-owner", "Owner, Z to A"),
];

/// What is shown of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) filter: Filter,
    pub(super) sort: Sort,
    /// Pages before it.
    pub(super) skipped: usize,
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// The query of the list sorted by it; `None`: it cannot be.
    pub(super) query: Option<String>,
    /// How the list is sorted by it, in the words of ARIA.
    pub(super) sorted: Option<&'static str>,
}

impl View {
    /// As an address has it, or a form.
    ///
    /// # Errors
    /// For an order that is none, and for a page that is none.
    pub(super) fn of(form: &Form) -> Result<Self, Trouble> {
        let sort = match form.text("sort") {
            Some(text) => parse(text).ok_or_else(|| Trouble::invalid("there is no such order of tokens"))?,
            None => Sort::default(),
        };
        let page = form.text("page").map_or(Some(1), |page| page.parse::<usize>().ok());
        let skipped = page.and_then(|page| page.checked_sub(1)).filter(|skipped| *skipped < usize::MAX / ROWS);
        let skipped = skipped.ok_or_else(|| Trouble::invalid("there is no such page"))?;
        Ok(Self { filter: Filter::of(form), sort, skipped })
    }

    /// What may be in an address.
    pub(super) fn names() -> Vec<&'static str> {
        CONDITIONS.into_iter().chain(["sort", "page"]).collect()
    }

    /// For an address: empty, or beginning with `?`. What goes without saying is left out.
    pub(super) fn query_string(&self) -> String {
        let sort = (self.sort != Sort::default()).then(|| ("sort", written(self.sort)));
        let page = (self.skipped > 0).then(|| ("page", (self.skipped + 1).to_string()));
        self.filter.query_with(sort.into_iter().chain(page))
    }

    /// For hidden fields: the page is always among them, by which a form that the list sent is known.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let sort = (self.sort != Sort::default()).then(|| ("sort", written(self.sort)));
        let page = ("page", (self.skipped + 1).to_string());
        self.filter.pairs().iter().cloned().chain(sort).chain([page]).collect()
    }

    /// The same list from its beginning, narrowed to something else.
    pub(super) fn narrowed(&self, filter: Filter) -> Self {
        Self { filter, skipped: 0, ..self.clone() }
    }

    fn at(&self, skipped: usize) -> String {
        Self { skipped, ..self.clone() }.query_string()
    }

    /// The query of the page before.
    pub(super) fn previous(&self) -> Option<String> {
        self.skipped.checked_sub(1).map(|skipped| self.at(skipped))
    }

    /// The query of the page after, if a list of this length has one.
    pub(super) fn next(&self, total: usize) -> Option<String> {
        (self.skipped < last(total)).then(|| self.at(self.skipped + 1))
    }

    /// The last page, where this one is past the end of a list of this length.
    pub(super) fn within(&self, total: usize) -> Option<Self> {
        (self.skipped > last(total)).then(|| Self { skipped: last(total), ..self.clone() })
    }

    /// `26–50 of 1,204`
    pub(super) fn place(&self, rows: usize, total: usize) -> String {
        let first = self.skipped * ROWS + 1;
        let number = |number: usize| grouped(number as u64);
        match rows {
            1 => format!("{} of {}", number(first), number(total)),
            _ => format!("{}–{} of {}", number(first), number(first + rows.saturating_sub(1)), number(total)),
        }
    }

    /// Its conditions, each with the list without it.
    pub(super) fn chips(&self) -> Vec<Chip> {
        self.filter.chips(|others| self.narrowed(others).query_string())
    }

    /// The list without any condition.
    pub(super) fn cleared(&self) -> String {
        self.narrowed(Filter::default()).query_string()
    }

    /// What it can be sorted by: how an address has it, how people call it, and whether it is so.
    pub(super) fn orders(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        let own = written(self.sort);
        ORDERS.into_iter().map(move |(order, name)| (order, name, order == own))
    }

    /// The order in words.
    pub(super) fn order(&self) -> &'static str {
        self.orders().find(|(.., is_own)| *is_own).map_or("", |(_, name, _)| name)
    }

    /// The heads of the table.
    pub(super) fn columns(&self) -> [Column; 7] {
        let unsorted = |name| Column { name, query: None, sorted: None };
        [
            self.column("Description", SortKey::Description, false),
            self.column("Owner", SortKey::Owner, false),
            unsorted("Permissions"),
            unsorted("Status"),
            self.column("Last used", SortKey::LastUsed, true),
            self.column("Expires", SortKey::Expires, false),
            self.column("Created", SortKey::Created, true),
        ]
    }

    /// Chosen again, it is turned round.
    fn column(&self, name: &'static str, by: SortKey, is_descending: bool) -> Column {
        let own = Some(self.sort.is_descending).filter(|_| self.sort.by == by);
        let sort = Sort { by, is_descending: own.map_or(is_descending, |is_descending| !is_descending) };
        let query = Self { sort, skipped: 0, ..self.clone() }.query_string();
        let sorted = own.map(|is_descending| if is_descending { "descending" } else { "ascending" });
        Column { name, query: Some(query), sorted }
    }
}

/// How many pages are before the last one.
const fn last(total: usize) -> usize {
    total.saturating_sub(1) / ROWS
}

fn parse(text: &str) -> Option<Sort> {
    let (is_descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
    SortKey::from_name(name).map(|by| Sort { by, is_descending })
}

fn written(sort: Sort) -> String {
    format!("{}{}", if sort.is_descending { "-" } else { "" }, sort.by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(query: &str) -> View {
        View::of(&Form::parse(query.as_bytes())).expect("a view")
    }

    #[test]
    fn a_view_is_its_address() {
        for query in ["", "?text=a&sort=-last-used&page=3", "?sort=created", "?user=max&page=2"] {
            assert_eq!(view(query.trim_start_matches('?')).query_string(), query);
        }
        assert_eq!(view("sort=-created&page=1").query_string(), "", "what goes without saying");
        let fields = view("text=a&sort=owner").fields();
        assert_eq!(fields, [("text", "a".to_owned()), ("sort", "owner".to_owned()), ("page", "1".to_owned())]);
        for query in ["sort=size", "sort=--created", "page=0", "page=-1", "page=18446744073709551615"] {
            assert!(View::of(&Form::parse(query.as_bytes())).is_err(), "{query}");
        }
        for (order, name) in ORDERS {
            assert_eq!(view(&format!("sort={order}")).order(), name);
        }
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        let second = view("sort=owner&page=2");
        assert_eq!(second.previous().as_deref(), Some("?sort=owner"));
        assert_eq!(second.next(51).as_deref(), Some("?sort=owner&page=3"));
        assert_eq!((second.next(50), view("").previous()), (None, None));
        assert_eq!(second.within(25), Some(view("sort=owner")));
        assert_eq!((second.within(26), view("").within(0)), (None, None));
        assert_eq!(second.place(25, 1204), "26–50 of 1,204");
        assert_eq!(second.place(1, 26), "26 of 26");
    }

    #[test]
    fn a_column_sorts_and_is_turned_round() {
        let of = |view: &View, name| view.columns().into_iter().find(|column| column.name == name).expect("a column");
        let used = of(&view("text=a&page=4"), "Last used");
        assert_eq!((used.query.as_deref(), used.sorted), (Some("?text=a&sort=-last-used"), None));
        let used = of(&view("sort=-last-used"), "Last used");
        assert_eq!((used.query.as_deref(), used.sorted), (Some("?sort=last-used"), Some("descending")));
        assert_eq!(of(&view(""), "Created").query.as_deref(), Some("?sort=created"));
    }
}
