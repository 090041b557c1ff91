//! The web page: there without a key, with all its files, under headers that shut everything else out.

use cachalot::serve::{ServerOptions, ServiceOptions};

use crate::support::{TestServer, options};

#[test]
fn the_page_and_its_files_need_no_key() {
    let locked = ServerOptions { api_keys: vec!["sesame".to_owned()], ..options() };
    let server = TestServer::with(locked, ServiceOptions::default());
    for (path, kind, has) in [
        ("/", "text/html", "<title>cachalot</title>"),
        ("/page/page.css", "text/css", "prefers-color-scheme"),
        ("/page/page.js", "text/javascript", "from \"./answer.js\""),
        ("/page/answer.js", "text/javascript", "from \"./markdown.js\""),
        ("/page/markdown.js", "text/javascript", "export class MarkdownView"),
        ("/page/api.js", "text/javascript", "v1/chat/completions"),
        ("/page/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.body.contains(has), "{path} is not itself");
        assert!(reply.header("content-type").unwrap().starts_with(kind), "{path}");
        assert!(
            reply.header("content-security-policy").unwrap().starts_with("default-src 'none'; "),
            "{path}"
        );
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    assert_eq!(server.get("/page/page.html").status, 404);
}
