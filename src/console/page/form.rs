//! What a browser sends from a form: names and texts, some of them several times.

use zeroize::Zeroizing;

use super::trouble::Trouble;
use crate::token::Digest;

/// A form that was sent. Wiped when it is dropped: it may hold the value of a token.
#[derive(Default)]
pub(super) struct Form(Vec<(String, Zeroizing<String>)>);

impl Form {
    /// As it is encoded in a body, or in a query.
    pub(super) fn parse(encoded: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(encoded);
        Self(pairs.map(|(name, text)| (name.into_owned(), Zeroizing::new(text.into_owned()))).collect())
    }

    /// What was given under a name. An empty field is one that was left out.
    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// All that was given under a name.
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(other, _)| other == name);
        named.map(|(_, text)| text.trim()).filter(|text| !text.is_empty())
    }

    /// Whether a box was ticked.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.text(name).is_some()
    }

    /// What tells it from every other form for the same.
    pub(super) fn digest(&self, act: &str) -> Digest {
        let parts = self.0.iter().flat_map(|(name, text)| [name.as_str(), text.as_str()]);
        let text = [act].into_iter().chain(parts).fold(Zeroizing::new(String::new()), |mut text, part| {
            text.push_str(&format!("{}:", part.len()));
            text.push_str(part);
            text
        });
        Digest::of(text.as_bytes())
    }

    /// What is there is known: a condition that is not understood must not be one that is left out.
    ///
    /// # Errors
    /// For a name that is none of these.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), Trouble> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(Trouble::invalid(format!("there is no “{name}” here; nothing was done")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_come_several_times_and_empty_ones_are_left_out() {
        let form = Form::parse(b"id=a&id=b&text=+&user=x%20y");
        assert_eq!(form.all("id").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((form.text("text"), form.text("user"), form.has("text")), (None, Some("x y"), false));
        assert!(form.check(&["id", "text", "user"]).is_ok() && form.check(&["id", "text"]).is_err());
    }
}
