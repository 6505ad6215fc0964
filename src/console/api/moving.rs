//! `/api/v1/tokens/import` and `/export`: many tokens on their way from one registry to another, as lines.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Deserializer};
use utoipa::IntoParams;

use super::input::{Query, Wait, is_of, read_within};
use super::problem::{Problem, Problems, for_programs};
use super::reply;
use super::tokens::{MAX_PAGE, limit, with_next};
use crate::console::Console;
use crate::console::caller::{Caller, TokensRead, TokensWrite};
use crate::console::change::Done;
use crate::registry::export::LeftOut;
use crate::registry::import::{Lines, ReadError, read_lines};
use crate::registry::view::ImportView;
use crate::registry::{ExportPage, ImportError, ImportOptions, Imported, Registry};
use crate::token::{Permission, PermissionSet, TokenId};

/// Most bytes of an import, and most lines: twenty commits.
const MAX_IMPORT: usize = 4 * 1024 * 1024;
const MAX_LINES: usize = 10_000;

/// Longest wait for the body of an import.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Imports at once: each holds its body and what its lines say.
pub(in crate::console) const IMPORTS: usize = 2;

/// As what an import may come. Which of the two it is, its first line tells.
const LINES: &[&str] = &["application/x-ndjson", "application/jsonl", "application/json-lines", "text/csv"];

/// How tokens are imported.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// Wait so many seconds, `60s` at most, until every sidecar has applied it: the reply says who has.
    #[param(value_type = Option<String>, example = "5s", pattern = "^([1-9]|[1-5][0-9]|60)s$")]
    wait: Option<Wait>,
    /// Leave tokens that exist as they are, so that the same import can be sent again.
    #[serde(default)]
    skip_existing: bool,
    /// Leave out lines that cannot be imported, and import the others.
    #[serde(default)]
    keep_going: bool,
    /// The permissions of all lines that give none, with commas in between. Without it, such lines are bad.
    #[serde(default, deserialize_with = "permissions")]
    #[param(value_type = Option<String>, example = "configs:read,heartbeat:write", pattern = "^[a-z-]+:[a-z]+(,[a-z-]+:[a-z]+)*$")]
    permissions: Option<PermissionSet>,
}

fn permissions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PermissionSet>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let named = text.split(',').map(str::parse::<Permission>).collect::<Result<PermissionSet, _>>();
    named.map(Some).map_err(serde::de::Error::custom)
}

/// Imports tokens from JSON lines or CSV, as `tollgate token import` does: 4 MiB and 10,000 lines at most. All of them, or none
/// and why not, by line. No line makes a token that can do more than the calling one, or lives longer.
#[utoipa::path(
    post, path = "/api/v1/tokens/import", tag = "tokens", operation_id = "import_tokens", params(ImportQuery),
    request_body(
        description = "One JSON object a line, or CSV with a header", content((String = "application/x-ndjson"), (String = "text/csv")),
    ),
    responses(
        (status = 200, description = "What was done. With `keep_going`, `refused` names the lines that were left out", body = Done<ImportView>),
        Problems,
    ),
)]
pub(super) async fn import(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Query(ImportQuery { wait, skip_existing, keep_going, permissions }): Query<ImportQuery>,
    request: Request,
) -> Result<Response, Problem> {
    if !is_of(request.headers(), LINES) {
        return Err(Problem::not_lines());
    }
    let Ok(_place) = console.imports.try_acquire() else {
        return Err(Problem::too_many(Duration::from_secs(1), "two other imports are under way"));
    };
    let body = read_within(request.into_body(), MAX_IMPORT, IMPORT_TIMEOUT).await?;
    let lines = parse(body, permissions).await?;
    let count = lines.count();
    let Lines { good, bad } = lines;
    if !bad.is_empty() && !keep_going {
        return Err(Problem::lines(count, view(&Imported { refused: bad, ..Imported::default() })));
    }
    let (actor, options) = (caller.actor(), ImportOptions { keep_going, skip_existing });
    let command = async move |registry: Registry| registry.import(&actor, good, options).await;
    match console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await {
        Ok(mut done) => {
            done.done.refused.extend(bad);
            done.done.refused.sort_by_key(|refused| refused.line);
            Ok(reply::json(StatusCode::OK, &done.map(|imported| view(&imported))))
        }
        Err(ImportError::Refused { refused, lines }) => {
            Err(Problem::lines(lines, view(&Imported { refused, ..Imported::default() })))
        }
        Err(ImportError::Interrupted { imported, error }) => Err(Problem::from(error).of_import(view(&imported))),
        Err(ImportError::Registry(error)) => Err(error.into()),
    }
}

