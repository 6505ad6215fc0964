//! Which tokens a list shows, as its address says it: so that a view can be kept, sent and gone back to.

use std::time::Duration;

use jiff::Timestamp;

use super::form::Form;
use super::trouble::Trouble;
use crate::registry::{ListState, TokenQuery, Unused, holds_token};
use crate::token::{Permission, PermissionSet};

/// Names in an address that narrow the list, in the order in which they are written.
pub(super) const CONDITIONS: [&str; 6] = ["text", "state", "user", "permission", "unused", "expires"];

/// What a list of tokens is narrowed to. As it is written, so that it comes back the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter(Vec<(&'static str, String)>);

/// A condition that can be taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chip {
    pub(super) label: String,
    /// The query of the list without it.
    pub(super) without: String,
}

impl Filter {
    /// As it is in a form or in an address; what is empty is left out.
    pub(super) fn of(form: &Form) -> Self {
        let given = |name: &&'static str| form.text(name).map(|text| (*name, text.to_owned()));
        Self(CONDITIONS.iter().filter_map(given).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is asked for under a name.
    pub(super) fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| *other == name).map_or("", |(_, text)| text.as_str())
    }

    /// Names and texts, for hidden fields.
    pub(super) fn pairs(&self) -> &[(&'static str, String)] {
        &self.0
    }

    /// For an address, with what else that has: empty, or beginning with `?`.
    pub(super) fn query_with(&self, more: impl IntoIterator<Item = (&'static str, String)>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.0.iter().map(|(name, text)| (*name, text)));
        query.extend_pairs(more);
        let query = query.finish();
        if query.is_empty() { query } else { format!("?{query}") }
    }

    /// Its conditions for people, each with the query of the list that has only the others.
    pub(super) fn chips(&self, query: impl Fn(Self) -> String) -> Vec<Chip> {
        let chip = |(place, (name, text)): (usize, &(&'static str, String))| {
            let mut others = self.clone();
            others.0.remove(place);
            Chip { label: label(name, text), without: query(others) }
        };
        self.0.iter().enumerate().map(chip).collect()
    }

    /// As the registry takes it.
    ///
    /// # Errors
    /// For a condition that is none.
    pub(super) fn query(&self, now: Timestamp) -> Result<TokenQuery, Trouble> {
        let mut query = TokenQuery::default();
        for (name, text) in &self.0 {
            // Browsers and servers keep addresses: what is in one is known to others.
            if holds_token(text) {
                return Err(Trouble::invalid(
                    "That may be the value of a token, which is put into no address. Search by its last six characters, or \
                     paste the whole value into the search box.",
                ));
            }
            let unknown = || Trouble::invalid(format!("“{}” is no {name} to filter by", shortened(text)));
            match *name {
                "text" if text.chars().count() > 200 => return Err(unknown()),
                "text" => query.text = Some(text.clone()),
                "state" => query.state = Some(ListState::from_name(text).ok_or_else(unknown)?),
                "user" => query.user = Some(text.clone()),
                "permission" => query.permission = Some(text.parse::<Permission>().map_err(|_| unknown())?),
                "unused" if text == "ever" => query.unused = Some(Unused::Ever),
                "unused" => query.unused = Some(Unused::Since(now - days(text).ok_or_else(unknown)?)),
                _ => query.expires_before = Some(now + days(text).ok_or_else(unknown)?),
            }
        }
        Ok(query)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `30d`
fn days(text: &str) -> Option<Duration> {
    let days: u64 = text.strip_suffix('d')?.parse().ok()?;
    (1..=3650).contains(&days).then(|| Duration::from_hours(24 * days))
}

fn label(name: &str, text: &str) -> String {
    match (name, text) {
        ("text", text) => format!("“{text}”"),
        ("state", state) => format!("Status: {state}"),
        ("user", user) => format!("Owner: {user}"),
        ("permission", permission) => format!("Permits {permission}"),
        ("unused", "ever") => "Never used".to_owned(),
        ("unused", days) => format!("Unused for {}", in_words(days)),
        (_, days) => format!("Expires within {}", in_words(days)),
    }
}

fn in_words(days: &str) -> String {
    format!("{} days", days.trim_end_matches('d'))
}

/// What can be chosen for a permission.
pub(super) fn permissions() -> Vec<String> {
    PermissionSet::all().iter().map(|permission| permission.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &str) -> Filter {
        Filter::of(&Form::parse(query.as_bytes()))
    }

    #[test]
    fn a_view_is_its_address() {
        let view = filter("user=max&text=plant+7&state=active&permission=&other=1");
        assert_eq!(view.query_with([]), "?text=plant+7&state=active&user=max");
        assert_eq!(filter("").query_with([]), "");
        let chips = view.chips(|others| others.query_with([]));
        assert_eq!(
            chips.iter().map(|chip| chip.label.as_str()).collect::<Vec<_>>(),
            ["“plant 7”", "Status: active", "Owner: max"]
        );
        assert_eq!(chips[1].without, "?text=plant+7&user=max");
    }

    #[test]
    fn what_is_no_condition_is_refused_and_a_token_not_repeated() {
        let now = Timestamp::UNIX_EPOCH;
        for query in ["state=gone", "permission=configs", "unused=x", "unused=0d", "expires=99999999d"] {
            assert!(filter(query).query(now).is_err(), "{query}");
        }
        let trouble = filter("text=a%20tc-apiv1_0123456789").query(now).expect_err("refused");
        assert!(!trouble.detail.contains("0123"), "{trouble:?}");
        let query = filter("unused=ever&expires=30d").query(now).expect("good");
        assert_eq!(query.unused, Some(Unused::Ever));
        assert_eq!(query.expires_before, Some(now + Duration::from_hours(720)));
    }
}
