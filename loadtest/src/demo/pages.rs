//! The messaging page: one for every person, its modules and styles under `/page/`. All of it is in the binary.

use axum::Router;
use trunkline_http::files::{self, CSS, File, HTML, JAVASCRIPT, Policy, SVG};

const INDEX: &str = include_str!("../../web/index.html");

/// Everything that may be asked for. Whose page it is stands in the link for people; what opens it stands behind the `#`.
const FILES: &[File] = &[
    ("/ann", HTML, INDEX),
    ("/amir", HTML, INDEX),
    ("/ben", HTML, INDEX),
    ("/bea", HTML, INDEX),
    ("/page/style.css", CSS, include_str!("../../web/style.css")),
    ("/page/icon.svg", SVG, include_str!("../../web/icon.svg")),
    ("/page/app.js", JAVASCRIPT, include_str!("../../web/app.js")),
    ("/page/words.js", JAVASCRIPT, include_str!("../../web/words.js")),
    ("/page/messenger.js", JAVASCRIPT, include_str!("../../web/messenger.js")),
    ("/page/api.js", JAVASCRIPT, include_str!("../../web/api.js")),
    ("/page/vault.js", JAVASCRIPT, include_str!("../../web/vault.js")),
    ("/page/sealed.js", JAVASCRIPT, include_str!("../../web/sealed.js")),
];

/// The page needs nothing beyond its own server: no camera, no sockets, nothing inline.
const POLICY: Policy = Policy {
    directives: "",
    sockets: false,
    permissions: "camera=(), microphone=(), display-capture=(), geolocation=(), payment=(), usb=()",
};

/// Serves the page.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    files::router(FILES, POLICY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::directory::PEOPLE;

    #[test]
    fn everybody_has_a_page() {
        for name in PEOPLE.iter().flat_map(|(_, names)| names) {
            assert!(FILES.iter().any(|(path, _, _)| path.strip_prefix('/') == Some(name)), "{name}");
        }
    }

    #[test]
    fn all_that_the_page_loads_is_served() {
        let loaded = FILES.iter().flat_map(|(_, _, content)| {
            let imports =
                content.split("from './").skip(1).map(|rest| format!("/page/{}", until_quote(rest, '\'')));
            let linked =
                content.split("=\"/page/").skip(1).map(|rest| format!("/page/{}", until_quote(rest, '"')));
            imports.chain(linked)
        });
        let loaded: Vec<_> = loaded.collect();
        assert!(loaded.len() > 8, "{loaded:?}");
        for path in loaded {
            assert!(FILES.iter().any(|(served, _, _)| *served == path), "{path}");
        }
    }

    fn until_quote(text: &str, quote: char) -> &str {
        text.split(quote).next().unwrap_or_default()
    }
}
