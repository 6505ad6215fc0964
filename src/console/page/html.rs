//! What all pages have in common, and how they become replies.

use askama::Template;
use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};

use super::assets;
use super::session::Notice;
use super::visitor::Visitor;
use crate::token::{Action, Resource, Role};

/// The parts of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Tokens,
    Users,
    Fleet,
    Audit,
    /// None that the navigation has.
    Elsewhere,
}

impl Section {
    /// The one that a path of the console is part of.
    pub(super) fn of(path: &str) -> Self {
        match path.split('/').nth(1) {
            Some("tokens") => Self::Tokens,
            Some("users" | "add-user") => Self::Users,
            Some("fleet") => Self::Fleet,
            Some("audit") => Self::Audit,
            _ => Self::Elsewhere,
        }
    }
}

/// Who is signed in, as every page shows it.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) name: String,
    pub(super) role: Role,
    /// Parts that the navigation leads to.
    sections: Vec<Section>,
}

impl Who {
    pub(super) fn of(visitor: &Visitor) -> Self {
        let sections = [
            (Section::Tokens, Resource::Tokens),
            (Section::Users, Resource::Users),
            (Section::Fleet, Resource::Settings),
            (Section::Audit, Resource::AuditLogs),
        ];
        let seen = sections.into_iter().filter(|(_, resource)| visitor.may(*resource, Action::Read));
        Self {
            name: visitor.holder.owner.name().to_owned(),
            role: visitor.holder.role,
            sections: seen.map(|(section, _)| section).collect(),
        }
    }
}

/// What every page has around it.
#[derive(Debug, Clone)]
pub(super) struct Shell {
    /// The path before the console's own.
    pub(super) base: String,
    pub(super) title: String,
    pub(super) here: Section,
    /// `None`: nobody is signed in.
    pub(super) who: Option<Who>,
    /// For forms.
    pub(super) csrf: String,
    /// What marks the forms of this very page, so that each is done once.
    pub(super) once: String,
    pub(super) notices: Vec<Notice>,
}

impl Shell {
    /// Of a page for whoever asks.
    pub(super) fn bare(base: impl Into<String>) -> Self {
        Self {
            base: base.into(),
            title: "Tollgate".to_owned(),
            here: Section::Elsewhere,
            who: None,
            csrf: String::new(),
            once: String::new(),
            notices: Vec::new(),
        }
    }

    /// What marks this very version of an asset, so that browsers may keep it.
    pub(super) fn mark(&self, name: &str) -> String {
        assets::mark(name)
    }

    /// Where one goes on from what is said instead of a page: path and name.
    pub(super) fn way_on(&self) -> (&'static str, &'static str) {
        let here = self.navigation().into_iter().find(|(.., is_here)| *is_here);
        here.map_or(("/tokens", "API Tokens"), |(path, name, ..)| (path, name))
    }

    /// Where the navigation leads: path, name, icon, and whether it is here.
    pub(super) fn navigation(&self) -> Vec<(&'static str, &'static str, &'static str, bool)> {
        let sections = self.who.iter().flat_map(|who| who.sections.iter().copied());
        let entry = |section| match section {
            Section::Tokens | Section::Elsewhere => ("/tokens", "API Tokens", "key"),
            Section::Users => ("/users", "Users", "users"),
            Section::Fleet => ("/fleet", "Sidecars", "server"),
            Section::Audit => ("/audit", "Audit trail", "list"),
        };
        let entry = |section| {
            let (path, name, icon) = entry(section);
            (path, name, icon, section == self.here)
        };
        sections.map(entry).collect()
    }
}

/// What is said instead of a page.
#[derive(Template)]
#[template(path = "trouble.html")]
pub(super) struct TroublePage<'a> {
    pub(super) shell: Shell,
    pub(super) title: &'a str,
    pub(super) detail: &'a str,
    /// It may be there by now.
    pub(super) is_again: bool,
    /// There is no console to go to.
    pub(super) is_off: bool,
}

/// A template as a reply.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => whole(status, text),
        Err(error) => failed(&error),
    }
}

/// What is said instead of a page that cannot be rendered.
pub(super) fn failed(error: &askama::Error) -> Response {
    tracing::error!(%error, "cannot render a page of the console");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be shown; the log says why")
}

/// The text of a page as a reply.
pub(super) fn whole(status: StatusCode, text: String) -> Response {
    reply(status, "text/html; charset=utf-8", text)
}

/// A page that was asked for.
pub(super) fn page(page: &impl Template) -> Response {
    render(StatusCode::OK, page)
}

/// A few words.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response {
    reply(status, "text/plain; charset=utf-8", text.to_owned())
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Response {
    let mut reply = Response::new(Body::from(text));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// Leads to another page of ours.
pub(super) fn see_other(path: &str) -> Response {
    let mut reply = plain(StatusCode::SEE_OTHER, "");
    // What is no header value is no path of ours.
    let path = HeaderValue::try_from(path).unwrap_or(HeaderValue::from_static("/"));
    reply.headers_mut().insert(LOCATION, path);
    reply
}
