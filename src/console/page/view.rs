//! A view of the list of tokens: what it is narrowed to, in which order, and which part of it. All of that is its address.

use super::filter::{CONDITIONS, Chip, Filter};
use super::form::Form;
use super::trouble::Trouble;
use super::when::grouped;
use crate::registry::{Listed, Mark, Part, Sort, SortKey};

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
    pub(super) part: Part,
}

/// Where a page is in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// `26–50 of 1,204`
    pub(super) text: String,
    /// The query of the page before, if there is one.
    pub(super) previous: Option<String>,
    /// The query of the page after.
    pub(super) next: Option<String>,
}

/// The first page, where it has to be said.
const FIRST: &str = "first";

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
    /// For an order that is none, and for a place that is none in it.
    pub(super) fn of(form: &Form) -> Result<Self, Trouble> {
        let sort = match form.text("sort") {
            Some(text) => parse(text).ok_or_else(|| Trouble::invalid("there is no such order of tokens"))?,
            None => Sort::default(),
        };
        let none = || Trouble::invalid("there is no such page");
        let mark = |text: &str| Mark::parse(text, sort.by).ok_or_else(none);
        let part = match (form.text("after"), form.text("before")) {
            (None, None) | (Some(FIRST), None) => Part::First,
            (Some(after), None) => Part::After(mark(after)?),
            (None, Some(before)) => Part::Before(mark(before)?),
            (Some(_), Some(_)) => return Err(none()),
        };
        Ok(Self { filter: Filter::of(form), sort, part })
    }

    /// What may be in an address.
    pub(super) fn names() -> Vec<&'static str> {
        CONDITIONS.into_iter().chain(["sort", "after", "before"]).collect()
    }

    /// For an address: empty, or beginning with `?`. What goes without saying is left out.
    pub(super) fn query_string(&self) -> String {
        let sort = (self.sort != Sort::default()).then(|| ("sort", written(self.sort)));
        let part = (self.part != Part::First).then(|| self.part());
        self.filter.query_with(sort.into_iter().chain(part))
    }

    /// For hidden fields: the part is always among them, by which a form that the list sent is known.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let sort = (self.sort != Sort::default()).then(|| ("sort", written(self.sort)));
        self.filter.pairs().iter().cloned().chain(sort).chain([self.part()]).collect()
    }

    fn part(&self) -> (&'static str, String) {
        match &self.part {
            Part::First => ("after", FIRST.to_owned()),
            Part::After(mark) => ("after", mark.to_string()),
            Part::Before(mark) => ("before", mark.to_string()),
        }
    }

    /// The same list from its beginning, narrowed to something else.
    pub(super) fn narrowed(&self, filter: Filter) -> Self {
        Self { filter, part: Part::First, ..self.clone() }
    }

    /// Where the page is.
    pub(super) fn place(&self, Listed { tokens, total, skipped, ends }: &Listed) -> Place {
        let at = |part| Self { part, ..self.clone() }.query_string();
        let number = |number: usize| grouped(number as u64);
        let (first, last) = ends.clone().map(|[first, last]| (first, last)).unzip();
        let range = match tokens.len() {
            1 => number(skipped + 1),
            rows => format!("{}–{}", number(skipped + 1), number(skipped + rows)),
        };
        Place {
            text: format!("{range} of {}", number(*total)),
            // What comes before the second page is the first, whatever was made meanwhile.
            previous: first
                .filter(|_| *skipped > 0)
                .map(|first| at(if *skipped <= ROWS { Part::First } else { Part::Before(first) })),
            next: last.filter(|_| skipped + ROWS < *total).map(|last| at(Part::After(last))),
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
        let query = Self { sort, part: Part::First, ..self.clone() }.query_string();
        let sorted = own.map(|is_descending| if is_descending { "descending" } else { "ascending" });
        Column { name, query: Some(query), sorted }
    }
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
        let addresses = [
            "",
            "?text=a&sort=-last-used&after=0000000000007.2026-11-27T08%3A00%3A00Z",
            "?sort=created",
            "?user=max&before=0000000000007",
            "?sort=description&after=0000000000007.plant+7%5Cn.",
        ];
        for query in addresses {
            assert_eq!(view(query.trim_start_matches('?')).query_string(), query);
        }
        assert_eq!(view("sort=-created&after=first").query_string(), "", "what goes without saying");
        let fields = view("text=a&sort=owner").fields();
        assert_eq!(fields, [("text", "a".to_owned()), ("sort", "owner".to_owned()), ("after", FIRST.to_owned())]);
        for query in [
            "sort=size",
            "sort=--created",
            "after=2",
            "sort=owner&after=0000000000007",
            "after=0000000000007&before=0000000000007",
        ] {
            assert!(View::of(&Form::parse(query.as_bytes())).is_err(), "{query}");
        }
        for (order, name) in ORDERS {
            assert_eq!(view(&format!("sort={order}")).order(), name);
        }
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        let mark = |id: &str| Mark::parse(id, SortKey::Created).expect("a mark");
        let ends = || Some([mark("0000000000009"), mark("0000000000007")]);
        let place =
            |skipped, total| view("user=max").place(&Listed { tokens: Vec::new(), total, skipped, ends: ends() });
        let (first, second, third) = (place(0, 1204), place(25, 1204), place(50, 75));
        assert_eq!((first.previous, first.next.as_deref()), (None, Some("?user=max&after=0000000000007")));
        assert_eq!(second.previous.as_deref(), Some("?user=max"));
        assert_eq!((third.previous.as_deref(), third.next), (Some("?user=max&before=0000000000009"), None));
        assert!(second.text.ends_with("of 1,204"), "{}", second.text);
    }

    #[test]
    fn a_column_sorts_and_is_turned_round() {
        let of = |view: &View, name| view.columns().into_iter().find(|column| column.name == name).expect("a column");
        let used = of(&view("text=a&after=0000000000007"), "Last used");
        assert_eq!((used.query.as_deref(), used.sorted), (Some("?text=a&sort=-last-used"), None));
        let used = of(&view("sort=-last-used"), "Last used");
        assert_eq!((used.query.as_deref(), used.sorted), (Some("?sort=last-used"), Some("descending")));
        assert_eq!(of(&view(""), "Created").query.as_deref(), Some("?sort=created"));
    }
}
