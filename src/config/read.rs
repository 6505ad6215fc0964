//! Reading what was written: what is found fault with is noted, with its place, and reading goes on.

use std::cell::RefCell;

use super::problem::{Problem, shown_name};
use super::raw::{Node, Place, TomlTable, Value, join};
use super::reason::Reason;
use super::visit::{Form, Text, Visitor};

/// One table as it was written, or the lack of it.
#[derive(Clone)]
pub(super) struct Section<'a> {
    problems: &'a RefCell<Vec<Problem>>,
    place: Option<&'a Place>,
    table: Option<&'a TomlTable>,
    path: String,
}

impl<'a> Section<'a> {
    /// The whole configuration. Problems are noted there.
    pub(super) fn root(table: &'a TomlTable, problems: &'a RefCell<Vec<Problem>>) -> Self {
        Self { problems, place: None, table: Some(table), path: String::new() }
    }

    /// Whether it was written at all.
    pub(super) fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the key was written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Whether nothing was found wrong with the key's value: what cannot be read is not compared with anything.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let path = self.path(key);
        let is_of_key =
            |other: &str| other.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        !self.problems.borrow().iter().any(|problem| is_of_key(&problem.key))
    }

    fn node(&self, key: &str) -> Option<&'a Node> {
        self.table?.get(key)
    }

    /// Where the key's value was written, or else the section.
    pub(super) fn place(&self, key: &str) -> Option<&'a Place> {
        self.node(key).map(|node| &node.place).or(self.place)
    }

    /// The full path of a key of this section.
    fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes a problem with a key's value, or its lack.
    pub(super) fn problem(&self, key: &str, reason: Reason) {
        self.note(match self.node(key) {
            Some(node) => Problem::of_value(node, &self.path(key), reason),
            None => Problem::at(self.place, &self.path(key), reason),
        });
    }

    /// Notes a problem with the section as a whole.
    pub(super) fn problem_here(&self, reason: Reason) {
        self.note(Problem::at(self.place, &self.path, reason));
    }

    fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// A table of this one.
    pub(super) fn section(&self, key: &str) -> Self {
        self.inner(self.node(key), self.path(key))
    }

    /// The tables of a list, if that is what was written.
    pub(super) fn sections(&self, key: &str) -> Option<Vec<Self>> {
        let Value::List(items) = &self.node(key)?.value else { return None };
        let section = |(at, item)| self.inner(Some(item), format!("{}[{at}]", self.path(key)));
        Some(items.iter().enumerate().map(section).collect())
    }

    fn inner(&self, node: Option<&'a Node>, path: String) -> Self {
        let table = node.and_then(|node| if let Value::Table(table) = &node.value { Some(table) } else { None });
        Self { problems: self.problems, place: node.map(|node| &node.key_place).or(self.place), table, path }
    }

    /// Notes that something else than a table was written there.
    fn check_is_table(&self, node: Option<&Node>) {
        if let Some(node) = node.filter(|_| !self.is_written()) {
            self.note(Problem::of_value(node, &self.path, Reason::NotTable));
        }
    }
}

/// A value as it was written.
pub(super) struct Written<'a> {
    pub(super) node: &'a Node,
    path: String,
    problems: &'a RefCell<Vec<Problem>>,
}

impl<'a> Written<'a> {
    /// Notes what is wrong with it.
    pub(super) fn refuse<T>(&self, reason: Reason) -> Option<T> {
        self.problems.borrow_mut().push(Problem::of_value(self.node, &self.path, reason));
        None
    }

    pub(super) fn item<'b>(&'b self, at: usize, node: &'b Node) -> Written<'b> {
        Written { node, path: format!("{}[{at}]", self.path), problems: self.problems }
    }
}

/// Puts what was written in the place of the defaults.
pub(super) struct Reader<'a> {
    section: Section<'a>,
    /// Whether it is what is in effect. Else it is what was written in one place, which need not be complete.
    is_in_effect: bool,
}

impl<'a> Reader<'a> {
    /// Of what is in effect.
    pub(super) fn in_effect(root: Section<'a>) -> Self {
        Self { section: root, is_in_effect: true }
    }

    /// Of what was written in one place: each value is judged, and what belongs to one list.
    pub(super) fn of_place(root: Section<'a>) -> Self {
        Self { section: root, is_in_effect: false }
    }

    fn within(&self, section: Section<'a>) -> Self {
        Self { section, is_in_effect: self.is_in_effect }
    }

    fn written(&self, key: &str) -> Option<Written<'a>> {
        let Section { problems, .. } = self.section;
        Some(Written { node: self.section.node(key)?, path: self.section.path(key), problems })
    }
}

impl Visitor for Reader<'_> {
    fn value<T>(&mut self, key: &'static str, form: &impl Form<T>, value: &mut T) {
        if let Some(read) = self.written(key).and_then(|written| form.read(&written)) {
            *value = read;
        }
    }

    fn section(&mut self, key: &'static str, walk: impl FnOnce(&mut Self)) {
        let section = self.section.section(key);
        section.check_is_table(self.section.node(key));
        walk(&mut self.within(section));
    }

    fn sections<T: Default>(&mut self, key: &'static str, items: &mut Vec<T>, walk: impl Fn(&mut T, &mut Self)) {
        let Some(node) = self.section.node(key) else { return };
        let Some(sections) = self.section.sections(key) else {
            return match node.value {
                Value::Table(_) if !node.is_outside() => {
                    self.section.problem(key, Reason::Several(self.section.path(key)));
                }
                _ => self.section.problem(key, Reason::NotTables),
            };
        };
        let Value::List(nodes) = &node.value else { return };
        items.clear();
        for (section, node) in sections.into_iter().zip(nodes) {
            section.check_is_table(Some(node));
            let mut item = T::default();
            walk(&mut item, &mut self.within(section));
            items.push(item);
        }
    }

    fn map<K, V>(&mut self, key: &'static str, (name, form): (&Text<K>, &impl Form<V>), entries: &mut Vec<(K, V)>) {
        self.section(key, |Self { section, .. }| {
            for (written_name, node) in section.table.into_iter().flatten() {
                let path = section.path(shown_name(written_name));
                let written = Written { node, path, problems: section.problems };
                match (name.parse)(written_name) {
                    Ok(name) => entries.extend(form.read(&written).map(|value| (name, value))),
                    Err(reason) => drop(written.refuse::<()>(reason)),
                }
            }
        });
    }

    fn check(&mut self, judge: impl FnOnce(&Section<'_>)) {
        if self.is_in_effect {
            judge(&self.section);
        }
    }

    fn check_list(&mut self, judge: impl FnOnce(&Section<'_>)) {
        judge(&self.section);
    }
}