/// Reads the lines where nobody waits for it: ten thousand digests take their time.
async fn parse(body: bytes::Bytes, otherwise: Option<PermissionSet>) -> Result<Lines, Problem> {
    let read = tokio::task::spawn_blocking(move || read_lines(&mut &*body, otherwise, MAX_LINES)).await;
    match read {
        Ok(Ok(lines)) => Ok(lines),
        Ok(Err(error @ ReadError::TooMany(_))) => Err(Problem::too_many_lines(error.to_string())),
        Ok(Err(error)) => Err(Problem::invalid(error.to_string())),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What was done, with reasons for programs.
fn view(imported: &Imported) -> ImportView {
    let mut view = ImportView::from(imported);
    view.refused.iter_mut().for_each(|refused| refused.reason = for_programs(&refused.reason));
    view
}

/// Which tokens are exported.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// Every token, also those that do not work, with its id, state, history and usage.
    #[serde(default)]
    full: bool,
    /// Start after this id, the last one of the page before.
    #[param(inline)]
    after: Option<TokenId>,
    /// Most tokens of the page: 1000, unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The revision of the store at a page. Pages of one revision are of one moment.
const REVISION: HeaderName = HeaderName::from_static("tollgate-revision");

/// What is not in a page: how many tokens, since they do not work, and how many have permissions that this version does not know.
const LEFT_OUT: HeaderName = HeaderName::from_static("tollgate-left-out");

/// Exports tokens as the JSON lines that `import` takes, a page at a time. They have the tokens' digests, so this needs a token that
/// permits `tokens:read`, `tokens:write` and `tokens:delete`, of the Owner or an Administrator; the list of tokens is without.
#[utoipa::path(
    get, path = "/api/v1/tokens/export", tag = "tokens", operation_id = "export_tokens", params(ExportQuery),
    responses(
        (
            status = 200, description = "The page; `Link` with `rel=\"next\"` leads to the next one", body = String,
            content_type = "application/x-ndjson",
            headers(
                ("Tollgate-Revision" = u64, description = "The store's revision: where it differs between pages, they are of different moments"),
                ("Tollgate-Left-Out" = String, description = "`tokens=N, permissions=N`: tokens of this page that do not work, and those with permissions that only a newer version knows"),
            ),
        ),
        Problems,
    ),
)]
pub(super) async fn export(
    caller: Caller<TokensRead>,
    State(console): State<Arc<Console>>,
    uri: http::Uri,
    Query(ExportQuery { full, after, limit: most }): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let limit = limit(Some(most.unwrap_or(MAX_PAGE)))?;
    let page = caller.registry.export_page(&caller.actor(), full, after, limit).await?;
    let ExportPage { lines, next, left_out: LeftOut { tokens, permissions } } = page;
    // Read after the page: what it shows is no later than that.
    let revision = caller.registry.store().position().await?.revision.0;
    let mut text = String::new();
    for line in &lines {
        // Of our own types, none of which fails by itself.
        text.push_str(&serde_json::to_string(line).unwrap_or_default());
        text.push('\n');
    }
    let mut reply = Response::new(Body::from(text));
    let fields = reply.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    fields.insert(REVISION, revision.into());
    let left_out = HeaderValue::try_from(format!("tokens={tokens}, permissions={permissions}"));
    fields.extend(left_out.ok().map(|left_out| (LEFT_OUT, left_out)));
    Ok(with_next(reply, &console, &uri, next.map(|next| next.to_string())))
}
