//! What is answered instead of a page that was asked for.

use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{Method, StatusCode};

use super::html::{self, Shell};
use super::when::counted;
use crate::console::api::problem::Problem;
use crate::proxy::refusal::Refusal;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// A request that was refused or failed.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    pub(super) detail: String,
    /// Whether the same page may be there in a moment.
    is_again: bool,
}

impl Trouble {
    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), is_again: false }
    }

    /// The request is wrong. What is repeated of it has no value of a token.
    pub(super) fn invalid(detail: impl AsRef<str>) -> Self {
        Problem::invalid(detail).into()
    }

    /// There is no such page.
    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such page", "Nothing is at this address.")
    }

    /// There is no page either, but something that forms are sent to.
    pub(super) fn form_only() -> Self {
        let detail = "A form is sent to this address, and there is nothing to see at it. Nothing was done.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "There is no page here", detail)
    }

    /// What was confirmed is not what is there.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Nothing was done", detail)
    }

    /// Nothing was chosen to do it to.
    pub(super) fn unchosen() -> Self {
        let detail = "Select at least one token first, by the boxes at the left of the list.";
        Self::new(StatusCode::BAD_REQUEST, "No token is selected", detail)
    }

    /// The session's token asks too often.
    pub(super) fn too_often(seconds: u64) -> Self {
        let detail = format!(
            "The token that you are signed in with asks more often than it may. Nothing was done. Wait {}, then try again.",
            counted(seconds, "second")
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests", detail)
    }

    /// Has what will pass asked for again, where a page was asked for: a form is sent again from its own page.
    pub(super) fn asked_by(mut self, method: &Method) -> Self {
        let passes = matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        self.is_again = passes && *method == Method::GET;
        self
    }

    /// There is no console here.
    pub(super) fn off(reason: &str) -> Self {
        // A sentence of its own, below a heading.
        let reason = reason.replacen("the console", "The console", 1) + ".";
        Self::new(StatusCode::NOT_IMPLEMENTED, "The console is off here", reason)
    }

    /// The session may not do it.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "You may not do this", detail)
    }

    /// It was not sent by a page of ours.
    pub(super) fn foreign(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "This form was not taken", detail)
    }

    /// With what every page has around it.
    pub(super) fn within(self, shell: Shell) -> Response {
        let is_off = self.status == StatusCode::NOT_IMPLEMENTED;
        let Self { title, detail, is_again, .. } = &self;
        let page = html::TroublePage { shell, title, detail, is_again: *is_again, is_off };
        let mut reply = html::render(self.status, &page);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("5"));
        }
        reply
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        let (status, title, detail) = problem.told();
        let title = if status == StatusCode::BAD_REQUEST { "This was not understood" } else { title };
        Self::new(status, title, detail)
    }
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Store(error) => error.into(),
            error => Problem::from(error).into(),
        }
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        let mut trouble = Self::from(Problem::from(refusal));
        if trouble.status == StatusCode::SERVICE_UNAVAILABLE {
            trouble.detail =
                "Whether your token is still valid is not known here until the store can be reached again. \
                              You stay signed in."
                    .to_owned();
        }
        trouble
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let is_away = matches!(error, StoreError::Unavailable { .. });
        let mut trouble = Self::from(Problem::from(error));
        if is_away {
            // Where the store is, and how it is asked, is for whoever reads the log.
            trouble.detail =
                "The store of tokens and users does not answer; the log says why. Nothing was done.".to_owned();
        }
        trouble
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        self.within(Shell::bare(""))
    }
}
