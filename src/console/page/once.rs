//! A form is done once. Sent again, by a second click or since no answer arrived, it gets the answer of the first time: the
//! browser shows the last answer only, and without this nobody would ever see a receipt, or the value of a token.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::form::Form;
use super::html::{self, Section};
use super::session::{Notice, SessionKey};
use super::trouble::Trouble;
use super::visitor::Visitor;
use crate::console::Console;
use crate::console::change::to_its_end;
use crate::token::TokenId;

/// How long the page with a value is kept for the same form, unless it is acknowledged before: long enough for a second click
/// and for a connection that broke.
const SHOWN_AGAIN: Duration = Duration::from_secs(30);

/// What came of a form.
pub(super) enum Done {
    /// It is told at the page to which this leads.
    Led { notice: Notice, path: String },
    /// A token is made, and its value is on this page.
    Made { id: TokenId, page: Zeroizing<String> },
    /// Nothing is done. This is answered, and the form may be sent once more.
    Not(Response),
}

/// What came of a form that something came of; held by whoever does it.
pub(super) type Place = Arc<Mutex<Option<Done>>>;

/// A form of a session, which has a mark of its own.
pub(super) struct Sent {
    console: Arc<Console>,
    key: SessionKey,
    place: Place,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done")
    }
}

impl Done {
    /// Forgets the page with the value of this token, or of any.
    pub(super) fn forget_value(&mut self, of: Option<TokenId>) {
        if let Self::Made { id, .. } = self
            && of.is_none_or(|of| of == *id)
        {
            let notice = Notice {
                is_good: false,
                text: "This form was sent before, and has made this token. Its value was in the answer to that, and \
                       cannot be had again."
                    .to_owned(),
                detail: Some("If you have not seen it, rotate the token to get another one, or delete it.".to_owned()),
            };
            *self = Self::Led { notice, path: format!("/tokens/{id}/manage") };
        }
    }
}

impl Sent {
    /// A form without a mark is done as often as it is sent. One that was filled in anew, after going back to a page that the browser
    /// had kept, has the mark of the former, and is another one.
    pub(super) fn of(visitor: &Visitor, act: &str, form: &Form) -> Self {
        let has_mark = form.text("once").is_some_and(|mark| mark.len() == 32);
        let place = has_mark.then(|| visitor.console.sessions.sent(&visitor.key, form.digest(act)));
        let place = place.flatten().unwrap_or_default();
        Self { console: Arc::clone(&visitor.console), key: visitor.key.clone(), place }
    }

    /// Does it, to its end even when the browser's connection breaks; or waits for that, where it is being done.
    pub(super) async fn once(self, act: impl Future<Output = Done> + Send + 'static) -> Response {
        to_its_end(async move {
            let mut done = self.place.lock().await;
            if done.is_none() {
                match act.await {
                    Done::Not(reply) => return reply,
                    outcome => *done = Some(outcome),
                }
                self.forget_later();
            }
            match &*done {
                Some(Done::Led { notice, path }) => {
                    self.console.sessions.tell(&self.key, notice.clone());
                    html::see_other(&self.console.path(path))
                }
                Some(Done::Made { page, .. }) => html::whole(StatusCode::OK, page.to_string()),
                // Not kept.
                Some(Done::Not(_)) | None => html::see_other(&self.console.path("")),
            }
        })
        .await
    }

    fn forget_later(&self) {
        let place = Arc::downgrade(&self.place);
        tokio::spawn(async move {
            tokio::time::sleep(SHOWN_AGAIN).await;
            if let Some(place) = place.upgrade()
                && let Some(done) = &mut *place.lock().await
            {
                done.forget_value(None);
            }
        });
    }
}

impl Visitor {
    /// What was done, or what is said instead.
    pub(super) fn done(&self, here: Section, done: Result<Done, Trouble>) -> Done {
        done.unwrap_or_else(|trouble| Done::Not(self.answer(here, Err(trouble))))
    }
}
