//! The web page at `/`: files inside the binary, under headers that let a browser load nothing from anywhere else.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

/// Its own scripts, styles and API, and nothing else: no inline script, no frame around it, and no text becomes HTML
/// (trusted types), so that what a model writes cannot act in the page that has the reader's key.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// One file of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: "text/html; charset=utf-8", body: include_str!("../page/page.html") },
    Asset {
        path: "/page/page.css",
        content_type: "text/css; charset=utf-8",
        body: include_str!("../page/page.css"),
    },
    Asset { path: "/page/icon.svg", content_type: "image/svg+xml", body: include_str!("../page/icon.svg") },
    Asset { path: "/page/page.js", content_type: JAVASCRIPT, body: include_str!("../page/page.js") },
    Asset { path: "/page/api.js", content_type: JAVASCRIPT, body: include_str!("../page/api.js") },
    Asset { path: "/page/answer.js", content_type: JAVASCRIPT, body: include_str!("../page/answer.js") },
    Asset { path: "/page/markdown.js", content_type: JAVASCRIPT, body: include_str!("../page/markdown.js") },
];

/// The routes of the page. They need no key: the page asks its reader for one.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let add = |router: Router<S>, asset: &'static Asset| {
        router.route(asset.path, get(async move || respond(asset)))
    };
    ASSETS.iter().fold(Router::new(), add)
}

fn respond(asset: &'static Asset) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, asset.content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // A new build of the server has a new page.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, asset.body)
}
