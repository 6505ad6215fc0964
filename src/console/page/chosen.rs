//! Tokens that somebody chose to do something to: the set that was shown, and no other.

use jiff::Timestamp;

use super::filter::Filter;
use super::form::Form;
use super::trouble::Trouble;
use super::view::View;
use super::visitor::Visitor;
use crate::registry::{Actor, Fingerprint};
use crate::token::TokenId;

/// How tokens were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// One by one.
    These(Vec<TokenId>),
    /// All that match.
    All(Filter),
    /// What a bulk has left when it broke off, as this process keeps it for the session: more than a form can name.
    Rest(Fingerprint),
}

/// More tokens than these are no longer named one by one in a form.
const MOST_NAMED: usize = 1000;

/// The set that it comes to now.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) choice: Choice,
    pub(super) ids: Vec<TokenId>,
    /// The list in which they were chosen; `None`: it is one token, on a page of its own.
    pub(super) view: Option<View>,
}

impl Choice {
    /// As a form says it.
    ///
    /// # Errors
    /// For none at all, and for a filter that says nothing: it would mean every token.
    pub(super) fn of(form: &Form) -> Result<Self, Trouble> {
        if let Some(rest) = form.text("rest") {
            let none = |_| Trouble::invalid("there is no such selection; nothing was done");
            return rest.parse().map(Self::Rest).map_err(none);
        }
        if form.has("all") {
            let filter = Filter::of(form);
            return match filter.is_empty() {
                true => Err(Trouble::invalid("a filter that says nothing means every token; nothing was done")),
                false => Ok(Self::All(filter)),
            };
        }
        let unknown = |_| Trouble::invalid("there is no such token; nothing was done");
        let mut ids = form.all("id").map(str::parse).collect::<Result<Vec<TokenId>, _>>().map_err(unknown)?;
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(id.to_u64()));
        ids.dedup();
        match ids.is_empty() {
            true => Err(Trouble::unchosen()),
            false => Ok(Self::These(ids)),
        }
    }

    /// What is left of a selection.
    pub(super) fn rest(visitor: &Visitor, ids: Vec<TokenId>) -> Self {
        if ids.len() <= MOST_NAMED {
            return Self::These(ids);
        }
        let fingerprint = Fingerprint::of(&ids);
        visitor.console.sessions.keep(&visitor.key, ids);
        Self::Rest(fingerprint)
    }

    /// Those that it names.
    pub(super) fn named(&self) -> &[TokenId] {
        match self {
            Self::These(ids) => ids,
            Self::All(_) | Self::Rest(_) => &[],
        }
    }

    /// The list in which a form chose.
    ///
    /// # Errors
    /// As for [`View::of`].
    pub(super) fn view(form: &Form) -> Result<Option<View>, Trouble> {
        (form.has("after") || form.has("before") || form.has("all")).then(|| View::of(form)).transpose()
    }

    /// The tokens that it means now.
    ///
    /// # Errors
    /// When the store fails, and when there are none.
    pub(super) async fn look(self, visitor: &Visitor, actor: &Actor, view: Option<View>) -> Result<Chosen, Trouble> {
        let ids = match &self {
            Self::These(ids) => ids.clone(),
            Self::All(filter) => visitor.registry.select(actor, &filter.query(Timestamp::now())?).await?,
            Self::Rest(of) => {
                let kept = visitor.console.sessions.kept(&visitor.key);
                if Fingerprint::of(&kept) == *of { kept } else { Vec::new() }
            }
        };
        match ids.is_empty() {
            true => Err(Trouble::conflict("No token matches any more.")),
            false => Ok(Chosen { choice: self, ids, view }),
        }
    }
}

impl Chosen {
    /// What makes this set another one than any other.
    pub(super) fn fingerprint(&self) -> String {
        Fingerprint::of(&self.ids).to_string()
    }

    /// Fields by which the same is chosen again.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = self.view.as_ref().map(View::fields).unwrap_or_default();
        match &self.choice {
            Choice::These(ids) => fields.extend(ids.iter().map(|id| ("id", id.to_string()))),
            // Of the list that it is chosen from.
            Choice::All(_) => fields.push(("all", "1".to_owned())),
            Choice::Rest(fingerprint) => fields.push(("rest", fingerprint.to_string())),
        }
        fields
    }

    /// Whether this is what somebody has seen and confirmed.
    ///
    /// # Errors
    /// When it is another set by now.
    pub(super) fn check_seen(&self, form: &Form) -> Result<(), Trouble> {
        let seen = form.text("fingerprint").and_then(|text| text.parse::<Fingerprint>().ok());
        match seen == Some(Fingerprint::of(&self.ids)) {
            true => Ok(()),
            false => Err(Trouble::conflict(
                "These are other tokens by now than those you have seen. Go back to the list, and look again.",
            )),
        }
    }

    /// Where one goes on afterwards: to the list as it was.
    pub(super) fn list(&self) -> String {
        format!("/tokens{}", self.view.as_ref().map(View::query_string).unwrap_or_default())
    }

    /// The one token, where it was chosen on a page of its own.
    pub(super) fn alone(&self) -> Option<TokenId> {
        match self.ids[..] {
            [id] if self.view.is_none() => Some(id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(form: &str) -> Result<Choice, Trouble> {
        Choice::of(&Form::parse(form.as_bytes()))
    }

    #[test]
    fn nothing_chosen_is_never_everything() {
        assert!(choice("").is_err());
        assert!(choice("all=1").is_err());
        assert!(choice("all=1&text=").is_err());
        assert!(choice("id=nonsense").is_err());
        assert!(matches!(choice("all=1&state=active"), Ok(Choice::All(_))));
        let id = TokenId::from_u64(7);
        assert_eq!(choice(&format!("id={id}&id={id}")).expect("good"), Choice::These(vec![id]));
    }
}
