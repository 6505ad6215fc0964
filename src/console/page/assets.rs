//! The one stylesheet, the one script and the icons, all of them in the program.

use axum::body::Body;
use axum::extract::Path;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

use super::html;
use crate::hex::Hex;

/// Name, kind, and what is in it.
const ASSETS: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("assets/console.js")),
    ("icons.svg", "image/svg+xml", include_str!("assets/icons.svg")),
];

/// What its address has in it, so that another version has another address.
pub(super) fn mark(name: &str) -> String {
    let found = ASSETS.iter().find(|(other, ..)| *other == name);
    let text = found.map_or("", |(.., text)| *text);
    Hex(&Sha256::digest(text.as_bytes())[..6]).to_string()
}

/// Serves one of them, to anybody.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let Some((_, kind, text)) = ASSETS.iter().find(|(other, ..)| *other == name) else {
        return html::plain(StatusCode::NOT_FOUND, "there is no such asset");
    };
    let mut reply = Response::new(Body::from(*text));
    let fields = reply.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for (name, _, text) in ASSETS {
            let namespaces = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!namespaces.contains("://") && !namespaces.contains("@import"), "{name}");
            assert_eq!(mark(name).len(), 12);
        }
        assert_ne!(mark("style.css"), mark("console.js"));
    }
}
